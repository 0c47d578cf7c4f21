"""Our networks against the established ones: same weights, same logits, same gradients."""
import pytest
import timm
import torch
import torchvision
from oracles import drawn, gap, images, on_meta

from convnext_nb import convnext, cost, resnet, roadmap, weights

SIZES = ("tiny", "small", "base", "large", "xlarge")


def oracle(model, name, library):
    "The network of another library, with our weights (the same tensors)."
    make = timm.create_model if library == "timm" else torchvision.models.get_model
    theirs = on_meta(make, name)
    state = {k: v.detach() for k, v in weights.convert(model, library).items()}
    theirs.load_state_dict(state, strict=True, assign=True)
    return theirs.requires_grad_()


PAIRS = [(size, library) for size in SIZES for library in ("timm", "torchvision")
         if (size, library) != ("xlarge", "torchvision")]  # torchvision has no XL


@pytest.mark.parametrize("size, library", PAIRS)
def test_logits_equal(size, library):
    name = f"convnext_{size}"
    ours = drawn(getattr(convnext, name)).eval()
    theirs = oracle(ours, name, library).eval()
    with torch.inference_mode():
        assert gap(ours(images()), theirs(images())) < 1e-5


@pytest.mark.parametrize("library", ["timm", "torchvision"])
@pytest.mark.parametrize("train", [True, False])
def test_gradients_equal(library, train):
    ours = drawn(convnext.convnext_tiny).train(train)
    theirs = oracle(ours, "convnext_tiny", library).train(train)
    if library == "torchvision":  # its tiny model has stochastic depth built in
        for m in theirs.modules():
            if isinstance(m, torchvision.ops.StochasticDepth):
                m.p = 0.0
    for net in (ours, theirs):
        net(images(32)).square().mean().backward()
    names, grads = weights.names(ours, library), {n: p.grad for n, p in theirs.named_parameters()}
    for name, p in ours.named_parameters():
        assert gap(p.grad, grads[names[name]].view_as(p)) < 1e-4, name


MUTATIONS = {
    "no depthwise": lambda b: setattr(b, "dwconv", torch.nn.Identity()),
    "tanh gelu": lambda b: setattr(b, "act", torch.nn.GELU("tanh")),
    "relu": lambda b: setattr(b, "act", torch.nn.ReLU()),
    "no norm": lambda b: setattr(b, "norm", torch.nn.Identity()),
    "norm eps": lambda b: setattr(b.norm, "eps", 1e-2),
    "no layer scale": lambda b: setattr(b, "gamma", None),
}


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_a_planted_fault_is_seen(mutation):
    ours = drawn(convnext.convnext_atto).eval()
    theirs = oracle(ours, "convnext_atto", "timm").eval()
    with torch.inference_mode():
        expected = theirs(images())
        assert gap(ours(images()), expected) < 1e-5
        for stage in ours.stages:
            for block in stage:
                MUTATIONS[mutation](block)
        assert gap(ours(images()), expected) > 1e-4


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet101", "resnet152"])
def test_resnet_logits_equal(name):
    theirs = drawn(getattr(torchvision.models, name)).eval()
    ours = getattr(resnet, name)().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.inference_mode():
        assert gap(ours(images()), theirs(images())) < 1e-5


def test_resnet200_is_torchvisions_with_more_blocks():
    bottleneck = torchvision.models.resnet.Bottleneck
    theirs = drawn(lambda: torchvision.models.ResNet(bottleneck, [3, 24, 36, 3])).eval()
    ours = resnet.resnet200().eval()
    ours.load_state_dict(theirs.state_dict(), strict=True)
    with torch.inference_mode():
        assert gap(ours(images()), theirs(images())) < 1e-5


@pytest.mark.parametrize("name", ["atto", "femto", "pico", "nano"])
@pytest.mark.parametrize("version", ["convnext", "convnextv2"])
def test_small_sizes_against_timm(name, version):
    ours = drawn(getattr(convnext, f"{version}_{name}")).eval()
    theirs = oracle(ours, f"{version}_{name}", "timm").eval()
    with torch.inference_mode():
        assert gap(ours(images()), theirs(images())) < 1e-5


@pytest.mark.parametrize("regime", ["resnet50", "resnet200"])
@pytest.mark.parametrize("stem_stride", [1, 2, 4])
def test_every_step_trains_at_every_stem(regime, stem_stride):
    for s in roadmap.steps(regime):
        small = dict(depths=(1, 1, 2, 1), width_mult=0.25, num_classes=7)
        net = roadmap.build(s, stem_stride=stem_stride, drop_path=0.1, **small)
        logits = net(images(8 * stem_stride + 3))
        assert logits.shape == (2, 7)
        logits.sum().backward()
        assert all(p.grad is not None for p in net.parameters()), s.name


def test_channels_last_changes_nothing():
    for s in roadmap.steps():
        net = weights.randomize(roadmap.build(s, width_mult=0.25, depths=(1, 1, 1, 1))).eval()
        with torch.inference_mode():
            plain = net(images())
            fast = net.to(memory_format=torch.channels_last)(
                images().to(memory_format=torch.channels_last))
        assert gap(fast, plain) < 1e-5, s.name


@pytest.mark.parametrize("seed", range(6))
def test_properties_over_sizes(seed):
    g = torch.Generator().manual_seed(seed)
    def pick(low, high): return int(torch.randint(low, high, (), generator=g))
    stem, chans, classes, batch = pick(1, 5), pick(1, 6), pick(1, 30), pick(1, 4)
    depths, width = tuple(pick(1, 3) for _ in range(4)), 8 * pick(1, 4)
    net = convnext.ConvNeXt(depths, tuple(width * 2**i for i in range(4)), classes, chans,
                            drop_path=0.3, stem_stride=stem, grn=bool(pick(0, 2)))
    side = net.total_stride + pick(0, 40)
    x = torch.randn(batch, chans, side, side + pick(0, 9), generator=g)
    assert net(x).shape == (batch, classes)
    net.eval()
    with torch.inference_mode():
        whole, alone = net(x), torch.cat([net(x[i:i + 1]) for i in range(batch)])
        assert torch.allclose(whole, alone, atol=1e-5)  # no image sees another
        assert gap(net.double()(x.double()).float(), whole) < 1e-4
    assert cost.count(net, side).params == sum(p.numel() for p in net.parameters())


SMALL = dict(depths=(1, 1, 2, 1), dims=(8, 16, 32, 64))


@pytest.mark.parametrize("make", [
    lambda: convnext.ConvNeXt(**SMALL), lambda: convnext.ConvNeXt(**SMALL, grn=True),
    resnet.resnet18, lambda: roadmap.build("ln", width_mult=0.25, depths=SMALL["depths"])])
def test_one_graph_for_the_compiler(make):
    net = make().eval()
    compiled = torch.compile(net, backend="eager", fullgraph=True)
    with torch.inference_mode():
        assert torch.equal(compiled(images()), net(images()))


def test_bf16_autocast_stays_near():
    net = drawn(convnext.convnext_atto).eval()
    with torch.inference_mode():
        exact = net(images())
        with torch.autocast("cpu", torch.bfloat16):
            rough = net(images()).float()
    assert 0 < gap(rough, exact) < 0.1


def test_cost_leaves_the_model_alone():
    net = convnext.convnext_atto()
    net.stages[0].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    cost.count(net, 64)
    cost.table(net, 64)
    assert net.training and not net.stages[0].training
    assert all(torch.equal(v, before[k]) and v.device.type == "cpu"
               for k, v in net.state_dict().items())
