"""Fine-tuning: frozen parts, new heads, another stochastic depth."""
import pickle
from copy import deepcopy
from functools import partial

import pytest
import timm
import torch
from oracles import images

from convnext_nb import (  # noqa: F401
    convnext,
    finetune,
    keys,
    optim,
    resnet,
    roadmap,
    swin,
    timm_models,
)

NETS = {
    "convnext": partial(convnext.ConvNeXt, (1, 2, 1, 1), (8, 16, 24, 32)),
    "convnextv2": partial(convnext.ConvNeXt, (1, 1, 2, 1), (8, 16, 24, 32), grn=True,
                          layer_scale=None),
    "isotropic": partial(convnext.ConvNeXtIsotropic, 3, 16),
    "resnet": partial(resnet.ResNet, resnet.Bottleneck, (1, 1, 1, 1), width=8),
    "swin": partial(swin.Swin, (1, 1, 2, 1), 12, (1, 2, 3, 4)),
}
each_net = pytest.mark.parametrize("name", NETS)


def make(name, **kwargs):
    torch.manual_seed(0)
    return NETS[name](**{"num_classes": 7, "drop_path": 0.4, **kwargs})


def step(model, x, seed=0):
    "One optimizer step in training mode."
    torch.manual_seed(seed)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.train()(x).square().mean().backward()
    optimizer.step()


def changed(before, model):
    return {k for k, v in model.state_dict().items() if not torch.equal(v, before[k])}


@each_net
def test_stages_hold_all_but_the_end(name):
    model = make(name)
    inside = [p for part in finetune.stages(model) for m in part for p in m.parameters()]
    assert len(set(inside)) == len(inside)
    rest = {n.split(".")[0] for n, p in model.named_parameters() if not any(p is q for q in inside)}
    assert rest <= {"norm", "head", "fc"} and rest & {"head", "fc"}
    ids, names = optim.layer_ids(model), {p: n for n, p in model.named_parameters()}
    parts = [[ids[names[p]] for m in part for p in m.parameters()]
             for part in finetune.stages(model)]
    assert all(max(a) < min(b) for a, b in zip(parts, parts[1:]))  # the order of layer decay


@each_net
@pytest.mark.parametrize("last", [0, 1, None])
def test_frozen_parts_do_not_move(name, last):
    model = make(name)
    parts = finetune.stages(model)
    k = len(parts) - 1 if last is None else last
    frozen = [m for part in parts[:k + 1] for m in part]
    assert finetune.freeze(model, last) is model
    before = [deepcopy(m.state_dict()) for m in frozen]
    after = deepcopy(model.state_dict())
    for seed in range(2):
        step(model, images(64), seed)
    assert not any(changed(b, m) for b, m in zip(before, frozen))
    assert not any(sub.training for m in frozen for sub in m.modules())
    assert changed(after, model) and model.training
    assert all(sub.training for part in parts[k + 1:] for m in part for sub in m.modules())
    model.eval()
    assert not any(m.training for m in model.modules())


@each_net
def test_frozen_survives_copies_and_can_be_undone(name):
    model = finetune.freeze(make(name), 1)
    for copy in (deepcopy(model), pickle.loads(pickle.dumps(model))):
        parts = finetune.stages(copy.train())
        assert not parts[1][-1].training and parts[-1][-1].training is (len(parts) > 2)
        model.train()
        finetune.freeze(copy, -1)
        assert all(m.training for m in copy.train().modules())
        assert all(p.requires_grad for p in copy.parameters())
    assert not finetune.stages(model)[1][-1].training  # a copy's thaw is its own
    lower = finetune.freeze(model, 0)
    assert finetune.stages(lower)[1][-1].training


def test_a_stage_that_does_not_exist():
    for last in (-2, 5):
        with pytest.raises(ValueError, match=r"ConvNeXt has stages 0 \(the stem\) to 4"):
            finetune.freeze(make("convnext"), last)
    with pytest.raises(ValueError, match="Linear has no stages"):
        finetune.freeze(torch.nn.Linear(2, 2))


@each_net
def test_another_head(name):
    model = make(name).eval()
    before = deepcopy(model.state_dict())
    with torch.no_grad():
        vectors = finetune.replace_head(deepcopy(model), 0)(images(64))
        assert torch.equal(getattr(model, keys.last_layer(model))(vectors), model(images(64)))
        assert finetune.replace_head(model, 3, 0.001)(images(64)).abs().max() < 0.02
    assert {k.split(".")[0] for k in changed(before, model)
            if before[k].shape == model.state_dict()[k].shape} <= {"head", "fc"}
    assert model(images(64)).shape == (2, 3)
    half = finetune.replace_head(make(name).to(torch.bfloat16), 5)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    headless = finetune.replace_head(model, 0)
    with pytest.raises(ValueError, match="head is no nn.Linear but Identity.*assign nn.Linear"):
        finetune.replace_head(headless, 4)


@each_net
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_drop_path_set_later_equals_drop_path_from_the_start(name, rate):
    def rates(model):
        return [m.p for m in model.modules() if isinstance(m, finetune.DropPath)]
    assert rates(finetune.set_drop_path(make(name), rate)) == rates(make(name, drop_path=rate))
    with pytest.raises(ValueError, match="drop_path is a probability"):
        finetune.set_drop_path(make(name), 1.0)


def test_the_end_of_the_road_is_frozen_like_the_convnext_that_it_is():
    def trainable(net):
        finetune.freeze(net, 1)
        return [name for name, p in net.named_parameters() if p.requires_grad]
    road = roadmap.build("sep_ds", width_mult=0.25, depths=(1, 2, 1, 1))
    net = convnext.ConvNeXt((1, 2, 1, 1), (24, 48, 96, 192))
    assert trainable(road) == trainable(net) and len(trainable(net)) > 10


def test_a_head_inside_a_wrapper():
    model = torch.nn.DataParallel(make("convnext"))
    assert finetune.replace_head(model, 3) is model
    assert model.module.head.out_features == 3


def test_timm_hears_of_another_head():
    model = finetune.replace_head(timm.create_model("convnext_nb_atto"), 3)
    assert model.num_classes == model.head.out_features == 3


def test_stochastic_depth_of_others_is_not_ours():
    with pytest.raises(ValueError, match="ConvNeXt has no DropPath of this library"):
        finetune.set_drop_path(timm.create_model("convnext_atto"), 0.2)


def test_a_head_of_zeros():
    head = finetune.replace_head(make("convnext"), 5, init_scale=0.0).head
    assert head.weight.shape == (5, 32) and not head.weight.any() and not head.bias.any()


@pytest.mark.parametrize("depths", [(1, 2, 1, 1), (1,)])
def test_a_bad_rate_changes_nothing(depths):
    net = convnext.ConvNeXt(depths, (8,) * len(depths), drop_path=0.4)
    rates = [m.p for m in net.modules() if hasattr(m, "p")]
    for wrong in (1.0, 1.5, -0.1):
        with pytest.raises(ValueError, match="drop_path is a probability"):
            finetune.set_drop_path(net, wrong)
    assert [m.p for m in net.modules() if hasattr(m, "p")] == rates


def test_stages_are_found_inside_a_wrapper():
    net = convnext.convnext_atto()
    finetune.freeze(torch.nn.DataParallel(net), 1)
    assert not any(p.requires_grad for p in net.stages[0].parameters())
    assert all(p.requires_grad for p in net.stages[1].parameters())


def test_the_head_of_another_library_is_left_alone():
    theirs = timm.create_model("convnext_atto")
    with pytest.raises(ValueError, match="no nn.Linear but NormMlp.*reset_classifier") as e:
        finetune.replace_head(theirs, 3)
    assert "\n" not in str(e.value)
