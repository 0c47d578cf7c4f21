"""The rest of ConvNeXt's family: isotropic networks, and maps instead of logits."""
import inspect
import math
from functools import partial

import pytest
import timm
import torch
import transformers
from oracles import drawn, gap, images, on_meta, same, shapes

from convnext_nb import convnext, cost, layers, resnet, roadmap, swin, weights
from convnext_nb.finetune import replace_head


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
        centered = x - x.mean(1, keepdim=True)
        x = centered / (centered.square().mean(1, keepdim=True) + 1e-6).sqrt()
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


# Files without a head, and networks without one

SMALL = dict(
    v1=lambda **kw: convnext.ConvNeXt((1, 1, 2, 1), (8, 8, 8, 8), **kw),
    v2=lambda **kw: convnext.ConvNeXt((1, 1, 2, 1), (8, 8, 8, 8), grn=True, layer_scale=None, **kw),
    resnet=lambda **kw: resnet.ResNet(resnet.BasicBlock, (1, 1, 1, 1), width=8, **kw),
    swin=lambda **kw: swin.Swin((2, 2, 2, 2), 12, (1, 2, 3, 4), **kw),
    isotropic=lambda **kw: convnext.ConvNeXtIsotropic(2, 16, **kw))


def random(kind, seed=0, **kwargs):
    return weights.randomize(SMALL[kind](**{"num_classes": 5} | kwargs), seed)


def without_head(net):
    return replace_head(net, 0)


def body(net):
    return {k: t.clone() for k, t in net.state_dict().items() if not k.startswith(("head.", "fc."))}


def equal(a, b):
    return list(a) == list(b) and all(torch.equal(a[k], b[k]) for k in a)


def head_of(net):
    return (net.fc if hasattr(net, "fc") else net.head).weight.clone()


@pytest.mark.parametrize("kind", SMALL)
def test_a_file_without_head_leaves_the_head_fresh(kind):
    ours = random(kind)
    for library in weights.formats(ours):
        state = weights.convert(without_head(random(kind)), library)
        back = random(kind, 1)
        before = head_of(back)
        with pytest.warns(UserWarning, match="the head is left fresh: the weights have none"):
            weights.load(back, state)
        assert equal(body(back), body(ours)) and torch.equal(head_of(back), before)


@pytest.mark.parametrize("kind", SMALL)
def test_a_network_without_head_takes_a_full_file(kind):
    ours = random(kind)
    for library in weights.formats(ours):
        back = without_head(random(kind, 1))
        with pytest.warns(UserWarning, match=r"not used: 2 \(.*bias, .*weight\)"):
            weights.load(back, weights.convert(ours, library))
        assert equal(body(back), body(ours))
        back = without_head(random(kind, 1))
        weights.load(back, weights.convert(without_head(random(kind)), library))
        assert equal(body(back), body(ours))
    spoiled = weights.convert(ours, library)
    key = next(k for k in spoiled if "layers." in k or k.startswith(("blocks", "stages")))
    spoiled[key] = torch.zeros(3)
    with pytest.raises(ValueError, match="1 shapes differ"):
        weights.load(without_head(random(kind)), spoiled)


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_atto", "resnet18"])
def test_timms_networks_without_head(name):
    make = getattr(resnet if "resnet" in name else convnext, name)
    theirs = timm.create_model(name, num_classes=0)
    back = make(num_classes=7)
    with pytest.warns(UserWarning, match="left fresh"):
        weights.load(back, theirs.state_dict())
    state = weights.convert(back, "timm")
    assert all(torch.equal(state[k], t) for k, t in theirs.state_dict().items())


@pytest.mark.parametrize("kind, ours, theirs", [
    ("v1", "ConvNextConfig", "ConvNextModel"), ("v2", "ConvNextV2Config", "ConvNextV2Model"),
    ("swin", "SwinConfig", "SwinModel")])
def test_hugging_faces_base_models(kind, ours, theirs, tmp_path):
    sizes = dict(depths=[1, 1, 2, 1], hidden_sizes=[8] * 4)
    if kind == "swin": sizes = dict(depths=[2, 2, 2, 2], embed_dim=12, num_heads=[1, 2, 3, 4])
    config = getattr(transformers, ours)(**sizes)
    theirs = weights.randomize(getattr(transformers, theirs)(config))
    theirs.save_pretrained(tmp_path)
    for source in (theirs.state_dict(), tmp_path):
        back = random(kind)
        with pytest.warns(UserWarning, match="left fresh"):
            weights.load(back, source)
        back, x = without_head(back).eval(), images(224)[:1]
        with torch.inference_mode():
            expected = theirs.eval()(x).pooler_output
            assert gap(back(x), expected) < 1e-5


def test_masked_pretraining_of_v2():
    "FCMAE: no head, no last norm, GRN as (1, C), an encoder's name in front, and a decoder."
    ours = random("v2")
    state = {k: t.reshape(1, -1) if ".grn." in k else t for k, t in body(ours).items()
             if not k.startswith("norm.")}
    rest = {"mask_token": torch.zeros(1, 8, 1, 1), "proj.weight": torch.zeros(8, 8, 1, 1),
            "decoder.0.dwconv.weight": torch.zeros(8, 1, 7, 7), "pred.bias": torch.zeros(3)}
    for given in ({**state, **rest}, {f"encoder.{k}": t for k, t in state.items()} | rest):
        back = random("v2", 1)
        norm, head = back.norm.weight.clone(), head_of(back)
        with pytest.warns(UserWarning) as said:
            assert weights.load(back, {"model": given}) == "authors"
        said = [str(w.message) for w in said]
        assert any("the head and the last norm are left fresh" in s for s in said), said
        assert any("not used: 4 (decoder.0.dwconv.weight, mask_token" in s for s in said), said
        assert torch.equal(back.norm.weight, norm) and torch.equal(head_of(back), head)
        back.norm, back.head = ours.norm, ours.head
        assert same(back, ours)


def test_dino_like_files():
    "A second name for the last norm, and a head that projects."
    ours = random("v1")
    state = body(ours) | {"norms.3.weight": ours.norm.weight, "norms.3.bias": ours.norm.bias}
    state = {f"backbone.{k}": t for k, t in state.items()}
    state |= {"head.mlp.0.weight": torch.zeros(4, 8), "head.last_layer.weight": torch.zeros(9, 4)}
    back = random("v1", 1)
    with pytest.warns(UserWarning, match=r"not used: 4 \(backbone.norms.3.bias"):
        weights.load(back, state)
    assert equal(body(back), body(ours))


def test_a_backbone_with_its_classifier_elsewhere():
    "The names of mmpretrain's ResNets."
    ours = random("resnet")
    state = {f"backbone.{k}": t for k, t in body(ours).items()}
    state |= {"head.fc.weight": torch.zeros(9, 64), "head.fc.bias": torch.zeros(9)}
    back = random("resnet", 1)
    with pytest.warns(UserWarning, match=r"not used: 2 \(head.fc.bias, head.fc.weight\)"):
        weights.load(back, {"state_dict": state, "meta": {"epoch": 3}})
    assert equal(body(back), body(ours))


def test_a_deeper_network_without_head_is_no_backbone():
    deep = convnext.ConvNeXt((1, 1, 3, 1), (8, 8, 8, 8))
    back = random("v1", 1)
    before = body(back)
    for state in (body(deep), {f"backbone.{k}": t for k, t in body(deep).items()}):
        with pytest.raises(ValueError, match=r"not expected 9 \(stages\.2\.2"):
            weights.load(back, state)
    lacking = body(random("v1"))
    del lacking["norm.bias"]
    with pytest.raises(ValueError, match=r"missing 3 \(head\.bias, head\.weight, norm\.bias\)"):
        weights.load(back, lacking)
    assert equal(body(back), before)


# Other libraries' words for our arguments

@pytest.mark.parametrize("make", [convnext.convnext_tiny, convnext.convnextv2_atto, swin.swin_t,
                                  convnext.convnext_isotropic_small, resnet.resnet50])
def test_other_words_for_an_argument(make):
    name = type(on_meta(make)).__name__
    for word in ("drop_path_rate", "stochastic_depth_prob"):
        with pytest.raises(TypeError, match=f"{name} takes no {word}: it is called drop_path here"):
            make(**{word: 0.1})
    for word in ("weights", "pretrained"):
        with pytest.raises(TypeError, match=f"{name} takes no {word}: .*weights.load"):
            make(**{word: True})
    takes = "convnext" in make.__name__
    for word in ("layer_scale_init_value", "ls_init_value"):
        called = "is called layer_scale here" if takes else "it has no layer_scale"
        with pytest.raises(TypeError, match=f"{name} takes no {word}: .*{called}"):
            make(**{word: 0.1})
    word = "dims" if name == "Swin" else "img_size"
    with pytest.raises(TypeError, match=f"{name} takes no {word}: another network here does$"):
        make(**{word: 96})
    with pytest.raises(TypeError, match="colour"):
        make(colour=3)


@pytest.mark.parametrize("word, remedy", [
    ("drop_path_rate", "it is called drop_path here"), ("weights", "call weights.load"),
    ("layer_scale_init_value", "it is called layer_scale here"),
    ("patch_size", "it is called stem_stride here"), ("window_size", "it has no window"),
    ("num_labels", "it is called num_classes here")])
def test_other_words_for_the_roadmap(word, remedy):
    with pytest.raises(TypeError, match=f"build takes no {word}: .*{remedy}"):
        roadmap.build("k7", **{word: 1})


def test_every_word_of_the_table_is_an_argument_somewhere():
    taken = set()
    for kind in (convnext.ConvNeXt, convnext.ConvNeXtIsotropic, resnet.ResNet, swin.Swin):
        taken |= set(inspect.signature(kind).parameters)
    for ours, others in layers.OTHER_WORDS.items():
        assert ours in taken or "(" in ours, ours
        assert not set(others.values()) & taken - {ours}
