"""The optimizer's groups, rates and rules: what decays and how far each step goes."""
import pytest
import timm
import torch
from torch import nn

from convnext_nb import convnext, optim, resnet, roadmap, swin
from convnext_nb.recipe import Recipe


@pytest.mark.parametrize("epochs, warmup, steps", [(10, 2, 7), (4, 1, 90), (3, 0.5, 20), (5, 0, 9)])
def test_lr_at(epochs, warmup, steps):
    recipe = Recipe(epochs=epochs, warmup_epochs=warmup, lr=3e-3, min_lr=1e-6)
    total, top = epochs * steps, int(warmup * steps)
    rates = [optim.lr_at(recipe, i, steps) for i in range(total + 1)]
    if warmup:
        assert rates[0] == pytest.approx(3e-3 / top)  # near 0, not 0: the first step counts
        rises = [b - a for a, b in zip(rates[:top], rates[1:top])]
        assert all(rise == pytest.approx(3e-3 / top) for rise in rises)
    assert max(rates) == 3e-3 == rates[top]
    assert all(a > b for a, b in zip(rates[top:], rates[top + 1:]))
    for done, share in ((1 / 3, 0.75), (1 / 2, 0.5), (2 / 3, 0.25)):  # of a half cosine
        rate = optim.lr_at(recipe, top + done * (total - top), steps)
        assert rate == pytest.approx(1e-6 + share * (3e-3 - 1e-6))
    assert rates[total] == pytest.approx(1e-6) and rates[total - 1] < 3e-3 * 0.05


@pytest.mark.parametrize("make", [
    convnext.convnext_atto, convnext.convnextv2_atto, resnet.resnet18, swin.swin_t,
    lambda: roadmap.build("depthwise", width_mult=0.25),
    lambda: roadmap.build("ln", width_mult=0.25, layer_scale=0.1)],
    ids=["convnext", "convnextv2", "resnet", "swin", "depthwise", "ln"])
def test_norms_biases_and_scales_do_not_decay(make):
    model = make()
    full, flat = optim.param_groups(model, 0.05)
    assert full["weight_decay"] == 0.05 and flat["weight_decay"] == 0
    decays = {id(p) for p in full["params"]}
    assert not decays & {id(p) for p in flat["params"]}
    layers = {f"{name}.weight".lstrip(".") for name, m in model.named_modules()
              if isinstance(m, (nn.Conv2d, nn.Linear))}
    for name, p in model.named_parameters():  # nothing but the weights of convolutions and matrices
        assert (id(p) in decays) == (name in layers), name
    assert len(full["params"]) + len(flat["params"]) == len(list(model.parameters()))


def test_decay_shrinks_only_what_it_should():
    "With no gradient at all, AdamW leaves norms and biases alone and shrinks the rest."
    model = convnext.ConvNeXt((1, 1, 1, 1), (8, 8, 16, 16), 4)
    for p in model.parameters():
        nn.init.ones_(p)
        p.grad = torch.zeros_like(p)
    torch.optim.AdamW(optim.param_groups(model, 0.5), lr=0.1).step()
    for name, p in model.named_parameters():
        expected = 1.0 if p.squeeze().ndim < 2 else 0.95
        assert torch.allclose(p, torch.tensor(expected)), name


AUTHORS = {  # groups of depths 3, 3, 27, 3, as the authors' fine-tuning code numbers them
    "downsample_layers.0.1.bias": 0, "downsample_layers.1.0.weight": 2, "stages.0.2.gamma": 1,
    "stages.1.0.dwconv.weight": 2, "downsample_layers.2.1.weight": 3, "stages.2.0.norm.weight": 3,
    "stages.2.2.gamma": 3, "stages.2.3.gamma": 4, "stages.2.26.pwconv2.bias": 11,
    "downsample_layers.3.0.bias": 12, "stages.3.0.gamma": 12, "stages.3.2.gamma": 12,
    "norm.weight": 13, "head.bias": 13}


def test_layer_ids_match_the_authors():
    with torch.device("meta"):
        ids = optim.layer_ids(convnext.convnext_base())
    assert {name: ids[name] for name in AUTHORS} == AUTHORS
    assert sorted(set(ids.values())) == list(range(14))


@pytest.mark.parametrize("make, head, groups", [
    (convnext.convnext_tiny, "head", 8), (convnext.convnext_atto, "head", 7),
    (convnext.convnextv2_tiny, "head", 8), (resnet.resnet18, "fc", 6), (resnet.resnet50, "fc", 7),
    (swin.swin_t, "head", 7), (convnext.convnext_isotropic_small, "head", 8)])
def test_layer_decay(make, head, groups):
    "From head to stem each group's rate falls by one factor, in forward order, without gaps."
    with torch.device("meta"):
        model = make()
    ids = optim.layer_ids(model)
    assert sorted(set(ids.values())) == list(range(groups))
    assert ids[f"{head}.weight"] == groups - 1 and min(ids.values()) == 0
    assert ids[next(iter(ids))] == 0
    groups_made = optim.param_groups(model, 0.05, 0.5)
    scale = {id(p): g["lr_scale"] for g in groups_made for p in g["params"]}
    for name, p in model.named_parameters():
        assert scale[id(p)] == 0.5 ** (groups - 1 - ids[name])
    assert len(scale) == len(ids)


def test_frozen_parameters_are_in_no_group():
    model = convnext.convnext_atto()
    for p in model.stages[0].parameters():
        p.requires_grad_(False)
    held = {id(p) for g in optim.param_groups(model, 0.05, 0.7) for p in g["params"]}
    assert held == {id(p) for p in model.parameters() if p.requires_grad}


def test_muon_moves_hidden_matrices_only():
    torch.manual_seed(0)
    model = convnext.ConvNeXt((1, 1, 1, 1), (8, 16, 16, 16), 4, layer_scale=1.0)
    optimizer = optim.make_optimizer(model, Recipe(optimizer="muon", lr=1e-2, weight_decay=0.0))
    named = {id(p): name for name, p in model.named_parameters()}
    by_muon = {named[id(p)] for g in optimizer.param_groups if not g["use_fallback"]
               for p in g["params"]}
    assert by_muon == {f"stages.{s}.0.pwconv{i}.weight" for s in range(4) for i in (1, 2)} | {
        f"downsample_layers.{s}.1.weight" for s in (1, 2, 3)}
    before = {k: v.detach().clone() for k, v in model.named_parameters()}
    x, y = torch.randn(32, 3, 64, 64), torch.arange(32) % 4
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
    change = model.stages[1][0].pwconv1.weight.detach() - before["stages.1.0.pwconv1.weight"]
    s = torch.linalg.svdvals(change)
    assert s.median() > 0.8 * s.max()  # orthogonal, but for the gradient's weakest directions
    stem = (model.downsample_layers[0][0].weight - before["downsample_layers.0.0.weight"]).abs()
    assert torch.allclose(stem, torch.tensor(1e-2), rtol=0.05)  # AdamW's first step: the rate


@pytest.mark.parametrize("build", [convnext.convnext_atto, convnext.convnextv2_atto,
                                   resnet.resnet18, swin.swin_t])
def test_a_head_for_one_class_decays_as_any_head(build):
    decays = []
    for classes in (1, 10):
        net = build(num_classes=classes)
        names = {id(p): n for n, p in net.named_parameters()}
        decays.append({names[id(p)] for p in optim.param_groups(net, 0.05)[0]["params"]})
    assert decays[0] == decays[1]


@pytest.mark.parametrize("wrap", [torch.compile, nn.DataParallel,
                                  lambda net: torch.compile(nn.DataParallel(net))])
@pytest.mark.parametrize("changes", [dict(layer_decay=0.8), dict(optimizer="muon")])
def test_a_wrapped_network_has_the_same_groups(wrap, changes):
    net = convnext.convnext_atto(10)
    recipe = Recipe(**changes)
    def found(model):
        groups = optim.make_optimizer(model, recipe).param_groups
        return [(g["lr_scale"], g.get("use_fallback"), list(map(id, g["params"]))) for g in groups]
    assert found(wrap(net)) == found(net) and len(found(net)) > 2


@pytest.mark.parametrize("depths", [(1,), (1, 1), (1, 2, 4, 1, 2, 1)])
@pytest.mark.parametrize("build", [
    lambda depths: convnext.ConvNeXt(depths, (8,) * len(depths), 10),
    lambda depths: swin.Swin(depths, 8, (1,) * len(depths), num_classes=10)])
def test_any_number_of_stages_has_groups(build, depths):
    net = build(depths)
    ids = optim.layer_ids(net)
    stages = len(depths) + (2 if len(depths) > 2 and depths[2] > 3 else 1)  # 4 blocks: two groups
    assert sorted(set(ids.values())) == list(range(stages + 1))
    assert {n.split(".")[0] for n, i in ids.items() if i == stages} == {"norm", "head"}
    assert all(group["params"] for group in optim.make_optimizer(
        net, Recipe(optimizer="muon", layer_decay=0.9)).param_groups)


@pytest.mark.parametrize("ask", [
    lambda net: optim.param_groups(net, 0.05, 0.8),
    lambda net: optim.make_optimizer(net, Recipe(optimizer="muon"))])
def test_a_network_whose_layers_are_not_known_is_refused(ask):
    class Detector(nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = convnext.convnext_atto()
            self.boxes = nn.Linear(320, 4)
    for net in (Detector(), timm.create_model("convnext_atto")):  # timm's blocks have other names
        said = f"{type(net).__name__} has no layers that `optim` knows.*of this library"
        with pytest.raises(ValueError, match=said): ask(net)
    assert len(optim.param_groups(Detector(), 0.05)) == 2
