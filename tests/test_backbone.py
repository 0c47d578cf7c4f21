"""Networks as backbones: frozen parts, new heads, and what timm and its users expect of them."""
import pickle
from copy import deepcopy
from functools import partial

import pytest
import timm
import torch
from oracles import images, on_meta
from timm.optim import create_optimizer_v2

from convnext_nb import backbone, convnext, data, fast, optim, resnet, swin, weights

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
    inside = [p for part in backbone.stages(model) for m in part for p in m.parameters()]
    assert len(set(inside)) == len(inside)
    rest = {n.split(".")[0] for n, p in model.named_parameters() if not any(p is q for q in inside)}
    assert rest <= {"norm", "head", "fc"} and rest & {"head", "fc"}
    ids, names = optim.layer_ids(model), {p: n for n, p in model.named_parameters()}
    parts = [[ids[names[p]] for m in part for p in m.parameters()]
             for part in backbone.stages(model)]
    assert all(max(a) < min(b) for a, b in zip(parts, parts[1:]))  # the order of layer decay


@each_net
@pytest.mark.parametrize("last", [0, 1, None])
def test_frozen_parts_do_not_move(name, last):
    model = make(name)
    parts = backbone.stages(model)
    k = len(parts) - 1 if last is None else last
    frozen = [m for part in parts[:k + 1] for m in part]
    assert backbone.freeze(model, last) is model
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
    model = backbone.freeze(make(name), 1)
    for copy in (deepcopy(model), pickle.loads(pickle.dumps(model))):
        parts = backbone.stages(copy.train())
        assert not parts[1][-1].training and parts[-1][-1].training is (len(parts) > 2)
        model.train()
        backbone.freeze(copy, -1)
        assert all(m.training for m in copy.train().modules())
        assert all(p.requires_grad for p in copy.parameters())
    assert not backbone.stages(model)[1][-1].training  # a copy's thaw is its own
    lower = backbone.freeze(model, 0)
    assert backbone.stages(lower)[1][-1].training


def test_a_stage_that_is_not_there():
    for last in (-2, 5):
        with pytest.raises(ValueError, match=r"ConvNeXt has stages 0 \(the stem\) to 4"):
            backbone.freeze(make("convnext"), last)
    with pytest.raises(ValueError, match="Linear has no stages"):
        backbone.freeze(torch.nn.Linear(2, 2))


@each_net
def test_another_head(name):
    model = make(name).eval()
    before = deepcopy(model.state_dict())
    with torch.no_grad():
        vectors = backbone.replace_head(deepcopy(model), 0)(images(64))
        assert torch.equal(getattr(model, backbone.head_name(model))(vectors), model(images(64)))
        assert backbone.replace_head(model, 3, 0.001)(images(64)).abs().max() < 0.02
    assert {k.split(".")[0] for k in changed(before, model)
            if before[k].shape == model.state_dict()[k].shape} <= {"head", "fc"}
    assert model(images(64)).shape == (2, 3)
    half = backbone.replace_head(make(name).to(torch.bfloat16), 5)
    assert {p.dtype for p in half.parameters()} == {torch.bfloat16}
    headless = backbone.replace_head(model, 0)
    with pytest.raises(ValueError, match="not a linear layer"):
        backbone.replace_head(headless, 4)


@each_net
@pytest.mark.parametrize("rate", [0.0, 0.3])
def test_drop_path_as_if_built_so(name, rate):
    def rates(model):
        return [m.p for m in model.modules() if isinstance(m, backbone.DropPath)]
    assert rates(backbone.set_drop_path(make(name), rate)) == rates(make(name, drop_path=rate))
    with pytest.raises(ValueError, match="drop_path is a probability"):
        backbone.set_drop_path(make(name), 1.0)


# timm

@pytest.mark.parametrize("ours, name", backbone.SIZES.items())
def test_timm_builds_every_size(ours, name):
    model = on_meta(timm.create_model, name, num_classes=10, in_chans=1, drop_path_rate=0.1)
    expected = on_meta(getattr(convnext, ours), num_classes=10, in_chans=1, drop_path=0.1)
    assert ([(k, v.shape) for k, v in model.state_dict().items()]
            == [(k, v.shape) for k, v in expected.state_dict().items()])
    assert str(fast.slow_down(model).stages) == str(expected.stages)  # with stochastic depth
    assert name in timm.list_models() and timm.is_model(name)


def test_timm_computes_the_same(tmp_path):
    torch.manual_seed(0)
    ours = weights.randomize(convnext.convnext_atto(num_classes=5, in_chans=1)).eval()
    path = weights.save(ours, tmp_path / "net")
    theirs = timm.create_model("convnext_nb_atto", num_classes=5, in_chans=1,
                               checkpoint_path=str(path)).eval()
    x = images(64, chans=1)
    with torch.no_grad():
        assert torch.equal(theirs(x), ours(x))
        features = theirs.forward_features(x)
        assert features.shape == (2, 320, 2, 2)
        assert torch.equal(theirs.forward_head(features), ours(x))
        assert theirs.forward_head(features, pre_logits=True).shape == (2, 320)
        eye = timm.create_model("convnext_nb_atto", num_classes=5, in_chans=1, features_only=True,
                                checkpoint_path=str(path), out_indices=(0, 3)).eval()
        maps = convnext.convnext_atto(num_classes=5, in_chans=1, features=True).eval()
        weights.load(maps, path)
        assert all(torch.equal(a, b) for a, b in zip(eye(x), [maps(x)[i] for i in (0, 3)]))
    assert eye.feature_info.channels() == [40, 320] and eye.feature_info.reduction() == [4, 32]


def test_timm_replaces_the_head():
    model = timm.create_model("convnextv2_nb_atto", num_classes=0).eval()
    assert model(images(64)).shape == (2, 320) and model.num_classes == 0
    model.reset_classifier(4)
    assert model(images(64)).shape == (2, 4) and model.get_classifier().out_features == 4
    assert model.num_features == model.head_hidden_size == 320 and model.num_classes == 4
    noisy = timm.create_model("convnext_nb_atto", num_classes=4, drop_rate=0.5).train()
    assert not torch.equal(noisy(images(64)), noisy(images(64)))
    assert torch.equal(noisy.eval()(images(64)), noisy(images(64)))


def test_timms_settings_and_optimizer():
    model = timm.create_model("convnext_nb_nano", num_classes=10)
    settings = timm.data.resolve_model_data_config(model)
    assert settings["input_size"] == (3, 224, 224) and settings["crop_pct"] == 0.875
    assert (settings["mean"], settings["std"]) == (data.Preprocessing().mean,
                                                  data.Preprocessing().std)
    optimizer = create_optimizer_v2(model, "adamw", 1e-3, 0.05, layer_decay=0.5)
    scales = {id(p): g["lr_scale"] for g in optimizer.param_groups for p in g["params"]}
    order = [model.downsample_layers[0][0].weight, *(s[-1].pwconv2.weight for s in model.stages),
             model.head.weight]
    rising = [scales[id(p)] for p in order]
    assert rising == sorted(set(rising)) and rising[-1] == 1.0
    assert len(scales) == len(list(model.parameters()))


def test_timm_has_no_weights_under_our_name():
    with pytest.raises(ValueError, match="no published weights of its own: give checkpoint_path"):
        timm.create_model("convnext_nb_tiny", pretrained=True)
    with pytest.raises(TypeError):
        timm.create_model("convnext_nb_tiny", patch_size=3)
