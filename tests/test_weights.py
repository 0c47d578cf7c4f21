"""Weights of other libraries in and out, hostile and damaged files, and the rest of the family."""
import math
import os
import pickle
import resource
import warnings
from argparse import Namespace
from functools import partial

import pytest
import timm
import torch
from oracles import drawn, gap, images, on_meta
from safetensors.torch import load_file, save_file
from transformers import SwinConfig, SwinForImageClassification

from convnext_nb import convnext, cost, proof, resnet, roadmap, swin, weights

SMALL_SWIN = dict(depths=(2, 2, 2, 2), dim=12, heads=(1, 2, 3, 4))


def same(a, b):
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(t, b[k]) for k, t in a.items())


def shapes(state):
    return {k: tuple(t.shape) for k, t in state.items()}


def their(library, name, ours):
    "The other library's network of this name, without tensors."
    return on_meta(proof.foreign, name, library.replace("huggingface", "transformers"), ours)


def drawn_swin(seed=0, **settings):
    "A small Swin with random weights; its index is not among them."
    return weights.randomize(swin.Swin(**{**SMALL_SWIN, **settings}), seed).eval()


@pytest.fixture(scope="module")
def atto():
    return drawn(convnext.convnext_atto)


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = weights.save(convnext.ConvNeXt((1, 1, 1, 1), (8, 8, 8, 8), 3), tmp_path / "net")
    before, limit = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), limit[1]))
    try:
        with pytest.raises(OSError, match=f"cannot write {path}: .*; free some space"):
            weights.save(convnext.ConvNeXt((1, 1, 1, 1), (16, 16, 16, 16), 3), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


# Keys and shapes ------------------------------------------------------------------------------

LIBRARIES = [(name, library.replace("transformers", "huggingface")) for name in proof.PUBLISHED
             if "isotropic" not in name for library in proof.libraries(name)]


@pytest.mark.parametrize("name, library", LIBRARIES)
def test_every_network_has_their_keys_and_shapes(name, library):
    ours = on_meta(proof.build, name)
    theirs = their(library, name, ours)
    state = weights.convert(ours, library)
    assert shapes(state) == shapes(theirs.state_dict())
    same_keys = name.startswith("resnet") and library == "timm"
    assert weights.load(ours, theirs.state_dict()) == ("torchvision" if same_keys else library)


def test_authors_keys():
    "The pattern of the keys in the authors' checkpoints, written down from their code."
    depths, part = (3, 3, 9, 3), (".weight", ".bias")
    keys = {f"downsample_layers.{i}.{j}{p}" for i in range(4) for j in range(2) for p in part}
    for i, depth in enumerate(depths):
        for j in range(depth):
            keys |= {f"stages.{i}.{j}.{m}{p}" for p in part
                     for m in ("dwconv", "norm", "pwconv1", "pwconv2")}
            keys.add(f"stages.{i}.{j}.gamma")
    keys |= {f"{m}{p}" for m in ("norm", "head") for p in part}
    assert set(on_meta(convnext.convnext_tiny).state_dict()) == keys
    v2 = {k for k in keys if not k.endswith("gamma")} | {
        f"stages.{i}.{j}.grn.{p}" for i, d in enumerate(depths) for j in range(d)
        for p in ("gamma", "beta")}
    net = on_meta(convnext.convnextv2_tiny)
    assert set(net.state_dict()) == v2
    assert net.stages[1][0].grn.gamma.shape == (1, 1, 1, 4 * 192)


@pytest.mark.parametrize("name, library", [
    ("convnextv2_tiny", "timm"), ("convnextv2_base", "timm"), ("convnextv2_tiny", "huggingface"),
    ("convnext_tiny", "huggingface"), ("convnext_nano", "huggingface"),
    ("convnextv2_nano", "huggingface"), ("convnext_tiny", "torchvision"), ("resnet50", "timm"),
    ("resnet18", "huggingface"), ("resnet50", "huggingface")])
def test_logits_equal_and_back_bit_for_bit(name, library, tmp_path):
    ours = proof.drawn(name)
    path = weights.save(ours, tmp_path / "w", library)
    theirs = their(library, name, ours).eval()
    theirs.load_state_dict(load_file(path), strict=True, assign=True)
    assert gap(proof.logits(ours, images()), proof.logits(theirs, images())) < 1e-5
    for source in (path, theirs.state_dict()):
        back = proof.drawn(name, seed=1)
        weights.load(back, source)
        assert same(back, ours)


@pytest.mark.parametrize("library", weights.SWIN_KEYS)
def test_swins_come_back_bit_for_bit(library, tmp_path):
    ours, back = drawn_swin(), drawn_swin(seed=1)
    assert weights.load(back, weights.save(ours, tmp_path / "w", library)) == library
    assert same(back, ours)
    assert list(weights.convert(ours, "torchvision")) == list(ours.state_dict())


@pytest.mark.parametrize("library", ["huggingface", "huggingface-hub"])
def test_a_folder_that_transformers_opens(library, tmp_path):
    ours, x = drawn_swin(), proof.images(224, batch=1)
    kind = SwinForImageClassification
    config = SwinConfig(num_labels=1000, depths=[2, 2, 2, 2], embed_dim=12, num_heads=[1, 2, 3, 4])
    config.save_pretrained(tmp_path)
    weights.save(ours, tmp_path / "model.safetensors", library)
    theirs, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert gap(proof.logits(ours, x), proof.logits(theirs.eval(), x)) < 1e-5
    theirs.save_pretrained(tmp_path / "again")  # in the names of the hub's files
    back = drawn_swin(seed=1)
    weights.load(back, tmp_path / "again" / "model.safetensors")
    assert same(back, ours)


def test_authors_keys_of_swin():
    "The pattern of the keys in the authors' checkpoints, with the tables that they store."
    ours, back = drawn_swin(), drawn_swin(seed=1)
    state = weights.convert(ours, "authors")
    part = (".weight", ".bias")
    keys = {f"{m}{p}" for p in part
            for m in ("patch_embed.proj", "patch_embed.norm", "norm", "head")}
    keys |= {f"layers.{i}.downsample.{m}" for i in range(3)
             for m in ("norm.weight", "norm.bias", "reduction.weight")}
    for block in (f"layers.{i}.blocks.{j}." for i in range(4) for j in range(2)):
        keys |= {f"{block}{m}{p}" for p in part for m in
                 ("norm1", "attn.qkv", "attn.proj", "norm2", "mlp.fc1", "mlp.fc2")}
        keys.add(f"{block}attn.relative_position_bias_table")
    assert set(state) == keys
    state["layers.0.blocks.0.attn.relative_position_index"] = torch.zeros(49, 49, dtype=torch.long)
    state["layers.0.blocks.1.attn_mask"] = torch.zeros(64, 49, 49)
    assert weights.load(back, {"model": state}) == "authors" and same(back, ours)


def test_merging_belongs_to_another_stage_in_timm():
    ours = drawn_swin()
    norm = ours.features[2].norm.weight
    for library, key in [("timm", "layers.1.downsample.norm.weight"),
                         ("authors", "layers.0.downsample.norm.weight"),
                         ("huggingface", "swin.encoder.layers.0.downsample.norm.weight")]:
        assert weights.convert(ours, library)[key].data_ptr() == norm.data_ptr()


def test_query_key_and_value_in_this_order():
    ours = drawn_swin()
    state = weights.convert(ours, "huggingface")
    q, k, v = (state[f"swin.encoder.layers.1.blocks.1.attention.{part}_proj.weight"]
               for part in "qkv")
    assert torch.equal(torch.cat([q, k, v]), ours.features[3][1].attn.qkv.weight)


def test_windows_that_fit_have_smaller_tables():
    ours = drawn_swin(img_size=64, window=8)
    theirs = timm.models.swin_transformer.SwinTransformer(
        img_size=64, window_size=8, depths=(2, 2, 2, 2), embed_dim=12, num_heads=(1, 2, 3, 4))
    assert shapes(weights.convert(ours, "timm")) == shapes(theirs.state_dict())
    back = drawn_swin(seed=1, img_size=64, window=8)
    assert weights.load(back, weights.convert(ours, "timm")) == "timm" and same(back, ours)
    with pytest.raises(ValueError, match=r"8 shapes differ: .*bias_table: \(225, 1\), expected"):
        weights.load(drawn_swin(), weights.convert(ours, "timm"))


@pytest.mark.parametrize("make, prefix", [
    (partial(drawn, convnext.convnext_atto), "convnext."),
    (partial(drawn, convnext.convnextv2_atto), "convnextv2."),
    (partial(drawn, resnet.resnet18), "resnet."), (drawn_swin, "swin.")])
def test_huggingface_without_prefix(make, prefix):
    ours, back = make(), make(seed=1)
    state = weights.convert(ours, "huggingface")
    assert all(k.startswith((prefix, "classifier.")) for k in state)
    state = {k.removeprefix(prefix): t for k, t in state.items()}
    assert weights.load(back, state) == "huggingface" and same(back, ours)


@pytest.mark.parametrize("name", ["convnext_atto", "convnextv2_nano", "convnext_tiny"])
def test_timms_two_ways_to_write_a_linear_layer(name):
    ours = drawn(getattr(convnext, name))
    for conv in (True, False):
        state = weights.convert(ours, "timm", conv_mlp=conv)
        theirs = on_meta(timm.create_model, name, conv_mlp=conv)
        assert shapes(state) == shapes(theirs.state_dict())
        back = drawn(getattr(convnext, name), seed=1)
        assert weights.load(back, state) == "timm" and same(back, ours)


def test_a_width_does_not_make_convolutions():
    "timm's choice is made for four sizes; a network of our own is written with linear layers."
    ours = convnext.ConvNeXt((1, 1, 2, 1), (40, 80, 160, 320))
    theirs = timm.models.convnext.ConvNeXt(depths=(1, 1, 2, 1), dims=(40, 80, 160, 320))
    assert shapes(weights.convert(ours, "timm")) == shapes(theirs.state_dict())


def test_half_precision_weights_load(atto):
    back = drawn(convnext.convnext_atto, seed=1)
    weights.load(back, {k: t.bfloat16() for k, t in atto.state_dict().items()})
    assert back.head.weight.dtype == torch.float32
    assert torch.equal(back.head.weight, atto.head.weight.bfloat16().float())


def test_last_step_of_the_walk_takes_published_weights():
    ours, last = on_meta(convnext.convnext_tiny), on_meta(roadmap.build, "sep_ds")
    for library in ("timm", "torchvision", "huggingface"):
        assert weights.load(last, weights.convert(ours, library)) == library


def test_formats_that_do_not_exist():
    for make, library, there in [
            (convnext.convnextv2_atto, "torchvision", "authors, timm, huggingface"),
            (resnet.resnet18, "huggingface-hub", "torchvision, timm, authors, huggingface"),
            (swin.swin_t, "convnext", "torchvision, timm, authors, huggingface, huggingface-hub"),
            (convnext.convnext_isotropic_small, "timm", "there are: authors"),
            (convnext.convnext_atto, "jax", "authors, timm, torchvision, huggingface")]:
        with pytest.raises(ValueError, match=there):
            weights.key_map(on_meta(make), library)


# Wrappers, classes, channels --------------------------------------------------------------------

@pytest.mark.parametrize("wrap", [
    lambda s: {"model": s}, lambda s: {"state_dict": s, "epoch": 3}, lambda s: {"model_ema": s},
    lambda s: {"state_dict_ema": s}, lambda s: {"model": {"state_dict": s}, "optimizer": {}},
    lambda s: {f"module.{k}": t for k, t in s.items()},
    lambda s: {f"module._orig_mod.{k}": t for k, t in s.items()},
    lambda s: {"model": {f"module.{k}": t for k, t in s.items()}, "args": Namespace(lr=1.0)}])
def test_wrappers(atto, wrap, tmp_path):
    wrapped = wrap(weights.convert(atto, "timm"))
    torch.save(wrapped, tmp_path / "w.pth")
    for source in (wrapped, tmp_path / "w.pth", str(tmp_path / "w.pth")):
        back = drawn(convnext.convnext_atto, seed=1)
        assert weights.load(back, source) == "timm" and same(back, atto)


@pytest.mark.parametrize("library", ["authors", "timm", "torchvision", "huggingface"])
@pytest.mark.parametrize("make", [convnext.convnext_atto, resnet.resnet18, None])
def test_other_classes_leave_the_head_fresh(make, library):
    if make:
        ours, ten = drawn(make), drawn(partial(make, num_classes=10), seed=1)
    else:
        ours, ten = drawn_swin(), drawn_swin(seed=1, num_classes=10)
    before = {k: t.clone() for k, t in ten.state_dict().items()}
    with pytest.warns(UserWarning, match=r"head is left fresh.*\(1000, \d+\).*\(10, \d+\)"):
        weights.load(ten, weights.convert(ours, library))
    for key, t in ten.state_dict().items():
        head = key.startswith(("head.", "fc."))
        assert torch.equal(t, before[key] if head else ours.state_dict()[key]), key


@pytest.mark.parametrize("make", [convnext.convnext_atto, resnet.resnet18])
@pytest.mark.parametrize("chans", [1, 2, 4, 6])
def test_other_channels_adapt_the_stem(make, chans):
    ours, other = drawn(make).eval(), drawn(partial(make, in_chans=chans), seed=1).eval()
    with pytest.warns(UserWarning, match=rf"stem is adapted.*, 3, .*, {chans}, "):
        weights.load(other, weights.convert(ours, "timm"))
    stem = next(k for k, t in ours.state_dict().items() if t.ndim == 4)
    expected = timm.models.adapt_input_conv(chans, ours.state_dict()[stem])
    assert torch.equal(other.state_dict()[stem], expected)
    x = images(chans=1)
    with torch.inference_mode():  # in grey images all channels are equal
        if chans in (1, 6):
            assert gap(other(x.expand(-1, chans, -1, -1)), ours(x.expand(-1, 3, -1, -1))) < 1e-4


def test_what_fits_is_loaded_in_silence(atto):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        weights.load(drawn(convnext.convnext_atto), atto.state_dict())


def test_a_warning_made_an_error_leaves_the_model_alone(atto):
    ten = drawn(partial(convnext.convnext_atto, num_classes=10), seed=1)
    norm = ten.norm.weight.clone()
    with warnings.catch_warnings(), pytest.raises(UserWarning):
        warnings.simplefilter("error")
        weights.load(ten, atto.state_dict())
    assert torch.equal(ten.norm.weight, norm)


# Bad input --------------------------------------------------------------------------------------

def change(state, key, value):
    return {**state, key: value}


BAD = {
    "another network": (lambda s: resnet.resnet18().state_dict(),
                        r"do not fit ConvNeXt .*no key.* missing 128 .*, not expected 122 \(bn1"),
    "another depth": (lambda s: on_meta(convnext.convnext_nano).state_dict(),
                      r"missing 0 \(\), not expected 18 \(stages\.2\.6\.dwconv\.bias"),
    "a key too few": (lambda s: {k: t for k, t in s.items() if k != "stages.1.0.gamma"},
                      r"missing 1 \(stages\.1\.0\.gamma\), not expected 0"),
    "no head": (lambda s: {k: t for k, t in s.items() if not k.startswith("head")},
                r"missing 2 \(head\.bias, head\.weight\)"),
    "a key too many": (lambda s: change(s, "neck.weight", torch.zeros(1)),
                       r"missing 0 \(\), not expected 1 \(neck\.weight\)"),
    "another width": (lambda s: on_meta(convnext.convnext_femto).state_dict(),
                      r"\d+ shapes differ: .*: \(48, 3, 4, 4\), expected \(40, 3, 4, 4\)"),
    "one shape": (lambda s: change(s, "norm.bias", torch.zeros(7)),
                  r"1 shapes differ: norm\.bias: \(7,\), expected \(320,\)"),
    "a transposed layer": (lambda s: change(s, "stages.0.0.pwconv1.weight", torch.zeros(40, 160)),
                           r"pwconv1\.weight: \(40, 160\), expected \(160, 40\)"),
    "another head width": (lambda s: change(s, "head.weight", torch.zeros(10, 7)),
                           r"head\.weight: \(10, 7\), expected \(1000, 320\)"),
    "half a head": (lambda s: change(s, "head.bias", torch.zeros(10)),
                    r"head\.bias: \(10,\), expected \(1000,\)"),
    "another patch": (lambda s: change(s, "downsample_layers.0.0.weight", torch.zeros(40, 3, 2, 2)),
                      r"\(40, 3, 2, 2\), expected \(40, 3, 4, 4\)"),
    "grey weights": (lambda s: change(s, "downsample_layers.0.0.weight", torch.zeros(40, 1, 4, 4)),
                     r"\(40, 1, 4, 4\), expected \(40, 3, 4, 4\)"),
    "no tensors": (lambda s: {"a": 1}, "no state dict found"),
    "empty": (lambda s: {}, "missing"),
}


def test_a_part_of_qkv_that_is_missing_or_wrong():
    ours, back = drawn_swin(), drawn_swin(seed=1)
    state, before = weights.convert(ours, "huggingface"), drawn_swin(seed=1)
    key = "swin.encoder.layers.0.blocks.1.attention.k_proj.bias"
    bias = state.pop(key)
    with pytest.raises(ValueError, match=r"missing 1 \(encoder\.layers\.0.*\.k_proj\.bias\)"):
        weights.load(back, state)
    with pytest.raises(ValueError, match=r"1 shapes differ: .*attn\.k\.bias: \(5,\), expected"):
        weights.load(back, {**state, key: bias[:5]})
    assert same(back, before)


@pytest.mark.parametrize("case", BAD)
def test_bad_state_dicts_say_what_differs_and_change_nothing(atto, case):
    spoil, message = BAD[case]
    model = drawn(convnext.convnext_atto, seed=1)
    before = {k: t.clone() for k, t in model.state_dict().items()}
    with pytest.raises(ValueError, match=message):
        weights.load(model, spoil(atto.state_dict()))
    assert all(torch.equal(t, before[k]) for k, t in model.state_dict().items())


def test_bad_networks():
    with pytest.raises(ValueError, match=r"\(3, 3\).*same number of stages"):
        convnext.ConvNeXt((3, 3), (8, 16, 32))
    with pytest.raises(ValueError, match="total stride of 16"):
        convnext.ConvNeXtIsotropic(1, 8)(images(15))
    with pytest.raises(ValueError, match=r"expected images \(B, 3, H, W\)"):
        convnext.ConvNeXt((1,), (8,), features=True)(images(chans=1))


# Files ------------------------------------------------------------------------------------------

class Trap:
    "Unpickled, it makes a folder."
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("way", ["zip", "legacy", "pickle 2", "pickle 4", "named safetensors"])
def test_hostile_files_are_refused_and_run_nothing(way, atto, tmp_path):
    target, path = tmp_path / "trapped", tmp_path / "w.pth"
    hostile = {**atto.state_dict(), "zzz": Trap(target)}
    if way in ("zip", "legacy"):
        torch.save(hostile, path, _use_new_zipfile_serialization=way == "zip")
    elif way == "named safetensors":
        path = tmp_path / "w.safetensors"
        torch.save(hostile, path)
    else:
        path.write_bytes(pickle.dumps({"a": Trap(target)}, protocol=int(way[-1])))
    model = drawn(convnext.convnext_atto, seed=1)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="no readable weight") as seen:
        warnings.simplefilter("ignore")  # PyTorch's, on the pickle protocol
        weights.load(model, path)
    assert "weights_only" not in str(seen.value)  # no advice to open it nevertheless
    assert not target.exists()
    if way in ("zip", "legacy", "pickle 2"):
        assert "mkdir; nothing of it was run" in str(seen.value)
    if way == "pickle 4":  # the trap does work where a file is trusted
        pickle.loads(path.read_bytes())
        assert target.is_dir()


def small_files(folder):
    net = convnext.ConvNeXt((1, 1, 1, 1), (8, 8, 8, 8), num_classes=3)
    weights.randomize(net)
    weights.save(net, folder / "w.safetensors")
    torch.save({"model": net.state_dict()}, folder / "w.pth")
    return net


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_truncated_files(kind, tmp_path):
    net = small_files(tmp_path)
    path = tmp_path / f"w.{kind}"
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="no readable weight file"):
            weights.load(net, path)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_corrupted_files(kind, tmp_path):
    "A flipped byte is an error, or changes no tensor; safetensors' numbers have no checksum."
    net = small_files(tmp_path)
    path = tmp_path / f"w.{kind}"
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8 if kind == "safetensors" else len(whole)
    refused = 0
    for place in range(0, header, header // 150):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1:])
        back = convnext.ConvNeXt((1, 1, 1, 1), (8, 8, 8, 8), num_classes=3)
        try:
            weights.load(back, path)
        except ValueError:
            refused += 1
        else:
            assert same(back, net), place
    assert refused > 75


def test_files_that_hold_no_weights(tmp_path):
    for name, content in {"a.pth": b"not a checkpoint", "b.safetensors": b"neither" * 9,
                          "c.bin": b"", "d.pt": b"PK\x03\x04"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is no readable weight file"):
            weights.load(on_meta(convnext.convnext_atto), tmp_path / name)
    with pytest.raises(ValueError, match="no readable weight file"):
        weights.load(on_meta(convnext.convnext_atto), tmp_path)
    with pytest.raises(FileNotFoundError):
        weights.load(on_meta(convnext.convnext_atto), tmp_path / "missing.pth")


# The hub ----------------------------------------------------------------------------------------

@pytest.fixture
def hub(tmp_path, monkeypatch):
    "A machine without a network, with an empty cache of the hub."
    import huggingface_hub
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["timm/convnext_atto.d2_in1k", "hf-hub:timm/convnext_atto.d2_in1k",
                                  "hf_hub:me/mine", "out/never_trained"])
def test_a_hub_out_of_reach(name, hub):
    with pytest.raises(ConnectionError, match="hub cannot be reached; connect, or give a file"):
        weights.load(on_meta(convnext.convnext_atto), name)


def test_a_hub_in_the_cache(hub, atto):
    repo = hub / "models--timm--convnext_atto.d2_in1k"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(snapshot.name)
    state = {k: t.contiguous() for k, t in weights.convert(atto, "timm").items()}
    save_file(state, snapshot / "model.safetensors")
    back = drawn(convnext.convnext_atto, seed=1)
    assert weights.load(back, "timm/convnext_atto.d2_in1k") == "timm" and same(back, atto)


def test_a_name_the_hub_does_not_know(monkeypatch):
    class NotFound(OSError):
        response = "404"

    def answer(*args, **kwargs):
        raise NotFound("404 Client Error: Repository Not Found\nmore")
    monkeypatch.setattr(timm.models, "load_state_dict_from_hf", answer)
    with pytest.raises(ValueError, match="the hub has no weights me/mine: 404 Client Error"):
        weights.load(on_meta(convnext.convnext_atto), "me/mine")


# The rest of the family ---------------------------------------------------------------------------

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
