"""Fast blocks beside plain ones: the same numbers, and way given to all that they do not know."""
import copy
import pickle

import pytest
import torch
from children import python
from oracles import gap, images
from torch import fx, nn
from torch.autograd import forward_ad
from torch.autograd.gradcheck import gradcheck, gradgradcheck
from torch.func import functional_call, grad, jvp, vmap
from torch.nn import functional as F
from torch.nn.utils import parametrizations, prune
from torch.utils.flop_counter import FlopCounterMode

from convnext_nb import convnext, fast, models, peers, roadmap, train, weights
from convnext_nb.data import Shapes

SMALL = dict(depths=(1, 1, 2, 1), dims=(8, 16, 32, 64))
WALK = dict(width_mult=0.25, depths=(1, 1, 2, 1))
NETWORKS = {
    "V1": lambda **k: convnext.ConvNeXt(**SMALL, layer_scale=1.0, **k),
    "no layer scale": lambda **k: convnext.ConvNeXt(**SMALL, layer_scale=None, **k),
    "V2": lambda **k: convnext.ConvNeXt(**SMALL, layer_scale=None, grn=True, **k),
    "isotropic": lambda **k: convnext.ConvNeXtIsotropic(2, 16, layer_scale=1.0, **k),
    "move_up": lambda **k: roadmap.build("move_up", **WALK, **k),
    "k7": lambda **k: roadmap.build("k7", **WALK, **k),
    "ln": lambda **k: roadmap.build("ln", **WALK, **k),
    "sep_ds": lambda **k: roadmap.build("sep_ds", **WALK, **k)}
each_network = pytest.mark.parametrize("name", NETWORKS)
FAST = (fast.FastBlock, fast.FastDepthwiseFirst)


def pair(name, **settings):
    "A plain network with random weights, and its fast copy."
    plain = weights.randomize(NETWORKS[name](**settings))
    return plain, fast.speed_up(copy.deepcopy(plain))


def blocks(net):
    return [m for m in net.modules() if isinstance(m, (convnext.Block, roadmap.DepthwiseFirst))]


PAYS, ROWS = fast._pays, fast.rows_for_convolution


@pytest.fixture(autouse=True)
def small_batches_are_worth_it(monkeypatch):
    monkeypatch.setattr(fast, "_pays", lambda x: True)
    monkeypatch.setattr(fast, "rows_for_convolution", lambda: 1)


@pytest.fixture
def ways(monkeypatch):
    "What fast blocks did: the number of images of each depthwise convolution of theirs."
    seen, depthwise = [], fast.depthwise
    def watched(conv, x):
        seen.append(len(x))
        return depthwise(conv, x)
    monkeypatch.setattr(fast, "depthwise", watched)
    return seen


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("bf16", [False, True])
@each_network
def test_logits_and_gradients_are_the_plain_ones(name, bf16, mode, layout, ways):
    plain, quick = pair(name, drop_path=0.5)
    def found(net, bf16):
        net.to(memory_format=layout).train(mode == "train").zero_grad()
        x = images(80, batch=11).to(memory_format=layout).requires_grad_()
        torch.manual_seed(0)  # stochastic depth
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            y = net(x)
        y.float().square().mean().backward()
        return [y.detach().float(), x.grad, *(p.grad.clone() for p in net.parameters())]
    ours = found(quick, bf16)
    assert len(ways) == len(blocks(quick))  # once a block, and none gave way
    for a, b, exact in zip(found(plain, bf16), ours, found(plain, False), strict=True):
        assert a.dtype == b.dtype
        assert gap(b, exact) < (2 * gap(a, exact) + 0.01 if bf16 else 1e-3)


@each_network
def test_buffers_are_the_plain_ones(name):
    plain, quick = pair(name)
    for net in (plain, quick):
        net(images(64, batch=5))
    for a, b in zip(plain.buffers(), quick.buffers(), strict=True):
        assert gap(b.float(), a.float()) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@each_network
def test_inference_takes_few_images_at_a_time(name, dtype, monkeypatch):
    plain, quick = pair(name)
    few, parts = fast.by_few, []
    def by_few(f, x):
        return few(lambda part: parts.append(len(part)) or f(part), x, numbers=2 * x[0].numel())
    monkeypatch.setattr(fast, "by_few", by_few)
    x = images(64, batch=5).to(dtype)
    with torch.inference_mode():
        expected = plain.to(dtype).eval()(x).float()
        assert gap(quick.to(dtype).eval()(x).float(), expected) < (
            1e-5 if dtype == torch.float32 else 0.1)
    assert parts == ([2, 2, 1] * len(blocks(quick)) if "roadmap" not in str(type(quick)) else [])
    parts.clear()
    quick.float()(images(64, batch=5))
    assert set(parts) <= {5}  # gradients are on


# The functions -----------------------------------------------------------------------------------

@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_depthwise_has_the_gradients_of_conv2d(seed, layout):
    g = torch.Generator().manual_seed(seed)
    b, dim, h, w = (int(torch.randint(1, most, (), generator=g)) for most in (20, 12, 24, 24))
    side = (3, 5, 7)[seed % 3]
    conv = nn.Conv2d(dim, dim, side, padding=side // 2, groups=dim, bias=seed % 2 == 0)
    x = torch.randn(b, dim, h, w, generator=g).contiguous(memory_format=layout)
    seen = []
    for run in (conv, lambda x: fast.depthwise(conv, x)):
        image = x.clone().requires_grad_()
        y = run(image)
        conv.zero_grad()
        y.backward(torch.linspace(-1, 1, y.numel()).view_as(y))
        seen.append([y.detach(), image.grad, *(p.grad for p in conv.parameters())])
    assert torch.equal(seen[0][0], seen[1][0])
    for a, b in zip(*seen):
        assert gap(a, b) < 1e-4


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", ["", "x", "weight", "bias"])
def test_second_order_in_double_precision(bias, frozen):
    torch.manual_seed(0)
    inputs = dict(x=torch.randn(9, 2, 4, 5), weight=torch.randn(2, 1, 3, 3),
                  bias=torch.randn(2) if bias else None)
    inputs = [t if t is None else t.double().requires_grad_(k != frozen)
              for k, t in inputs.items()]
    assert gradcheck(fast._DepthwiseConv.apply, inputs, fast_mode=True)
    assert gradgradcheck(fast._DepthwiseConv.apply, inputs, fast_mode=True)


def depthwise_conv(**settings):
    return nn.Conv2d(4, 4, **{**dict(kernel_size=7, padding=3, groups=4), **settings})


CONVS = {
    "stride": depthwise_conv(stride=2), "dilation": depthwise_conv(dilation=2, padding=6),
    "circular": depthwise_conv(padding_mode="circular"), "same": depthwise_conv(padding="same"),
    "less padding": depthwise_conv(padding=1), "full": depthwise_conv(groups=1),
    "two groups": depthwise_conv(groups=2), "oblong": depthwise_conv(kernel_size=(3, 7),
                                                                      padding=(1, 3)),
    "even": depthwise_conv(kernel_size=6, padding=3), "evaluation": depthwise_conv().eval(),
    "frozen": depthwise_conv().requires_grad_(False)}


@pytest.mark.parametrize("kind", CONVS)
def test_another_convolution_is_left_alone(kind):
    conv, x = CONVS[kind], torch.randn(3, 4, 9, 9, requires_grad=True)
    y = fast.depthwise(conv, x)
    assert torch.equal(y, conv(x)) and "_DepthwiseConv" not in y.grad_fn.name()


@pytest.mark.parametrize("side", [1, 2, 3, 4])
def test_small_maps_meet_the_inner_weights_only(side):
    torch.manual_seed(0)
    conv, x = depthwise_conv(), torch.randn(9, 4, side, side, requires_grad=True)
    seen = []
    for run in (conv, lambda x: fast.depthwise(conv, x)):
        y = run(x)
        grads = torch.autograd.grad(y.square().sum(), [x, *conv.parameters()])
        seen.append([y, *grads])
    assert "_DepthwiseConv" in y.grad_fn.name()
    for a, b in zip(*seen, strict=True):
        assert a.shape == b.shape and gap(b, a) < 1e-4


def test_depthwise_takes_its_own_way_on_larger_and_square_maps_only():
    conv, x = depthwise_conv(), torch.randn(2, 4, 9, 9)
    assert "_DepthwiseConv" in fast.depthwise(conv, x).grad_fn.name()
    assert "_DepthwiseConv" not in fast.depthwise(conv, x[..., :3, :]).grad_fn.name()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [True, False])
def test_depthwise_under_autocast(dtype, bias):
    conv, x = depthwise_conv(bias=bias), torch.randn(3, 4, 12, 12)
    seen = []
    for run in (conv, lambda x: fast.depthwise(conv, x)):
        conv.zero_grad()
        with torch.autocast("cpu", dtype):
            y = run(x)
        assert y.dtype == dtype
        y.float().square().mean().backward()
        seen.append([p.grad for p in conv.parameters()])
    for a, b in zip(*seen):
        assert a.dtype == b.dtype == torch.float32 and gap(b, a) < 2e-2


@pytest.mark.parametrize("bias", [True, False])
def test_pointwise_is_linear(bias):
    for shape in ((1, 1, 1, 24), (20, 5, 3, 24)):
        x, net = torch.randn(shape, requires_grad=True), nn.Linear(24, 10, bias=bias)
        usual, ours = net(x), fast.pointwise(net, x.permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        assert gap(ours, usual) < 1e-5
        weight = torch.randn_like(usual)
        grads = [torch.autograd.grad((y * weight).sum(), [x, *net.parameters()])
                 for y in (ours, usual)]
        for a, b in zip(*grads):
            assert gap(a, b) < 1e-4


# When it pays -----------------------------------------------------------------------------------

CPUINFO = "processor\t: 0\nvendor_id\t: {}\ncpu family\t: {}\nmodel\t\t: {}\nmodel name\t: x\n"


@pytest.mark.parametrize("maker, family, rows", [
    ("AuthenticAMD", 26, 256), ("AuthenticAMD", 25, 2048), ("GenuineIntel", 6, float("inf")),
    (None, 0, float("inf"))])
def test_the_processor_decides_on_convolutions(maker, family, rows, monkeypatch):
    def read_text(path):
        if maker is None:
            raise FileNotFoundError(path)
        return CPUINFO.format(maker, family, 17)
    monkeypatch.setattr(fast.Path, "read_text", read_text)
    assert fast.processor() == (maker or "", family, 17 if maker else 0)
    assert ROWS.__wrapped__() == rows


def test_few_rows_stay_linear(monkeypatch):
    "oneDNN rearranges the weight for each call: a 2 x 2 map would wait for that."
    seen = []
    monkeypatch.setattr(fast, "pointwise", lambda *args: seen.append(1) or F.linear(
        args[1].permute(0, 2, 3, 1), args[0].weight, args[0].bias).permute(0, 3, 1, 2))
    monkeypatch.setattr(fast, "rows_for_convolution", lambda: 2048)
    linear = nn.Linear(8, 32)
    fast._linear(linear, torch.randn(8, 2, 2, 8))
    assert not seen
    fast._linear(linear, torch.randn(8, 16, 16, 8))
    assert seen


def test_a_small_image_is_not_even_looked_at(monkeypatch):
    "The questions that a fast block asks cost more than it could gain."
    monkeypatch.setattr(fast, "rows_for_convolution", lambda: 2048)
    monkeypatch.setattr(fast, "_pays", PAYS)
    monkeypatch.setattr(fast, "_knows", lambda *args: pytest.fail("asked"))
    _, quick = pair("V1")
    with torch.no_grad():
        quick.eval()(images(64))


def test_what_pays_is_not_asked_of_a_traced_batch(monkeypatch):
    "Its size would become a constant of the program."
    monkeypatch.setattr(fast, "_pays", PAYS)
    _, quick = pair("V1")
    block, x = blocks(quick)[0].eval(), torch.randn(2, 8, 16, 16)
    with torch.no_grad():
        batch = torch.export.Dim("batch", min=1, max=10_000)
        program = torch.export.export(block, (x,), dynamic_shapes=({0: batch},))
        assert program.module()(torch.randn(5, 8, 16, 16)).shape == (5, 8, 16, 16)


# What stays as it was ----------------------------------------------------------------------------

@each_network
def test_speeding_up_and_slowing_down(name):
    plain, quick = pair(name)
    before = {k: id(v) for k, v in quick.named_parameters()}
    kinds = [type(b) for b in blocks(quick)]
    assert kinds and set(kinds) <= set(FAST)
    assert fast.speed_up(quick) is quick and [type(b) for b in blocks(quick)] == kinds  # twice
    assert list(quick.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in quick.named_modules()] == [n for n, _ in plain.named_modules()]
    assert all(vars(a).keys() == vars(b).keys() for a, b in zip(blocks(plain), blocks(quick)))
    assert all(type(b) in (nn.Conv2d, nn.Linear) for a in blocks(quick)
               for n, b in a.named_children() if "conv" in n)
    assert fast.slow_down(quick) is quick
    assert [type(b) for b in blocks(quick)] == [type(b) for b in blocks(plain)]
    assert {k: id(v) for k, v in quick.named_parameters()} == before
    with torch.no_grad():
        assert torch.equal(quick.eval()(images()), plain.eval()(images()))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda net: pickle.loads(pickle.dumps(net))])
@each_network
def test_copies_are_fast_too(name, copied, ways):
    _, quick = pair(name)
    again = copied(quick.eval())
    with torch.no_grad():
        expected = quick(images())
        ways.clear()
        assert torch.equal(again(images()), expected)
    assert len(ways) == len(blocks(quick))


def test_what_it_does_not_know_stays():
    class Mine(convnext.Block):
        pass
    net = nn.Sequential(convnext.Block(8), Mine(8), nn.Linear(8, 8))
    assert [type(m) for m in fast.speed_up(net)] == [fast.FastBlock, Mine, nn.Linear]
    assert [type(m) for m in fast.slow_down(net)] == [convnext.Block, Mine, nn.Linear]


def test_who_reads_convnext_does_not_meet_it():
    code = "import sys, convnext_nb.convnext; assert 'convnext_nb.fast' not in sys.modules"
    python(code)


def test_builders_can_be_pickled_and_are_named():
    for name in convnext.__all__:
        made = getattr(convnext, name)
        assert made.__name__ == made.__qualname__ == name
        assert pickle.loads(pickle.dumps(made)) is made and made.__doc__


# Who is served without asking --------------------------------------------------------------------

def test_engine_commands_and_timm_are_sped_up():
    import timm

    import convnext_nb.timm_models  # noqa: F401
    recipe = train.Recipe(model="convnext", model_args=SMALL, epochs=1, warmup_epochs=0)
    nets = [train.prepare(recipe, Shapes(40, 10), "cpu").model,
            models.restore("atto_tiny200")[0], peers.networks(**SMALL)["ours"],
            timm.create_model("convnext_nb_atto"),
            timm.create_model("convnextv2_nb_atto", features_only=True)]
    for net in nets:
        assert {type(b) for b in blocks(net)} == {fast.FastBlock}


# Giving way --------------------------------------------------------------------------------------

LAYERS = ("dwconv", "norm", "pwconv1", "act", "grn", "pwconv2", "drop_path", "")
HOOKS = {
    "forward": lambda m, f: m.register_forward_hook(lambda m, args, out: f(out)),
    "forward pre": lambda m, f: m.register_forward_pre_hook(lambda m, args: f(args[0])),
    "backward": lambda m, f: m.register_full_backward_hook(lambda m, gi, go: f(go[0])),
    "backward pre": lambda m, f: m.register_full_backward_pre_hook(lambda m, go: f(go[0]))}


@pytest.mark.parametrize("kind", HOOKS)
@pytest.mark.parametrize("layer", LAYERS)
def test_hooks_see_whole_batches(layer, kind, monkeypatch):
    monkeypatch.setattr(fast, "by_few", lambda f, x: torch.cat([f(part) for part in x.split(2)]))
    plain, quick = pair("V2")
    seen = []
    HOOKS[kind](blocks(quick)[0].get_submodule(layer), lambda t: seen.append(len(t)))
    with torch.set_grad_enabled("backward" in kind):
        y = quick.eval()(images(batch=5))
    if "backward" in kind:
        y.sum().backward()
    assert seen == [5]
    assert gap(y, plain.eval()(images(batch=5))) < 1e-5


def test_hooks_on_all_modules_see_whole_batches(monkeypatch):
    monkeypatch.setattr(fast, "by_few", lambda f, x: torch.cat([f(part) for part in x.split(2)]))
    _, quick = pair("V1")
    seen = set()
    hook = nn.modules.module.register_module_forward_hook(lambda m, args, out: seen.add(len(out)))
    try:
        with torch.no_grad():
            quick.eval()(images(batch=5))
    finally:
        hook.remove()
    assert seen == {5}


class Doubled(nn.Linear):
    def forward(self, x): return 2 * super().forward(x)


class Special(torch.Tensor):
    "Whatever is computed with it is special, too."


def replaced(name, make):
    def change(block):
        old = getattr(block, name)
        new = make(old)
        if isinstance(old, nn.Linear):
            new.load_state_dict(old.state_dict())
        setattr(block, name, new)
    return change


def own_forward(block):
    block.pwconv2.forward = lambda x: 3 * nn.functional.linear(x, block.pwconv2.weight)


def special_weight(block):
    block.pwconv1.weight = nn.Parameter(block.pwconv1.weight.detach().as_subclass(Special))


CHANGES = {  # each leaves a block that a fast form of these layers would compute wrongly
    "another linear": replaced("pwconv1", lambda m: Doubled(m.in_features, m.out_features)),
    "parametrized": lambda b: parametrizations.weight_norm(b.pwconv2),
    "pruned": lambda b: prune.random_unstructured(b.pwconv1, "weight", 0.5),
    "special weight": special_weight,
    "an instance's own forward": own_forward,
    "another activation": replaced("act", lambda m: nn.Softmax(0)),  # sees the batch
    "another norm": replaced("norm", lambda m: nn.Softmax(0)),
    "no depthwise": replaced("dwconv", lambda m: nn.Identity()),
    "another convolution": replaced("dwconv", lambda m: nn.Sequential(m, nn.Tanh()))}


@pytest.mark.parametrize("change", CHANGES)
def test_changed_layers_are_respected(change, ways, monkeypatch):
    monkeypatch.setattr(fast, "by_few", lambda f, x: torch.cat([f(part) for part in x.split(2)]))
    plain, quick = pair("V1")
    for net in (plain, quick):
        torch.manual_seed(0)
        CHANGES[change](blocks(net.eval())[0])
    with torch.no_grad():
        assert gap(quick(images(batch=5)), plain(images(batch=5))) < 1e-5
    assert len(ways) == (0 if "special" in change else len(blocks(quick)) - 1)


def dilate(conv):
    conv.dilation, conv.padding = (2, 2), (6, 6)


def circle(conv):
    conv.padding_mode = "circular"
    conv._reversed_padding_repeated_twice = [3] * 4  # what its constructor would have prepared


GEOMETRY = {"dilation": dilate,
            "circular": circle,
            "no bias": lambda conv: setattr(conv, "bias", None),
            "frozen weight": lambda conv: conv.weight.requires_grad_(False),
            "frozen": lambda conv: conv.requires_grad_(False)}


@pytest.mark.parametrize("change", GEOMETRY)
def test_changed_convolutions_train_as_plain_ones(change):
    nets, seen = pair("V1"), []
    for net in nets:
        GEOMETRY[change](blocks(net)[0].dwconv)
        y = net.train()(images(batch=3))
        y.square().mean().backward()
        seen.append([y.detach(), *(p.grad for p in net.parameters() if p.requires_grad)])
    for a, b in zip(*seen, strict=True):
        assert gap(b, a) < 1e-4


def test_a_batch_of_another_kind(ways):
    _, quick = pair("V1")
    block = blocks(quick)[0].eval()
    assert block(torch.randn(0, 8, 16, 16)).shape == (0, 8, 16, 16)
    assert block.to("meta")(torch.randn(2, 8, 16, 16, device="meta")).device.type == "meta"
    assert quick.double().stages[1](torch.randn(2, 16, 8, 8).double()).dtype == torch.float64
    assert not ways


def test_empty_batch_in_training():
    for name in ("V1", "V2", "isotropic"):
        plain, quick = pair(name)
        x = images()[:0]
        assert quick(x).shape == plain(x).shape == (0, 1000)
        quick(x).sum().backward()


def test_double_under_autocast_stays_double():
    plain, quick = pair("V1")
    with torch.autocast("cpu", torch.bfloat16):
        a, b = (net.double()(images().double()) for net in (plain, quick))
    assert a.dtype == b.dtype == torch.float64 and torch.equal(a, b)


@each_network
def test_compiles_to_one_graph(name):
    plain, quick = pair(name)
    compiled = torch.compile(quick, backend="aot_eager", fullgraph=True)
    for net in (plain, compiled):
        net(images(batch=3)).square().mean().backward()
    for p, q in zip(plain.parameters(), quick.parameters()):
        assert gap(q.grad, p.grad) < 1e-4
    with torch.no_grad():
        assert gap(compiled.eval()(images(batch=3)), plain.eval()(images(batch=3))) < 1e-5
    torch.compiler.reset()


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ["V2", "isotropic", "ln"])
def test_exported_under_no_grad_for_any_batch(name, strict):
    plain, quick = pair(name)
    plain.eval(), quick.eval()
    x = images(256, batch=24)  # more than one part in the first stage
    with torch.no_grad():
        program = torch.export.export(quick, (x,), strict=strict,
                                      dynamic_shapes=({0: torch.export.Dim("batch")},)).module()
        for n in (1, 3, 30):
            x = images(256, batch=n)
            assert gap(program(x), plain(x)) < 1e-5


@pytest.mark.parametrize("name", ["V1", "ln"])
def test_traced_operations_are_the_plain_ones(name, ways):
    plain, quick = pair(name)
    traced = torch.jit.trace(quick.eval(), images(), check_trace=False)
    assert not ways
    with torch.no_grad():
        assert gap(traced(images(batch=5)), plain.eval()(images(batch=5))) < 1e-5


@pytest.mark.parametrize("mode", ["train", "eval"])
@pytest.mark.parametrize("make", [lambda net: net, fast.speed_up])
@each_network
def test_symbolic_trace(name, make, mode):
    net, _ = pair(name, drop_path=0.5)
    make(net).train(mode == "train")
    graph = fx.symbolic_trace(net)
    torch.manual_seed(0)
    expected = net(images(batch=5))
    torch.manual_seed(0)
    assert gap(graph(images(batch=5)), expected) < 1e-5


@each_network
def test_counters_of_operations_see_the_plain_ones(name, ways):
    plain, quick = pair(name)
    counts = []
    for net in (plain, quick):
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(images(batch=5))
        counts.append(counter.get_total_flops())
    assert counts[0] == counts[1] and not ways


def in_parts(net):
    return dict(net.named_parameters()), dict(net.named_buffers())


@pytest.mark.parametrize("name", ["V1", "V2", "ln"])
def test_gradients_of_each_sample(name):
    plain, quick = pair(name)
    x, seen = images(batch=3), []
    for net in (plain, quick):
        params, _ = in_parts(net.train())
        def loss(params, image, net=net):
            return functional_call(net, params, (image[None],)).square().mean()
        seen.append(vmap(grad(loss), (None, 0))(params, x))
    for k, g in seen[0].items():
        assert gap(seen[1][k], g) < 1e-4, k


@pytest.mark.parametrize("name", ["V1", "V2", "ln"])
def test_forward_mode(name):
    plain, quick = pair(name)
    x = images(batch=3)
    a, b = (jvp(net.train(), (x,), (x.flip(0),)) for net in (plain, quick))
    assert gap(b[0], a[0]) < 1e-5 and gap(b[1], a[1]) < 1e-4
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(x, x.flip(0))
        tangent = forward_ad.unpack_dual(quick(dual)).tangent
    assert gap(tangent, a[1]) < 1e-4


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_activations(reentrant):
    plain, quick = pair("V1", drop_path=0.3)
    grads = []
    for net in (plain, quick):
        x = images(batch=3).requires_grad_()
        torch.manual_seed(0)
        y = torch.utils.checkpoint.checkpoint(net, x, use_reentrant=reentrant)
        y.square().mean().backward()
        grads.append([p.grad for p in net.parameters()])
    for a, b in zip(*grads):
        assert gap(b, a) < 1e-4


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_depthwise_gradients_of_many_images_are_as_exact_as_pytorchs(dtype):
    torch.manual_seed(0)
    x, grad = torch.randn(2, 256, 8, 8, 8).to(dtype)
    def wanted(x, grad):
        weight = torch.zeros(8, 1, 7, 7, dtype=x.dtype, requires_grad=True)
        y = torch.nn.functional.conv2d(x, weight, padding=3, groups=8)
        return torch.autograd.grad(y, weight, grad)[0]
    exact = wanted(x.double(), grad.double())
    ours = fast.depthwise_weight_grad(x, grad, 3)
    assert ours.dtype == dtype
    def off(found): return (found.double() - exact).norm() / exact.norm()
    assert off(ours) < 1.6 * off(wanted(x, grad))  # it was 4 times
