"""Swin against torchvision and timm: names, logits, gradients, windows, faults and bad input."""
import pickle
from functools import partial

import oracles
import pytest
import timm
import torch
import torchvision
from oracles import gap
from torch import nn

from convnext_nb import convnext, cost, peers, resnet, swin, weights

SIZES = ("swin_t", "swin_s", "swin_b")
SMALL = dict(depths=(2, 2, 2, 2), dim=12, heads=(1, 2, 3, 4), num_classes=5)
TABLE = ".relative_position_bias_table"


def images(*size, batch=2, chans=3):
    return torch.randn(batch, chans, *size, generator=torch.Generator().manual_seed(0))


def tables(net):
    return [p for name, p in net.named_parameters() if name.endswith(TABLE)]


def drawn(make, **kwargs):
    "A network with all tensors drawn at random, bias tables with a spread of 1."
    net = oracles.drawn(partial(make, **kwargs))
    g = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for t in tables(net):
            t.normal_(generator=g)
    for m in net.modules():
        if isinstance(m, swin.WindowAttention):
            m.relative_position_index.copy_(swin.relative_index(m.window).flatten())
    return net.eval()


def torchvisions(ours, name):
    theirs = peers.with_our_weights(ours, "torchvision", name)
    for m in theirs.modules():
        if isinstance(m, torchvision.ops.StochasticDepth):
            m.p = 0.0
    return theirs


def timms(ours, **kwargs):
    theirs = timm.create_model("swin_tiny_patch4_window7_224", **kwargs)
    theirs.load_state_dict(weights.convert(ours, "timm"), strict=True)
    return theirs.eval()


@pytest.mark.parametrize("name", SIZES)
def test_names_and_shapes_match_torchvision(name):
    with torch.device("meta"):
        ours, theirs = getattr(swin, name)(), torchvision.models.get_model(name)
    for kind in ("named_parameters", "named_buffers"):
        a, b = ({k: (v.shape, v.dtype) for k, v in getattr(m, kind)()} for m in (ours, theirs))
        assert list(a.items()) == list(b.items())  # in the same order, for optimizers' states
    assert list(ours.state_dict()) == list(theirs.state_dict())
    a, b = ([(m.normalized_shape, m.eps) for m in net.modules() if isinstance(m, nn.LayerNorm)]
            for net in (ours, theirs))
    assert sorted(a) == sorted(b)  # 1e-6 for 1e-5 would hide below the tolerance


def test_the_index_matches_torchvision():
    theirs = torchvision.models.swin_transformer.ShiftedWindowAttention
    for side in (1, 2, 4, 7, 8):
        ours = swin.WindowAttention(8, 2, side).relative_position_index
        assert torch.equal(ours, theirs(8, [side] * 2, [0, 0], 2).relative_position_index)


@pytest.mark.parametrize("module, name", [
    *((swin, name) for name in SIZES),
    *((resnet, f"resnet{depth}") for depth in (18, 34, 50, 101, 152, 200))])
def test_builders_have_their_names_and_can_be_pickled(module, name):
    builder = getattr(module, name)
    assert (builder.__name__, builder.__module__) == (name, module.__name__)
    assert pickle.loads(pickle.dumps(builder)) is builder


@pytest.mark.parametrize("name", SIZES)
def test_logits_match_torchvision(name):
    ours = drawn(getattr(swin, name))
    theirs = torchvisions(ours, name)
    with torch.inference_mode():
        assert gap(ours(images(64, 64)), theirs(images(64, 64))) < 1e-5


@pytest.mark.parametrize("size", [(224, 224), (33, 90), (32, 32), (56, 112), (112, 57)])
def test_logits_match_torchvision_at_any_size(size):
    ours = drawn(swin.swin_t)
    theirs = torchvisions(ours, "swin_t")
    with torch.inference_mode():
        assert gap(ours(images(*size, batch=1)), theirs(images(*size, batch=1))) < 1e-5


@pytest.mark.parametrize("train", [True, False])
def test_gradients_match_torchvision(train):
    ours = drawn(swin.swin_t)
    theirs = torchvisions(ours, "swin_t").train(train)
    for net in (ours.train(train), theirs):
        net(images(64, 96)).square().mean().backward()
    grads = {n: p.grad for n, p in theirs.named_parameters()}
    for name, p in ours.named_parameters():
        assert p.grad.abs().max() > 0, name
        assert gap(p.grad, grads[name]) < 1e-4, name


@pytest.mark.parametrize("train", [True, False])
def test_logits_and_gradients_match_transformers(train):
    ours = drawn(swin.Swin, **SMALL).train(train)
    theirs = peers.with_our_weights(ours, "transformers").train(train)
    x = images(224, 224)
    a, b = ours(x), theirs(x).logits
    assert gap(a, b) < 1e-5
    for out in (a, b):
        out.square().mean().backward()
    grads = {n: p.grad for n, p in theirs.named_parameters()}
    for name, p in ours.named_parameters():
        parts = [name.replace("qkv", part) for part in "qkv"] if "qkv" in name else [name]
        found = torch.cat([grads[weights.key_map(ours, "huggingface")[part]] for part in parts])
        assert gap(p.grad, found) < 1e-4, name


@pytest.mark.parametrize("img_size, stem_stride, window", [
    (64, 4, 8), (64, 4, 4), (64, 2, 8), (112, 4, 7), (224, 4, 7), (32, 4, 4)])
def test_windows_that_fit_are_timms(img_size, stem_stride, window):
    given = dict(img_size=img_size, num_classes=10)
    ours = drawn(swin.swin_t, stem_stride=stem_stride, window=window, **given)
    theirs = timms(ours, patch_size=stem_stride, window_size=window, **given)
    x = images(img_size, img_size, batch=1)
    with torch.inference_mode():
        assert gap(ours(x), theirs(x)) < 1e-5
    for i, layer in enumerate(theirs.layers):
        for a, b in zip(ours.features[2 * i + 1], layer.blocks):
            assert (a.attn.window,) * 2 == tuple(b.window_size)
            side = img_size // (stem_stride * 2**i)
            shift = a.attn.shift if a.attn.window < side else 0
            assert (shift,) * 2 == tuple(b.shift_size)


def test_img_size_changes_nothing_where_windows_fit():
    free = drawn(swin.swin_t, num_classes=10)
    fixed = swin.swin_t(num_classes=10, img_size=224).eval()
    fixed.load_state_dict(free.state_dict(), strict=True)
    x = images(224, 224, batch=1)
    with torch.inference_mode():
        assert torch.equal(free(x), fixed(x))


def test_the_printed_table():
    net = swin.swin_t(num_classes=200)
    rows = cost.shapes(net)
    assert rows["features.0.0"] == (96, 56, 56)
    printed = {"features.0": (56, 56, 96), "features.2": (28, 28, 192),
               "features.4": (14, 14, 384), "features.6": (7, 7, 768),
               "pool": (768, 1, 1), "head": (200,)}
    stages = [(2, 3, (56, 56, 96), 384), (2, 6, (28, 28, 192), 768),
              (6, 12, (14, 14, 384), 1536), (2, 24, (7, 7, 768), 3072)]
    for name, shape in printed.items():
        assert rows[name] == shape, name
    for i, (blocks, heads, shape, mlp) in enumerate(stages):
        stage, name = net.features[2 * i + 1], f"features.{2 * i + 1}"
        assert len(stage) == blocks and rows[name] == shape
        for j, block in enumerate(stage):
            look = block.attn
            assert (look.heads, look.window, look.shift) == (heads, 7, 3 * (j % 2))
            assert rows[f"{name}.{j}"] == rows[f"{name}.{j}.attn"] == shape
            assert rows[f"{name}.{j}.mlp.0"] == (*shape[:2], mlp)
            assert rows[f"{name}.{j}.mlp"] == shape
    assert isinstance(net.features[0][2], nn.LayerNorm)
    assert [len(net.features), net.head.in_features] == [8, 768]


@pytest.mark.parametrize("name, params, macs, printed", [
    ("swin_t", 28_288_354, 4.4906, 4.5), ("swin_s", 49_606_258, 8.7409, 8.7),
    ("swin_b", 87_768_224, 15.4309, 15.4)])
def test_cost(name, params, macs, printed):
    with torch.device("meta"):
        c = cost.count(getattr(swin, name)())
        theirs = cost.count(torchvision.models.get_model(name))
    assert (c.params, round(c.gmacs, 4), round(c.gmacs, 1)) == (params, macs, printed)
    assert c == theirs


@pytest.mark.parametrize("given, gmacs", [
    ({}, 0.7716), ({"img_size": 64}, 0.4253), ({"img_size": 64, "window": 8}, 0.3665),
    ({"img_size": 64, "window": 4}, 0.3594)])
def test_cost_at_64_px(given, gmacs):
    with torch.device("meta"):
        net, rival = swin.swin_t(**given), convnext.convnext_tiny()
    assert round(cost.count(net, 64).gmacs, 4) == gmacs
    if given:
        assert 0.95 < cost.count(net, 64).macs / cost.count(rival, 64).macs < 1.2


def unrolled(x, by, dims, roll=torch.Tensor.roll):
    return roll(x, [-b for b in by], dims)


def half_mask(H, W, window, shift, device=None, visible=swin.visible):
    return visible(H, W, window, (shift[0], 0), device)


def merged_wrongly(self, x):
    B, H, W, C = x.shape
    x = x.reshape(B, H // 2, 2, W // 2, 2, C).permute(0, 1, 3, 2, 4, 5).flatten(3)
    return self.reduction(self.norm(x))


def with_index(change):
    def bias(self):
        n = self.window**2
        index = change(self.relative_position_index.view(n, n)).flatten()
        return self.relative_position_bias_table[index].T.reshape(self.heads, n, n)
    return bias


ATTENTION, LOOK, BIAS = swin.WindowAttention, swin.WindowAttention.look, swin.WindowAttention.bias
MUTATIONS = {
    "no bias": (ATTENTION, "bias", lambda self: 0 * BIAS(self)),
    "bias of the mirrored offset": (ATTENTION, "bias", with_index(lambda i: i.T)),
    "bias with rows for columns": (ATTENTION, "bias", with_index(
        lambda i: i % 13 * 13 + i // 13)),
    "heads in another order": (ATTENTION, "bias", lambda self: BIAS(self).flip(0)),
    "no mask": (ATTENTION, "look", lambda self, x, mask: LOOK(self, x)),
    "mask in one direction only": (swin, "visible", half_mask),
    "mask turned round": (swin, "visible",
                          lambda *a, v=swin.visible: ~v(*a) | torch.eye(49, dtype=torch.bool)),
    "shift the wrong way": (torch.Tensor, "roll", unrolled),
    "no shift": (torch.Tensor, "roll", lambda x, by, dims: x),
    "neighbours merged in the wrong order": (swin.PatchMerging, "forward", merged_wrongly),
}


@pytest.fixture(scope="module")
def pair():
    ours = drawn(swin.swin_t)
    with torch.inference_mode():
        return ours, torchvisions(ours, "swin_t")(images(64, 64))


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_planted_fault_is_seen(mutation, pair, monkeypatch):
    ours, expected = pair
    with torch.inference_mode():
        assert gap(ours(images(64, 64)), expected) < 1e-5
        monkeypatch.setattr(*MUTATIONS[mutation])
        assert gap(ours(images(64, 64)), expected) > 1e-3


def test_a_wrong_shift_is_seen(pair):
    ours, expected = pair
    blocks = [b.attn for stage in ours.features[1::2] for b in stage if b.attn.shift]
    with torch.inference_mode():
        for shift in (0, 2, 4):
            for attention in blocks:
                attention.shift = shift
            assert gap(ours(images(64, 64)), expected) > 1e-3
        for attention in blocks:
            attention.shift = 3
        assert gap(ours(images(64, 64)), expected) < 1e-5


def test_randomize_draws_the_tables():
    net = weights.randomize(swin.swin_t())
    for t in tables(net):
        assert t.std(0).min() > 0.1 and t.grad is None


@pytest.mark.parametrize("H, W, window, shift", [(8, 8, 4, (2, 2)), (14, 7, 7, (3, 0)),
                                                 (9, 6, 3, (1, 1)), (4, 4, 4, (0, 0))])
def test_visible_by_hand(H, W, window, shift):
    "Two pixels see each other if rolling back keeps the distance between them."
    mask = swin.visible(H, W, window, shift)
    where = torch.stack(torch.meshgrid(torch.arange(H), torch.arange(W), indexing="ij"), -1)
    home = where.roll([-s for s in shift], (0, 1))  # where each pixel came from
    cut = swin.split_windows(torch.cat([where, home], -1)[None], window)[0]
    near = cut[:, :, None] - cut[:, None]  # (windows, N, N, 4)
    assert torch.equal(mask, (near[..., :2] == near[..., 2:]).all(-1))


def test_split_and_join():
    x = torch.randn(2, 6, 9, 4)
    cut = swin.split_windows(x, 3)
    assert cut.shape == (2, 6, 9, 4)
    assert torch.equal(cut[1, 4].view(3, 3, 4), x[1, 3:6, 3:6])
    assert torch.equal(swin.join_windows(cut, 3, 6, 9), x)


@pytest.mark.parametrize("seed", range(8))
def test_properties_over_sizes(seed):
    g = torch.Generator().manual_seed(seed)
    def pick(low, high): return int(torch.randint(low, high, (), generator=g))
    stem, chans, classes, batch = pick(1, 5), pick(1, 6), pick(1, 30), pick(1, 4)
    depths, window = tuple(pick(1, 4) for _ in range(4)), pick(1, 9)
    fixed = bool(pick(0, 2))
    side = 8 * stem + stem * pick(0, 12)
    net = swin.Swin(depths, 8, (1, 2, 4, 8), classes, chans, 0.3, stem, side if fixed else None,
                    window)
    x = torch.randn(batch, chans, side, side + (0 if fixed else pick(0, 9)), generator=g)
    net(x).square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    weights.randomize(net).eval()
    with torch.inference_mode():
        whole, alone = net(x), torch.cat([net(x[i:i + 1]) for i in range(batch)])
        assert whole.shape == (batch, classes) and whole.isfinite().all()
        assert torch.allclose(whole, alone, atol=1e-4)  # no image sees another
        assert gap(net.double()(x.double()).float(), whole) < 1e-4
    assert cost.count(net.float(), side).params == sum(p.numel() for p in net.parameters())


KINDS = [dict(), dict(img_size=64, window=8), dict(img_size=32)]


@pytest.mark.parametrize("kind", KINDS[:2])
def test_compiles_to_one_graph(kind):
    net = drawn(swin.Swin, **SMALL, **kind)
    x = images(*[kind.get("img_size", 64)] * 2)
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    assert gap(compiled(x), net(x)) < 1e-5
    compiled(x).sum().backward()
    assert all(p.grad is not None for p in net.parameters())
    torch.compiler.reset()


@pytest.mark.parametrize("kind", KINDS)
def test_channels_last_changes_nothing(kind):
    net = drawn(swin.Swin, **SMALL, **kind)
    x = images(*[kind.get("img_size", 64)] * 2)
    with torch.inference_mode():
        plain = net(x)
        fast = net.to(memory_format=torch.channels_last)(x.to(memory_format=torch.channels_last))
    assert gap(fast, plain) < 1e-5


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_autocast_stays_close(kind):
    net = drawn(swin.Swin, **SMALL, **kind)
    x = images(*[kind.get("img_size", 64)] * 2)
    with torch.autocast("cpu", torch.bfloat16):
        rough = net(x)
    rough.float().sum().backward()
    assert all(p.grad.isfinite().all() for p in net.parameters())
    assert 0 < gap(rough.float(), net(x)) < 0.1


def test_drop_path_grows_linearly_and_is_off_in_evaluation():
    net = drawn(swin.Swin, **SMALL, drop_path=0.7)
    rates = [m.p for m in net.modules() if isinstance(m, swin.DropPath)]
    assert rates == pytest.approx([0.1 * i for i in range(8)])
    x = images(64, 64)
    with torch.inference_mode():
        assert torch.equal(net(x), net(x))
        net.train()
        assert not torch.equal(net(x), net(x))


def test_start_values_follow_torchvisions_distribution():
    torch.manual_seed(0)
    ours, theirs = swin.swin_t(), torchvision.models.swin_t()
    for (name, p), q in zip(ours.named_parameters(), theirs.parameters()):
        assert abs(p.std() - q.std()) <= 0.2 * q.std() + 1e-9, name
        assert abs(p.mean() - q.mean()) < 0.01, name


@pytest.mark.parametrize("make, said", [
    (lambda: swin.swin_t(stem_stride=0), "stem_stride must be a whole number of 1 or more, got 0"),
    (lambda: swin.swin_t(stem_stride=2.0), "stem_stride must be a whole number"),
    (lambda: swin.swin_t(stem_stride=None), "stem_stride must be a whole number"),
    (lambda: swin.swin_t(window=0), "window must be a whole number"),
    (lambda: swin.swin_t(img_size=66), "img_size 66 does not fit.*multiple of stem_stride 4"),
    (lambda: swin.swin_t(img_size=28), "at least the total stride 32"),
    (lambda: swin.swin_t(img_size=0), "img_size 0 does not fit"),
    (lambda: swin.swin_t(img_size=(64, 64)), "one side in pixels"),
    (lambda: swin.swin_t(drop_path=1.5), "probability"),
    (lambda: swin.Swin((2, 2), 96, (3,)), "same number of stages"),
    (lambda: swin.Swin((2,), 100, (3,)), "100 channels cannot be cut into 3 equal heads")])
def test_bad_parts_are_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


@pytest.mark.parametrize("x, said", [
    (images(31, 64), "smaller than the network's total stride of 32"),
    (images(64, 64, chans=1), r"expected images \(B, 3, H, W\)"),
    (torch.zeros(3, 64, 64), r"expected images \(B, 3, H, W\)"),
    (images(96, 96), "built for img_size 64, the image has 96x96 px")])
def test_bad_images_are_refused(x, said):
    net = swin.Swin(**SMALL, img_size=64)
    with pytest.raises(ValueError, match=said):
        net(x)
