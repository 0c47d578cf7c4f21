"""Weights of other libraries in and out: keys, shapes, wrappers, adaptations, bad state dicts."""
import re
import warnings
from argparse import Namespace
from functools import partial

import pytest
import timm
import torch
import transformers
from oracles import drawn, gap, images, on_meta, same, shapes
from safetensors.torch import load_file
from transformers import SwinConfig, SwinForImageClassification

from convnext_nb import convnext, keys, models, peers, proof, resnet, roadmap, swin, weights

SMALL_SWIN = dict(depths=(2, 2, 2, 2), dim=12, heads=(1, 2, 3, 4))


def their(library, name):
    "The other library's network of this name, without tensors."
    return on_meta(peers.build_peer, name, library.replace("huggingface", "transformers"))


def drawn_swin(seed=0, **settings):
    "A small Swin with random weights; its index is not among them."
    return weights.randomize(swin.Swin(**{**SMALL_SWIN, **settings}), seed).eval()


@pytest.fixture(scope="module")
def atto():
    return drawn(convnext.convnext_atto)


def test_names_of_keys_are_in_weights_too():
    "Users look for them there; they are defined once."
    for name in ("convert", "key_map", "formats", "rules", "rename", "recognize", "timm_conv_mlp",
                 "CONV_MLP", "CONVNEXT_KEYS", "RESNET_KEYS", "SWIN_KEYS"):
        assert getattr(weights, name) is getattr(keys, name)


# Keys and shapes

LIBRARIES = [(name, library.replace("transformers", "huggingface")) for name in proof.PUBLISHED
             if "isotropic" not in name for library in peers.libraries(name)]


@pytest.mark.parametrize("name, library", LIBRARIES)
def test_every_network_has_their_keys_and_shapes(name, library):
    ours = on_meta(models.create, name, 1000)
    theirs = their(library, name)
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
    theirs = their(library, name).eval()
    theirs.load_state_dict(load_file(path), strict=True, assign=True)
    assert gap(peers.logits(ours, images()), peers.logits(theirs, images())) < 1e-5
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
    ours, x = drawn_swin(), peers.noise(224, batch=1)
    kind = SwinForImageClassification
    config = SwinConfig(num_labels=1000, depths=[2, 2, 2, 2], embed_dim=12, num_heads=[1, 2, 3, 4])
    config.save_pretrained(tmp_path)
    weights.save(ours, tmp_path / "model.safetensors", library)
    theirs, info = kind.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(info[k] for k in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert gap(peers.logits(ours, x), peers.logits(theirs.eval(), x)) < 1e-5
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
    "timm chooses for four sizes; our own network is written with linear layers."
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


# Wrappers, classes, channels

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


def test_what_fits_loads_silently(atto):
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


# Bad input

def change(state, key, value):
    return {**state, key: value}


BAD = {
    "another network": (lambda s: resnet.resnet18().state_dict(),
                        r"do not fit ConvNeXt .*no key.* missing 128 .*, not expected 122 \(bn1"),
    "another depth": (lambda s: on_meta(convnext.convnext_nano).state_dict(),
                      r"missing 0 \(\), not expected 18 \(stages\.2\.6\.dwconv\.bias"),
    "a key too few": (lambda s: {k: t for k, t in s.items() if k != "stages.1.0.gamma"},
                      r"missing 1 \(stages\.1\.0\.gamma\), not expected 0"),
    "no head's bias": (lambda s: {k: t for k, t in s.items() if k != "head.bias"},
                       r"missing 1 \(head\.bias\)"),
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
    "quantized": (lambda s: change(s, "head.weight", (9 * s["head.weight"]).char()),
                  r"1 kinds of numbers differ: head\.weight: torch\.int8, expected torch\.float32"),
    "complex": (lambda s: change(s, "head.weight", s["head.weight"].to(torch.complex64)),
                r"head\.weight: torch\.complex64, expected"),
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
    with pytest.raises(ValueError, match=r"1 shapes differ: .*k_proj\.bias: \(5,\), expected"):
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


# mmpretrain, DINOv3, MinkowskiEngine: names written down from their code

def small(grn, seed=0):
    net = convnext.ConvNeXt((1, 2, 1, 1), (8, 8, 16, 8), num_classes=3, grn=grn,
                            layer_scale=None if grn else 1.0)
    return weights.randomize(net, seed)


@pytest.mark.parametrize("grn", [False, True])
@pytest.mark.parametrize("conv_mlp", [False, True])
def test_mmpretrain(grn, conv_mlp):
    part = (".weight", ".bias")
    blocks = [(0, 0), (1, 0), (1, 1), (2, 0), (3, 0)]
    keys = {f"backbone.downsample_layers.{i}.{j}{p}" for i in range(4) for j in range(2)
            for p in part}
    keys |= {f"backbone.stages.{i}.{j}.{m}{p}" for i, j in blocks for p in part
             for m in ("depthwise_conv", "norm", "pointwise_conv1", "pointwise_conv2")}
    own = ("grn.gamma", "grn.beta") if grn else ("gamma",)
    keys |= {f"backbone.stages.{i}.{j}.{m}" for i, j in blocks for m in own}
    keys |= {f"{m}{p}" for m in ("backbone.norm3", "head.fc") for p in part}
    state = weights.convert(small(grn), "mmpretrain", conv_mlp)
    assert set(state) == keys
    one = state["backbone.stages.0.0.pointwise_conv1.weight"]
    assert one.shape == ((32, 8, 1, 1) if conv_mlp else (32, 8))
    if grn: assert state["backbone.stages.0.0.grn.gamma"].shape == (32,)
    back = small(grn, seed=1)
    assert weights.load(back, {"state_dict": state, "meta": {}}) == "mmpretrain"
    assert same(back, small(grn))


@pytest.mark.parametrize("prefix", ["model.", ""])  # in memory; in older files
def test_dinov3(prefix):
    config = transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 8, 16, 8], depths=[1, 2, 1, 1])
    theirs = weights.randomize(transformers.DINOv3ConvNextModel(config)).eval()
    state = {re.sub(r"^model\.", prefix, key): t for key, t in theirs.state_dict().items()}
    ours = small(False, seed=1).eval()
    with pytest.warns(UserWarning, match="^the head is left fresh: the weights have none"):
        assert weights.load(ours, state) == "dinov3"
    ours.head = torch.nn.Identity()
    x = torch.randn(2, 3, 64, 64)
    with torch.inference_mode():
        assert torch.allclose(ours(x), theirs(x).pooler_output, atol=1e-4)
    theirs.load_state_dict(weights.convert(ours, "dinov3"), strict=True)


def test_minkowski():
    """FCMAE's raw files: an encoder of sparse layers, a decoder, and no head."""
    ours = small(True)
    state = {}
    for key, t in ours.state_dict().items():
        if key.startswith(("norm.", "head.")): continue
        conv = re.match(r"downsample_layers\.[1-3]\.1\.|stages.*\.dwconv\.", key)
        if conv and key.endswith("bias"): t = t[None]
        elif conv:
            out, into, height, width = t.shape
            places = torch.empty(height * width, into, out)
            for h in range(height):
                for w in range(width): places[h + height * w] = t[:, :, h, w].T
            t = places[:, 0] if "dwconv" in key else places
            key = key.replace("weight", "kernel")
        if ".grn." in key: t = t.view(1, -1)
        key = re.sub(r"^(downsample_layers\.[1-3]\.0|stages.*\.norm)\.", r"\1.ln.", key)
        state["encoder." + re.sub(r"(pwconv\d)\.", r"\1.linear.", key)] = t
    assert "encoder.downsample_layers.1.1.kernel" in state
    full = state | {"decoder.0.dwconv.weight": torch.ones(3), "mask_token": torch.ones(1)}
    back = small(True, seed=1)
    with pytest.warns(UserWarning, match="the head and the last norm are left fresh|not used"):
        assert weights.load(back, {"model": full}) == "minkowski"
    for part in ("downsample_layers", "stages"):
        assert same(getattr(back, part), getattr(ours, part))
    out = weights.convert(ours, "minkowski")
    assert {f"encoder.{k}": t.shape for k, t in out.items() if k[:4] not in ("norm", "head")} == {
        key: t.shape for key, t in state.items()}


def test_counts_of_batches_may_be_missing():
    "As in PyTorch: files from before 0.4.1 have none."
    ours = drawn(partial(resnet.resnet18, 10))
    state = {k: t for k, t in ours.state_dict().items() if not k.endswith("num_batches_tracked")}
    back = drawn(partial(resnet.resnet18, 10), seed=1)
    counts = {k: t.clone() for k, t in back.state_dict().items() if k not in state}
    assert len(counts) == 20 and weights.load(back, state) == "torchvision"
    for key, t in back.state_dict().items(): assert torch.equal(t, {**state, **counts}[key])


def test_a_head_without_a_bias(atto):
    def bare(classes):
        net = drawn(convnext.convnext_atto)
        net.head = torch.nn.Linear(net.head.in_features, classes, bias=False)
        return net
    ours, other, fewer = bare(7), bare(7), bare(5)
    weights.load(other, ours.state_dict())
    assert torch.equal(other.head.weight, ours.head.weight)
    with pytest.warns(weights.Adapted, match="the head is left fresh"):
        weights.load(fewer, ours.state_dict())


@pytest.mark.parametrize("beside", [dict(model=dict(name="convnext", dims=[8, 16])),
                                    dict(net={}, model=dict(args=dict(depth=3)))])
def test_a_configuration_is_no_wrapper(beside, atto):
    state = weights.unwrap({**beside, "state_dict": atto.state_dict()})
    assert state.keys() == atto.state_dict().keys()


def test_a_module_with_numbers_of_its_own_is_no_wrapper():
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = convnext.convnext_atto()
            self.temperature = torch.nn.Parameter(torch.ones(()))
    whole = Scaled()
    assert keys.inner_network(whole) is whole and "temperature" in keys.inner_state(whole)
    del whole.temperature
    assert keys.inner_network(whole) is whole.model


def test_a_wrong_shape_is_told_as_the_file_has_it():
    ours = drawn(convnext.convnext_atto)
    state = weights.convert(ours, "torchvision")
    state["features.1.0.layer_scale"] = state["features.1.0.layer_scale"].flatten()
    with pytest.raises(ValueError, match=r"layer_scale: \(40,\), expected \(40, 1, 1\)"):
        weights.load(ours, state)
