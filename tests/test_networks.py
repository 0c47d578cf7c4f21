"""Our networks against the established ones: same weights, same logits, same gradients."""
import pickle
from dataclasses import replace
from functools import partial

import onnxruntime
import pytest
import torch
import torchvision
from oracles import drawn, gap, images
from torch.nn.attention import SDPBackend, sdpa_kernel

from convnext_nb import convnext, cost, fast, peers, proof, resnet, roadmap, swin, walk, weights


@pytest.mark.parametrize("size", ["tiny", "small"])
@pytest.mark.parametrize("library", ["timm", "torchvision"])
def test_logits_equal(size, library):
    name = f"convnext_{size}"
    ours = drawn(getattr(convnext, name)).eval()
    theirs = peers.with_our_weights(ours, library, name).eval()
    with torch.inference_mode():
        assert gap(ours(images()), theirs(images())) < 1e-5


@pytest.mark.parametrize("grn", [False, True])
@pytest.mark.parametrize("width", [128, 192, 256, 352])
def test_large_sizes_at_reduced_depth(width, grn):
    "B, L, XL and V2's huge; runs/measured/proof.json has them at full depth."
    depths, dims = (1, 1, 2, 1), tuple(width * 2**i for i in range(4))
    ours = drawn(lambda: convnext.ConvNeXt(depths, dims, layer_scale=None if grn else 1.0, grn=grn))
    theirs = peers.with_our_weights(ours, "timm")
    with torch.inference_mode():
        assert gap(ours.eval()(images()), theirs(images())) < 1e-5


@pytest.mark.parametrize("library", ["timm", "torchvision"])
@pytest.mark.parametrize("train", [True, False])
def test_gradients_equal(library, train):
    ours = drawn(convnext.convnext_tiny).train(train)
    theirs = peers.with_our_weights(ours, library, "convnext_tiny").train(train)
    if library == "torchvision":  # its tiny model has stochastic depth built in
        for m in theirs.modules():
            if isinstance(m, torchvision.ops.StochasticDepth):
                m.p = 0.0
    for net in (ours, theirs):
        net(images(32)).square().mean().backward()
    names, grads = weights.key_map(ours, library), {n: p.grad for n, p in theirs.named_parameters()}
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
    theirs = peers.with_our_weights(ours, "timm", "convnext_atto").eval()
    with torch.inference_mode():
        expected = theirs(images())
        assert gap(ours(images()), expected) < 1e-5
        for stage in ours.stages:
            for block in stage:
                MUTATIONS[mutation](block)
        assert gap(ours(images()), expected) > 1e-4


@pytest.mark.parametrize("name", ["resnet18", "resnet34", "resnet50", "resnet152"])
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
    theirs = peers.with_our_weights(ours, "timm", f"{version}_{name}").eval()
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


# Properties of every family ---------------------------------------------------------------------

DEPTHS = (1, 1, 2, 1)
FAMILIES = {  # small networks of every kind
    "V1": lambda **k: convnext.ConvNeXt(DEPTHS, (8, 16, 32, 64), **k),
    "V2": lambda **k: convnext.ConvNeXt(DEPTHS, (8, 16, 32, 64), layer_scale=None, grn=True, **k),
    "isotropic": lambda **k: convnext.ConvNeXtIsotropic(2, 16, **k),
    "isotropic L": lambda **k: convnext.ConvNeXtIsotropic(2, 16, layer_scale=1e-6, **k),
    "basic blocks": lambda **k: resnet.ResNet(resnet.BasicBlock, DEPTHS, width=8, **k),
    "bottlenecks": lambda **k: resnet.ResNet(resnet.Bottleneck, DEPTHS, width=8, **k),
    "Swin": lambda **k: swin.Swin((2, 2, 2, 2), 8, (1, 2, 4, 8), **k),
    "walk": lambda **k: roadmap.build("fewer_norm", width_mult=0.25, depths=DEPTHS, **k)}
each_family = pytest.mark.parametrize("family", FAMILIES)


def small(family, **settings):
    "A small network of the family with random weights, in evaluation mode."
    return weights.randomize(FAMILIES[family](**settings)).eval()


@pytest.mark.parametrize("seed", range(4))
@each_family
def test_properties_over_sizes(family, seed):
    g = torch.Generator().manual_seed(seed)
    def pick(low, high): return int(torch.randint(low, high, (), generator=g))
    stem = 2 ** pick(0, 3) * (4 if "isotropic" in family else 1)
    chans, classes, batch = pick(1, 6), pick(1, 30), pick(1, 4)
    net = FAMILIES[family](num_classes=classes, in_chans=chans, drop_path=0.3, stem_stride=stem)
    total = net.total_stride
    tall, wide = total + pick(0, 40), total + pick(0, 40)
    x = torch.randn(batch + 1, chans, tall, wide, generator=g)
    out = net.train()(x)
    assert out.shape == (batch + 1, classes)
    out.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())
    weights.randomize(net).eval()
    with torch.inference_mode():
        whole, alone = net(x), torch.cat([net(x[i:i + 1]) for i in range(len(x))])
        assert whole.isfinite().all() and torch.equal(whole, net(x))
        assert gap(alone, whole) < 1e-5  # no image sees another
        assert gap(net.double()(x.double()).float(), whole) < 1e-5
    assert cost.count(net.float(), total).params == sum(p.numel() for p in net.parameters())
    with pytest.raises(ValueError, match="total stride"):
        net(x[:, :, :total - 1])


@pytest.mark.parametrize("name, library", [
    ("convnext_atto", "timm"), ("convnext_tiny", "torchvision"), ("convnextv2_atto", "timm"),
    ("convnextv2_atto", "transformers"), ("convnext_isotropic_small", "timm"),
    ("resnet18", "torchvision"), ("resnet50", "timm"), ("resnet50", "transformers")])
@pytest.mark.parametrize("height, width", [(33, 50), (47, 32), (97, 64)])
def test_odd_sizes_match_theirs(name, library, height, width):
    ours = proof.drawn(name)
    theirs = peers.with_our_weights(ours, library, name)
    x = images(97)[:, :, :height, :width]
    assert gap(peers.logits(ours, x), peers.logits(theirs, x)) < 1e-5


@each_family
def test_channels_last_changes_nothing_in_any_family(family):
    net = small(family)
    with torch.inference_mode():
        plain = net(images())
        fast = net.to(memory_format=torch.channels_last)(
            images().to(memory_format=torch.channels_last))
    assert gap(fast, plain) < 1e-5


@pytest.mark.parametrize("family", ["V1", "V2"])
def test_any_layout_is_channels_last_inside(family):
    for m in FAMILIES[family](features=True)(images()):
        assert m.is_contiguous(memory_format=torch.channels_last)


@each_family
@pytest.mark.parametrize("dtype, near", [(torch.bfloat16, 0.1), (torch.float16, 0.02)])
def test_half_precision_stays_close(family, dtype, near):
    net = small(family)
    with torch.inference_mode():
        exact = net(images())
        with torch.autocast("cpu", dtype):
            assert 0 < gap(net(images()).float(), exact) < near
        whole = net.to(dtype)(images().to(dtype))
    assert whole.dtype == dtype and 0 < gap(whole.float(), exact) < near


@each_family
def test_autocast_trains(family):
    net = small(family).train()
    with torch.autocast("cpu", torch.bfloat16):
        out = net(images())
    out.float().square().mean().backward()
    assert all(p.grad.dtype == torch.float32 and p.grad.isfinite().all()
               for p in net.parameters())


@each_family
def test_compiles_to_one_graph(family):
    net = small(family)
    compiled = torch.compile(net, backend="aot_eager", fullgraph=True)
    with torch.inference_mode():
        assert gap(compiled(images()), net(images())) < 1e-5
    torch.compiler.reset()


@each_family
def test_exported_for_any_batch(family):
    net, batch = small(family), torch.export.Dim("batch")
    program = torch.export.export(net, (images(),), dynamic_shapes=({0: batch},)).module()
    for n in (1, 2, 5):
        x = images(batch=n)
        with torch.inference_mode():
            assert gap(program(x), net(x)) < 1e-5


@each_family
def test_onnx_gives_the_same_logits(family):
    net, batch = small(family), torch.export.Dim("batch")
    with sdpa_kernel(SDPBackend.MATH):  # the exporter cannot follow the fast attention's layout
        program = torch.onnx.export(net, (images(),), dynamo=True, verbose=False,
                                    dynamic_shapes=({0: batch},))
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    x = images(batch=3)
    said, = session.run(None, {"x": x.numpy()})
    with torch.inference_mode():
        assert gap(torch.from_numpy(said), net(x)) < 1e-5


def test_cost_leaves_the_model_alone():
    net = convnext.convnext_atto()
    net.stages[0].eval()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    cost.count(net, 64)
    cost.table(net, 64)
    assert net.training and not net.stages[0].training
    assert all(torch.equal(v, before[k]) and v.device.type == "cpu"
               for k, v in net.state_dict().items())


# What other people's tools do to a network -------------------------------------------------------

@each_family
@pytest.mark.parametrize("train", [True, False])
def test_fx_records_every_network(family, train):
    net = small(family).train(train)
    traced = torch.fx.symbolic_trace(net)
    for size in (64, 97):
        with torch.no_grad():
            assert gap(traced(images(size)), net(images(size))) < 1e-5
    noisy = torch.fx.symbolic_trace(FAMILIES[family](drop_path=0.5).train())
    assert noisy(images()).isfinite().all()


@each_family
def test_feature_extractor(family):
    net = small(family)
    part = next(n for n, _ in net.named_modules() if n.count(".") == 1 and n[-1] == "1")
    seen = []
    net.get_submodule(part).register_forward_hook(lambda m, i, out: seen.append(out))
    with torch.no_grad():
        maps = torchvision.models.feature_extraction.create_feature_extractor(net, {part: "map"})
        net(images())
        assert gap(maps(images())["map"], seen[-1]) < 1e-5


def test_feature_extractor_of_a_swin_for_one_size():
    net = swin.Swin((2, 2, 2, 2), 8, (1, 2, 4, 8), img_size=64).eval()
    traced = torch.fx.symbolic_trace(net)
    with torch.no_grad(): assert torch.equal(traced(images(64)), net(images(64)))
    with pytest.raises(ValueError, match="built for img_size 64"): traced(images(96))


@each_family
def test_export_under_no_grad_keeps_any_batch(family):
    net = fast.speed_up(small(family))
    with torch.no_grad():
        program = torch.export.export(net, (images(batch=3),), dynamic_shapes=(
            {0: torch.export.Dim("batch")},)).module()
        for n in (2, 5): assert gap(program(images(batch=n)), net(images(batch=n))) < 1e-5


@each_family
@pytest.mark.parametrize("fast_too", [False, True])
def test_empty_batch(family, fast_too):
    net = fast.speed_up(small(family)) if fast_too else small(family)
    with torch.no_grad(): assert net(images()[:0]).shape == (0, 1000)


@each_family
@pytest.mark.parametrize("fast_too", [False, True])
def test_gradient_of_each_sample(family, fast_too):
    net = small(family, num_classes=3)
    if fast_too: fast.speed_up(net)
    params = {k: p.detach() for k, p in net.named_parameters()}
    def loss(params, x):
        return torch.func.functional_call(net, params, (x[None],)).square().sum()
    x = images(64)
    with sdpa_kernel(SDPBackend.MATH):
        grads = torch.func.vmap(torch.func.grad(loss), (None, 0))(params, x)
    alone = torch.func.grad(loss)(params, x[1])
    assert all(gap(grads[k][1], alone[k]) < 1e-4 for k in params)


@each_family
def test_forward_gradients(family):
    net = fast.speed_up(small(family, num_classes=3))
    if family not in ("basic blocks", "bottlenecks", "walk"): net.train()  # no batch norm
    x, v = images(64), images(64).flip(0)
    with sdpa_kernel(SDPBackend.MATH):
        _, slope = torch.func.jvp(net, (x,), (v,))
        net.double()
        step = 1e-5 * v.double()
        expected = (net(x.double() + step) - net(x.double() - step)) / 2e-5
    assert gap(slope, expected.float()) < 1e-3


@each_family
def test_trace_in_training_mode_is_saved(family, tmp_path):
    net = fast.speed_up(small(family)).train()
    traced = torch.jit.trace(net, images(), check_trace=False)
    traced.save(tmp_path / "net.pt")
    again = torch.jit.load(tmp_path / "net.pt")
    with torch.no_grad(): assert gap(again(images()), net(images())) < 1e-5


@each_family
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_table_of_any_precision(family, dtype):
    net = FAMILIES[family]().to(dtype)
    assert str(cost.table(net, 64)) == str(cost.table(FAMILIES[family](), 64))
    assert cost.shapes(net, 64) == cost.shapes(FAMILIES[family](), 64)


@each_family
@pytest.mark.parametrize("train", [False, True])
def test_float64_stays_float64_under_autocast(family, train):
    net = fast.speed_up(small(family)).double().train(train)
    with torch.autocast("cpu", torch.bfloat16):
        out = net(images().double())
    assert out.dtype == torch.float64
    assert gap(out.float(), net(images().double()).float()) < 1e-6


@each_family
def test_layers_are_the_kinds_that_counters_and_quantizers_know(family):
    net = small(family)
    kinds = {type(m) for m in net.modules() if m._parameters}
    assert not [k for k in kinds if issubclass(k, (torch.nn.Linear, torch.nn.Conv2d))
                and k not in (torch.nn.Linear, torch.nn.Conv2d)]
    linears = [m for m in net.modules() if type(m) is torch.nn.Linear]
    quantized = torch.ao.quantization.quantize_dynamic(fast.speed_up(net), {torch.nn.Linear})
    changed = [m for m in quantized.modules()
               if type(m) is torch.ao.nn.quantized.dynamic.Linear]
    assert len(changed) == len(linears)


class Lowrank(torch.nn.Module):
    "What LoRA does to a linear layer: a wrapper that adds a product of two small matrices."
    def __init__(self, linear):
        super().__init__()
        self.base = linear
        self.down = torch.nn.Linear(linear.in_features, 2, bias=False)
        self.up = torch.nn.Linear(2, linear.out_features, bias=False)

    def forward(self, x): return self.base(x) + self.up(self.down(x))


class Doubled(torch.nn.Module):
    def forward(self, weight): return 2 * weight


@pytest.mark.parametrize("family", ["V1", "V2", "isotropic", "walk", "Swin"])
def test_a_linear_layer_may_be_wrapped(family):
    net, merged = fast.speed_up(small(family)), small(family)
    merged.load_state_dict(net.state_dict())
    names = [n for n, m in net.named_modules() if type(m) is torch.nn.Linear]
    for name in names:
        home, _, last = name.rpartition(".")
        wrapped = Lowrank(net.get_submodule(name))
        setattr(net.get_submodule(home), last, wrapped)
        with torch.no_grad():
            merged.get_submodule(name).weight += wrapped.up.weight @ wrapped.down.weight
    with torch.no_grad(): assert gap(net(images()), merged(images())) < 1e-4


@pytest.mark.parametrize("family", ["V1", "V2", "isotropic", "walk", "Swin"])
def test_a_linear_layer_may_be_parametrized(family):
    net, merged = fast.speed_up(small(family)), small(family)
    merged.load_state_dict(net.state_dict())
    for name, m in list(net.named_modules()):
        if type(m) is not torch.nn.Linear: continue
        torch.nn.utils.parametrize.register_parametrization(m, "weight", Doubled())
        with torch.no_grad(): merged.get_submodule(name).weight.mul_(2)
    with torch.no_grad(): assert gap(net(images()), merged(images())) < 1e-4


BUILDERS = [getattr(module, name) for module in (convnext, resnet, swin)
            for name in module.__all__ if name.split("_")[0] in
            ("convnext", "convnextv2", "swin") or name.startswith("resnet")]


@pytest.mark.parametrize("build", BUILDERS, ids=lambda b: b.__name__)
def test_builders_are_functions_that_can_be_registered(build):
    name = f"test_{build.__name__}"
    torchvision.models._api.register_model(name)(build)
    try:
        assert pickle.loads(pickle.dumps(build)) is build
        made = cost.on_meta(torchvision.models.get_model, name, num_classes=7)
        assert list(made.parameters())[-1].shape == (7,)
    finally: torchvision.models._api.BUILTIN_MODELS.pop(name)


@pytest.mark.parametrize("build", [convnext.convnext_tiny, convnext.convnextv2_atto])
def test_a_builder_takes_other_depths_and_widths(build):
    net = build(depths=(1, 1, 1, 1), dims=(8, 16, 32, 64), num_classes=3)
    assert [len(s) for s in net.stages] == [1, 1, 1, 1] and net(images()).shape == (2, 3)


def test_a_stem_has_one_norm():
    with pytest.raises(ValueError, match="stem_norm=True needs stem='patchify'"):
        roadmap.build("base", stem_norm=True)


@pytest.mark.parametrize("library, make", [
    ("timm", lambda: convnext.ConvNeXt((1, 1, 1, 1), (8, 16, 24, 32), 5, 1, stem_stride=2)),
    ("transformers", lambda: convnext.ConvNeXt((1, 1, 1), (8, 16, 24), 5, stem_stride=2)),
    ("transformers", lambda: convnext.ConvNeXt((1,) * 5, (8,) * 5, 5, grn=True, layer_scale=None)),
    ("transformers", lambda: convnext.ConvNeXt((1, 1, 1, 1), (8, 16, 24, 32), 5, in_chans=1)),
    ("transformers", lambda: resnet.ResNet(resnet.BasicBlock, (1, 1, 1, 1), 5, width=8)),
    ("transformers", lambda: resnet.ResNet(resnet.Bottleneck, (1, 2, 1, 1), 5, width=8)),
    ("transformers", lambda: swin.Swin((2, 2, 2, 2), 12, (1, 2, 3, 4), 5, window=4)),
    ("timm", lambda: convnext.ConvNeXtIsotropic(2, 16, 5, in_chans=1, stem_stride=8))])
def test_networks_of_any_size_in_other_libraries(library, make):
    ours = weights.randomize(make()).eval()
    x = torch.randn(2, ours.in_chans, 128, 128, generator=torch.Generator().manual_seed(0))
    theirs = peers.with_our_weights(ours, library)
    with torch.inference_mode():
        y = theirs(x)
        assert gap(ours(x), getattr(y, "logits", y)) < 1e-5


@pytest.mark.parametrize("library, make", [
    ("torchvision", lambda: convnext.ConvNeXt(grn=True, layer_scale=None)),
    ("torchvision", lambda: convnext.ConvNeXt(stem_stride=2)),
    ("torchvision", lambda: convnext.ConvNeXt(in_chans=1)),
    ("transformers", lambda: resnet.resnet18(stem_stride=2))])
def test_what_a_library_does_not_have_is_an_error(library, make):
    with torch.device("meta"): ours = make()
    with pytest.raises(ValueError, match="stem of stride 4"): peers.build_peer(ours, library)


def test_a_width_is_multiplied():
    for given in (dict(width=128), {}):
        base = given.get("width", 64)
        assert roadmap.build("base", width_mult=0.5, **given).step.width == base // 2


@pytest.mark.parametrize("depths", [(1,), (1, 1), (1,) * 5])
@pytest.mark.parametrize("step", ["base", "sep_ds"])
def test_the_total_stride_is_that_of_the_stages(step, depths):
    net = roadmap.build(step, num_classes=3, depths=depths, width=8).eval()
    stride = net.total_stride
    assert stride == 4 * 2 ** (len(depths) - 1)
    assert net(torch.randn(1, 3, stride, stride)).shape == (1, 3)
    with pytest.raises(ValueError, match=f"total stride of {stride}"):
        net(torch.randn(1, 3, stride - 1, stride - 1))


# how they begin

@pytest.mark.parametrize("name", ["resnet18", "resnet50"])
def test_a_resnet_begins_as_torchvisions_does(name):
    torch.manual_seed(0)
    ours, theirs = getattr(resnet, name)(), torchvision.models.get_model(name)
    for (key, p), q in zip(ours.named_parameters(), theirs.parameters(), strict=True):
        assert abs(p.std() - q.std()) <= 0.1 * q.std() + 1e-9, key


@pytest.mark.parametrize("make", [
    convnext.convnext_atto, convnext.convnextv2_atto, lambda: convnext.ConvNeXtIsotropic(2, 64),
    lambda: roadmap.build("sep_ds", width_mult=0.5)],
    ids=["convnext", "convnextv2", "isotropic", "sep_ds"])
def test_a_convnext_begins_small(make):
    torch.manual_seed(0)
    for name, p in make().named_parameters():
        if name.endswith("bias"): assert not p.any(), name
        elif p.squeeze().ndim > 1: assert p.std().item() == pytest.approx(0.02, rel=0.1), name


@pytest.mark.parametrize("change, said", [
    (dict(gmacs=4.0), "should add up to 4.0000 G"), (dict(params=1), "should have 1 parameters"),
    (dict(gflops=4.0), "the paper prints 4.00 G")])
def test_a_cost_that_is_not_the_papers_is_refused(change, said, monkeypatch):
    step = walk.step
    monkeypatch.setattr(walk, "step", lambda *args: replace(step(*args), **change))
    with pytest.raises(ValueError, match=said): walk.check_cost("patchify")


@pytest.mark.parametrize("make", [
    convnext.convnext_atto, convnext.convnextv2_atto, convnext.convnext_isotropic_small,
    resnet.resnet18, swin.Swin, partial(roadmap.build, "base"), partial(roadmap.build, "sep_ds")])
def test_without_classes_the_feature_vector_comes_out(make):
    whole = make(num_classes=7).eval()
    bare = make(num_classes=0).eval()
    with pytest.warns(weights.Adapted, match="not used: 2 "): weights.load(bare, whole)
    head = getattr(whole, "fc" if hasattr(whole, "fc") else "head")
    x = images(64)
    with torch.inference_mode(): assert torch.equal(head(bare(x)), whole(x))


def test_without_a_head_no_peer_is_built():
    with pytest.raises(ValueError, match="this ConvNeXt has no head: build it with classes"):
        peers.build_peer(convnext.convnext_atto(num_classes=0), "timm")
