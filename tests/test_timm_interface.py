"""What timm's scripts, and the libraries on top of timm, call: ours beside timm's own ConvNeXt."""
import re

import pytest
import timm
import torch
from oracles import gap, images
from timm.optim import create_optimizer_v2, param_groups_layer_decay

from convnext_nb import finetune, optim, peers, timm_models, weights  # noqa: F401

OURS, THEIRS = "convnext_nb_atto", "convnext_atto"


def pair(num_classes=5, **settings):
    "Our network and timm's, with the same weights."
    ours = weights.randomize(timm.create_model(OURS, num_classes=num_classes or 5, **settings))
    theirs = timm.create_model(THEIRS, num_classes=num_classes or 5, **settings)
    theirs.load_state_dict(weights.convert(ours, "timm", conv_mlp=True))
    for net in (ours, theirs):
        if not num_classes: net.reset_classifier(0)
    return ours.eval(), theirs.eval()


@pytest.fixture
def two():
    return pair()


# The head ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("pool", ["avg", "max", "avgmax", ""])
@pytest.mark.parametrize("num_classes", [0, 5])
def test_pooling(pool, num_classes, two):
    x = images(64)
    with torch.no_grad():
        for net in two:
            net.reset_classifier(num_classes, pool)
        if num_classes:
            w, b = torch.randn(5, 320), torch.randn(5)
            for head in (two[0].head, two[1].head.fc):
                head.weight.copy_(w.view_as(head.weight))
                head.bias.copy_(b)
        assert gap(two[0](x), two[1](x)) < 1e-5
        before = [net.forward_head(net.forward_features(x), pre_logits=True) for net in two]
        assert gap(*before) < 1e-5
        built = timm.create_model(OURS, num_classes=num_classes, global_pool=pool)
        assert built(x).shape == two[1](x).shape
    with pytest.raises(ValueError, match="global_pool='catavgmax': choose"):
        two[0].reset_classifier(5, "catavgmax")


def test_pooling_stays_when_only_the_classes_change(two):
    for net in two:
        net.reset_classifier(0, "max")
        net.reset_classifier(0)
    with torch.no_grad():
        assert gap(two[0](images(64)), two[1](images(64))) < 1e-5


# Maps --------------------------------------------------------------------------------------------

@pytest.mark.parametrize("options", [
    {}, dict(indices=2), dict(indices=[0, -1]), dict(indices=[3, 1]), dict(norm=True),
    dict(indices=[1], stop_early=True), dict(indices=[2, 0], intermediates_only=True)])
def test_intermediates(options, two):
    with torch.no_grad():
        ours, theirs = (net.forward_intermediates(images(64), **options) for net in two)
    if not options.get("intermediates_only"):
        assert gap(ours[0], theirs[0]) < 1e-5
        ours, theirs = ours[1], theirs[1]
    assert len(ours) == len(theirs) and all(gap(a, b) < 1e-5 for a, b in zip(ours, theirs))
    with pytest.raises(ValueError, match="output_fmt='NLC': only 'NCHW'"):
        two[0].forward_intermediates(images(64), output_fmt="NLC")


@pytest.mark.parametrize("kind", ["getter", "hook", "fx"])
@pytest.mark.parametrize("wanted", [(0,), (2,), (3, 1), (-2, -1), 2])
def test_features_only(kind, wanted):
    if kind == "hook" and wanted == (3, 1): pytest.skip("timm's order depends on the network here")
    ours, theirs = (timm.create_model(name, features_only=True, out_indices=wanted,
                                      feature_cls=kind) for name in (OURS, THEIRS))
    assert ours.feature_info.channels() == theirs.feature_info.channels()
    assert ours.feature_info.reduction() == theirs.feature_info.reduction()
    assert [m.shape for m in ours(images(64))] == [m.shape for m in theirs(images(64))]


@pytest.mark.parametrize("wanted", [(0,), (1, 2), (0, 3)])
def test_features_only_has_no_unused_parameters(wanted):
    net = timm.create_model(OURS, features_only=True, out_indices=wanted)
    sum(m.sum() for m in net(images(64))).backward()
    assert [n for n, p in net.named_parameters() if p.grad is None] == []
    assert len(net.model.stages) == max(wanted) + 1


def test_first_stage_takes_small_images():
    net = timm.create_model(OURS, features_only=True, out_indices=(0,))
    assert net(images(8))[0].shape == (2, 40, 2, 2)


@pytest.mark.parametrize("stride", [8, 16, 32])
def test_output_stride(stride):
    ours, theirs = pair(output_stride=stride)
    assert [i["reduction"] for i in ours.feature_info] == [
        i["reduction"] for i in theirs.feature_info]
    for train in (False, True):
        with torch.set_grad_enabled(train):
            maps = [net.train(train).forward_features(images(64)) for net in (ours, theirs)]
        assert gap(maps[0].detach(), maps[1].detach()) < 1e-5
    eye = timm.create_model(OURS, features_only=True, output_stride=stride)
    assert eye(images(64))[-1].shape[-1] == 64 // stride
    with pytest.raises(ValueError, match="output_stride=4: choose 8, 16 or 32"):
        timm.create_model(OURS, output_stride=4)


# Training ----------------------------------------------------------------------------------------

def test_checkpointing_changes_no_gradient(two):
    grads = []
    for on in (False, True):
        net = two[0].train()
        net.set_grad_checkpointing(on)
        net.zero_grad()
        net(images(64)).square().sum().backward()
        grads.append([p.grad.clone() for p in net.parameters()])
    assert all(torch.equal(a, b) for a, b in zip(*grads))


@pytest.mark.parametrize("coarse", [False, True])
def test_groups_are_timms(coarse):
    groups = []
    for name in (OURS, THEIRS):
        net = timm.create_model(name)
        found = timm.models.group_parameters(net, net.group_matcher(coarse))
        groups.append([sum(net.get_parameter(n).numel() for n in names)
                       for _, names in sorted(found.items())])
    assert groups[0] == groups[1] and (len(groups[0]) == 6 or not coarse)
    net = timm.create_model(OURS)
    decayed = param_groups_layer_decay(net, layer_decay=0.5)
    assert sum(len(g["params"]) for g in decayed) == len(list(net.parameters()))


# Building ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("name", ["convnext{}_atto", "convnextv2{}_atto"])
def test_the_same_weights_decay(name):
    "timm's optimizers count axes: GRN has four here, and one in timm."
    def decaying(model):
        groups = create_optimizer_v2(model, "adamw", 1e-3, weight_decay=0.05).param_groups
        return sorted(p.numel() for g in groups if g["weight_decay"] for p in g["params"])
    theirs = decaying(timm.create_model(name.format("")))
    assert decaying(timm.create_model(name.format("_nb"))) == theirs
    maps = timm.create_model(name.format("_nb"), features_only=True)
    assert maps.no_weight_decay() <= {name for name, _ in maps.named_parameters()}
    assert sum("grn" in name for name in maps.no_weight_decay()) == 24 * ("v2" in name)


def test_settings_reach_the_network():
    net = timm.create_model(OURS, depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), device="meta",
                            dtype=torch.bfloat16)
    assert [len(s) for s in net.stages] == [1, 1, 1, 1] and net.num_features == 32
    assert {(p.device.type, p.dtype) for p in net.parameters()} == {("meta", torch.bfloat16)}


@pytest.mark.parametrize("wrong", [
    dict(act_layer="relu"), dict(ls_init_value=1.0), dict(no_such=1),
    dict(features_only=True, no_such=1), dict(features=True)])
def test_an_argument_is_never_dropped(wrong):
    with pytest.raises(TypeError, match="unexpected keyword argument|takes no "):
        timm.create_model(OURS, **wrong)


def test_a_wrong_tag_is_an_error():
    with pytest.raises(RuntimeError, match="Invalid pretrained tag"):
        timm.create_model(f"{OURS}.no_such_tag")


@pytest.mark.parametrize("name", timm.list_models("*_nb_*"))
def test_every_name_has_a_configuration(name):
    config = timm.get_pretrained_cfg(name)
    assert config.architecture == name and config.input_size == (3, 224, 224)
    assert timm.models.get_pretrained_cfg_value(name, "classifier") == "head"


def test_the_configuration_given_is_used():
    given = dict(mean=(0.0, 0.0, 0.0), num_classes=7, input_size=(1, 64, 64))
    net = timm.create_model(OURS, pretrained_cfg=given)
    assert net.pretrained_cfg["mean"] == (0.0, 0.0, 0.0) and net.num_classes == 7
    assert net.in_chans == 1
    net = timm.create_model(OURS, pretrained_cfg_overlay=dict(crop_pct=1.0))
    assert net.pretrained_cfg["crop_pct"] == 1.0 and net.default_cfg is net.pretrained_cfg


def test_the_configuration_describes_the_network():
    net = timm.create_model(OURS).eval()
    config = net.default_cfg
    with torch.no_grad():
        features = net.forward_features(images(config["input_size"][-1], batch=1))
    assert features.shape[2:] == config["pool_size"]
    names = set(net.state_dict())
    assert {config["classifier"] + ".weight", config["first_conv"] + ".weight"} <= names


# Files -------------------------------------------------------------------------------------------

def test_file_of_a_whole_network(tmp_path, two):
    path = weights.save(two[0], tmp_path / "net")
    overlay = dict(file=str(path), num_classes=5)
    with torch.no_grad():
        net = timm.create_model(OURS, pretrained=True, pretrained_cfg_overlay=overlay).eval()
        assert torch.equal(net(images(64)), two[0](images(64)))
        other = timm.create_model(OURS, pretrained=True, num_classes=3,
                                  pretrained_cfg_overlay=overlay).eval()
        assert other(images(64)).shape == (2, 3)
        maps = two[0].forward_intermediates(images(64), indices=[0, 1], intermediates_only=True)
        for how in (dict(checkpoint_path=str(path)),
                    dict(pretrained=True, pretrained_cfg_overlay=overlay)):
            eye = timm.create_model(OURS, features_only=True, out_indices=(0, 1), **how).eval()
            assert all(torch.equal(a, b) for a, b in zip(eye(images(64)), maps))


@pytest.mark.parametrize("pretrained", [False, True])
def test_directory_of_a_network(tmp_path, two, pretrained):
    timm.models.save_for_hf(two[0], tmp_path, safe_serialization=True)
    net = timm.create_model(f"local-dir:{tmp_path}", pretrained=pretrained).eval()
    assert net.num_classes == 5
    with torch.no_grad():
        assert torch.equal(net(images(64)), two[0](images(64))) == pretrained


def test_a_backbone_takes_weights_layer_decay_and_frozen_stages():
    eye = timm.create_model(OURS, features_only=True)
    whole = weights.randomize(timm.create_model(OURS))
    with pytest.warns(weights.Adapted, match="head.bias"): weights.load(eye, whole)
    assert torch.equal(eye.model.stages[2][3].pwconv1.weight, whole.stages[2][3].pwconv1.weight)
    scales = {g["lr_scale"] for g in optim.param_groups(eye, 0.05, 0.5)}
    assert min(scales) <= 0.5 ** 5
    finetune.freeze(eye, 1)
    learns = {name for name, p in eye.named_parameters() if p.requires_grad}
    assert learns and all(re.match(r"model\.(downsample_layers|stages)\.[123]", n) for n in learns)
