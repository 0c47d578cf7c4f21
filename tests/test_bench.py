"""The benchmark's choices, and the layers that are there for speed alone."""
import pytest
import torch
from oracles import drawn, gap
from torch import nn

from convnext_nb import bench, clock, convnext, cost, layers, peers, train

SMALL = dict(depths=(1, 1, 2, 1), dims=(16, 32, 64, 128))


def pair(dim, kernel):
    ours = layers.Depthwise(dim, kernel)
    usual = nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
    usual.load_state_dict(ours.state_dict(), strict=True)
    return ours, usual


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_depthwise_has_the_gradients_of_conv2d(seed, layout):
    g = torch.Generator().manual_seed(seed)
    b, dim, h, w = (int(torch.randint(1, most, (), generator=g)) for most in (20, 12, 24, 24))
    ours, usual = pair(dim, (3, 5, 7)[seed % 3])
    x = torch.randn(b, dim, h, w, generator=g).contiguous(memory_format=layout)
    seen = []
    for net in (ours, usual):
        image = x.clone().requires_grad_()
        y = net(image)
        y.backward(torch.linspace(-1, 1, y.numel()).view_as(y))
        seen.append([y, image.grad, *(p.grad for p in net.parameters())])
    assert torch.equal(seen[0][0], seen[1][0])
    for a, b in zip(*seen):
        assert gap(a, b) < 1e-4


def test_depthwise_takes_its_own_way_only_in_training():
    net, x = layers.Depthwise(4), torch.randn(2, 4, 9, 9)
    assert "DepthwiseConv" in net(x).grad_fn.name()
    assert "Convolution" in net(x[..., :3, :]).grad_fn.name()  # the padding outgrows the map
    assert "Convolution" in net.eval()(x).grad_fn.name()
    net.train().weight.requires_grad_(False)
    assert "Convolution" in net(x).grad_fn.name()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_depthwise_under_autocast(dtype):
    ours, usual = pair(8, 7)
    x = torch.randn(3, 8, 12, 12)
    for net in (ours, usual):
        with torch.autocast("cpu", dtype):
            y = net(x)
        assert y.dtype == dtype
        y.float().square().mean().backward()
    for a, b in zip(ours.parameters(), usual.parameters()):
        assert a.grad.dtype == torch.float32 and gap(a.grad, b.grad) < 2e-2


def test_pixel_linear_is_linear():
    for shape in ((1, 1, 1, 24), (20, 5, 3, 24)):
        x, net = torch.randn(shape, requires_grad=True), layers.PixelLinear(24, 10)
        usual = nn.functional.linear(x, net.weight, net.bias)
        assert gap(net(x), usual) < 1e-5
        weight = torch.randn_like(usual)
        grads = [torch.autograd.grad((y * weight).sum(), [x, net.weight, net.bias])
                 for y in (net(x), usual)]
        for a, b in zip(*grads):
            assert gap(a, b) < 1e-4


@pytest.mark.parametrize("grn", [False, True])
def test_few_images_at_a_time_change_nothing(grn, monkeypatch):
    net = drawn(lambda: convnext.ConvNeXt(**SMALL, grn=grn)).eval()
    x, parts = torch.randn(5, 3, 64, 64), []
    monkeypatch.setattr(convnext, "by_few", lambda f, x: layers.by_few(
        lambda part: parts.append(len(part)) or f(part), x, numbers=2 * x[0].numel()))
    whole = net(x).detach()
    assert set(parts) == {5}
    with torch.no_grad():
        assert gap(net(x), whole) < 1e-5
    assert parts[-3:] == [2, 2, 1]


def test_training_in_one_graph_for_the_compiler():
    net = convnext.ConvNeXt(**SMALL, drop_path=0.0)
    x = torch.randn(2, 3, 64, 64)
    net(x).square().sum().backward()
    grads = [p.grad.clone() for p in net.parameters()]
    net.zero_grad()
    torch.compile(net, backend="aot_eager", fullgraph=True)(x).square().sum().backward()
    for p, g in zip(net.parameters(), grads):
        assert gap(p.grad, g) < 1e-4


def test_any_layout_is_channels_last_inside():
    net, x = convnext.ConvNeXt(**SMALL, features=True), torch.randn(2, 3, 64, 64)
    for m in net(x):
        assert m.is_contiguous(memory_format=torch.channels_last)


def test_who_trains_on_which_machine():
    gpu = bench.contestants("cuda", True, True)
    assert gpu[0] == ("timm", "channels last", True, False)  # eager AMP, the first baseline
    assert gpu[1] == ("timm", "channels last", True, True)  # the same compiled
    assert gpu[-1] == ("ours", "channels last", True, True)
    old_gpu = bench.contestants("cuda", False, False)
    assert not any(bf16 for _, _, bf16, _ in old_gpu)
    cpu = bench.contestants("cpu", True, False)
    assert [c[:3] for c in cpu[:2]] == [("timm", layout, False) for layout in bench.LAYOUTS]
    assert [c[2] for c in cpu[2:]] == [False, True]


def test_recipes_that_are_timed():
    assert bench.timed_preset("cuda").compile and bench.timed_preset("cuda").mixup > 0
    for device in ("cuda", "mps", "cpu"):
        timed = bench.plain_recipe(bench.timed_preset(device))
        assert timed.augment == "crop flip" and not timed.mixup and timed.optimizer == "adamw"
        assert timed.model_args == bench.timed_preset(device).model_args


@pytest.mark.parametrize("stem_stride", [2, 4])
def test_timm_races_with_the_same_network(stem_stride):
    ours = convnext.ConvNeXt((1, 2, 1, 1), (8, 16, 24, 32), 10, stem_stride=stem_stride)
    theirs = peers.build_peer(ours, "timm")
    assert cost.count(theirs, 64) == cost.count(ours, 64)


def test_the_whole_preset_is_bounded(monkeypatch):
    "What bounds a pass is measured with the preset's own augmentation, not with the race's."
    seen = []
    monkeypatch.setattr(bench, "bounds", lambda recipe, *args: seen.append(recipe) or [])
    bench.bench_train(repeats=1, batches=2, batch_size=4, mixup=0.2,
                      model_args=dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)))
    assert seen[0].mixup == 0.2


def test_different_networks_are_not_compared(monkeypatch):
    def spoiled(**sizes):
        nets = made(**sizes)
        with torch.no_grad():
            nets["timm"].head.fc.bias += 1
        return nets
    made = bench.networks
    monkeypatch.setattr(bench, "networks", spoiled)
    with pytest.raises(ValueError, match="apart with the same weights"):
        bench.candidates("training", "fp32", "channels last", batch=1, size=32, **SMALL)


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="needs a C.. compiler"):
        train.need_compiler()


KINDS = [("aten::mkldnn_convolution", [[8, 96, 56, 56], [96, 1, 7, 7]], "depthwise"),
         ("aten::convolution_backward", [[], [], [384, 96, 1, 1]], "linear"),
         ("aten::cudnn_convolution", [[], [96, 3, 4, 4]], "stem, downsampling"),
         ("aten::addmm", [], "linear"), ("aten::gelu_backward", [], "GELU"),
         ("aten::empty", [], "rest")]


@pytest.mark.parametrize("operation, shapes, kind", KINDS)
def test_kinds_of_work(operation, shapes, kind):
    assert clock.kind_of(operation, shapes) == kind
