"""The rest of ConvNeXt's family: isotropic networks, and maps instead of logits."""
import math
from functools import partial

import pytest
import timm
import torch
from oracles import drawn, gap, images, on_meta, same, shapes

from convnext_nb import convnext, cost, weights


@pytest.mark.parametrize("size, params, gmacs", [
    ("small", 22_308_712, 4.2864), ("base", 87_083_752, 16.8963), ("large", 305_942_504, 59.6992)])
def test_isotropic_cost_and_keys(size, params, gmacs):
    net = on_meta(getattr(convnext, f"convnext_isotropic_{size}"))
    found = cost.count(net)
    assert (found.params, round(found.gmacs, 4)) == (params, gmacs)
    part, depth = (".weight", ".bias"), 36 if size == "large" else 18
    keys = {f"{m}{p}" for m in ("stem", "norm", "head") for p in part}
    keys |= {f"blocks.{i}.{m}{p}" for i in range(depth) for p in part
             for m in ("dwconv", "norm", "pwconv1", "pwconv2")}
    keys |= {f"blocks.{i}.gamma" for i in range(depth) if size == "large"}
    assert set(net.state_dict()) == keys


def plain_isotropic(w, x, depth):
    "Isotropic ConvNeXt from the paper's words: patches, blocks of one width, average, norm, head."
    def norm(x, name):  # over the channels, the second axis
        shape = (1, -1) + (1,) * (x.ndim - 2)
        centred = x - x.mean(1, keepdim=True)
        x = centred / (centred.square().mean(1, keepdim=True) + 1e-6).sqrt()
        return x * w[f"{name}.weight"].view(shape) + w[f"{name}.bias"].view(shape)

    def linear(x, name):
        return (torch.einsum("oc,bchw->bohw", w[f"{name}.weight"], x)
                + w[f"{name}.bias"][:, None, None])

    x = x.unfold(2, 16, 16).unfold(3, 16, 16)  # (B, C, H/16, W/16, 16, 16)
    x = torch.einsum("ocij,bchwij->bohw", w["stem.weight"], x) + w["stem.bias"][:, None, None]
    for i in range(depth):
        y = torch.nn.functional.pad(x, (3,) * 4).unfold(2, 7, 1).unfold(3, 7, 1)
        y = torch.einsum("cij,bchwij->bchw", w[f"blocks.{i}.dwconv.weight"][:, 0], y)
        y = norm(y + w[f"blocks.{i}.dwconv.bias"][:, None, None], f"blocks.{i}.norm")
        y = linear(y, f"blocks.{i}.pwconv1")
        y = y * 0.5 * (1 + torch.erf(y / math.sqrt(2)))
        y = linear(y, f"blocks.{i}.pwconv2")
        x = x + y * w.get(f"blocks.{i}.gamma", torch.ones(1))[:, None, None]
    return norm(x.mean((2, 3)), "norm") @ w["head.weight"].T + w["head.bias"]


@pytest.mark.parametrize("make, depth", [
    (convnext.convnext_isotropic_small, 18),
    (partial(convnext.ConvNeXtIsotropic, 36, 64, layer_scale=1e-6), 36)])  # L, narrow
def test_isotropic_logits_of_a_plain_reference(make, depth):
    net = drawn(make).eval()
    with torch.inference_mode():
        assert gap(net(images(96)), plain_isotropic(net.state_dict(), images(96), depth)) < 1e-5


def test_isotropic_round_trip(tmp_path):
    ours = drawn(partial(convnext.ConvNeXtIsotropic, 2, 16, 10))
    back = drawn(partial(convnext.ConvNeXtIsotropic, 2, 16, 10), seed=1)
    assert weights.load(back, weights.save(ours, tmp_path / "w")) == "authors" and same(back, ours)
    grey = drawn(partial(convnext.ConvNeXtIsotropic, 2, 16, 5, in_chans=1), seed=1)
    with pytest.warns(UserWarning) as said:
        weights.load(grey, ours.state_dict())
    assert len(said) == 2 and torch.equal(
        grey.stem.weight, ours.stem.weight.sum(1, keepdim=True))


@pytest.mark.parametrize("name", ["convnext_atto", "convnext_tiny", "convnextv2_nano"])
def test_features_are_timms(name):
    logits = drawn(getattr(convnext, name)).eval()
    ours = on_meta(getattr(convnext, name), features=True).eval()
    assert shapes(ours.state_dict()) == shapes(logits.state_dict())
    ours.load_state_dict(logits.state_dict(), assign=True)
    theirs = on_meta(timm.create_model, name, features_only=True).eval()
    theirs.load_state_dict({k.replace("stem.", "stem_").replace("stages.", "stages_"): t
                            for k, t in weights.convert(ours, "timm").items()
                            if not k.startswith("head.")}, strict=True, assign=True)
    with torch.inference_mode():
        maps, expected = ours(images(96)), theirs(images(96))
        assert len(maps) == len(expected) == 4
        for i, (a, b) in enumerate(zip(maps, expected)):
            assert a.shape == (2, ours.stages[i][0].dwconv.in_channels, 24 >> i, 24 >> i)
            assert gap(a, b) < 1e-5
        assert torch.equal(ours.head(ours.norm(maps[-1].mean((2, 3)))), logits(images(96)))
