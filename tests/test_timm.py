"""Our networks under timm's roof: what `timm.create_model` and the scripts around it expect."""
import pytest
import timm
import torch
from oracles import images, on_meta
from timm.optim import create_optimizer_v2

from convnext_nb import convnext, data, fast, timm_models, weights

V1 = ("atto", "femto", "pico", "nano", "tiny", "small", "base", "large", "xlarge")
V2 = ("atto", "femto", "pico", "nano", "tiny", "base", "large", "huge")
SIZES = ([(f"convnext_{size}", f"convnext_nb_{size}") for size in V1]
         + [(f"convnextv2_{size}", f"convnextv2_nb_{size}") for size in V2])


def test_every_name_is_a_function_of_the_module():
    listed = [name for name in timm_models.__all__ if "_nb_" in name]
    names = list(dict.fromkeys(listed))  # timm 1.0.21 adds each name again
    assert names == [name for _, name in SIZES] == sorted(
        timm.list_models("*_nb_*"), key=[name for _, name in SIZES].index)
    assert all(getattr(timm_models, name).__name__ == name for name in names)


@pytest.mark.parametrize("ours, name", SIZES)
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
    path = weights.save(fast.speed_up(ours), tmp_path / "net")  # timm's blocks are fast, too
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
        maps = convnext.convnext_atto(num_classes=5, in_chans=1, features=True)
        maps = fast.speed_up(maps).eval()
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


def test_a_network_without_a_head_has_no_classes():
    net = timm_models.TimmConvNeXt(convnext.convnext_atto(num_classes=0))
    assert net.num_classes == 0 and net.eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 320)
