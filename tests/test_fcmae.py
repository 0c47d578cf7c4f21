"""Painting hidden patches: every field of the recipe counts, and any data set will do."""
from dataclasses import replace

import pytest
import torch
from archives import picture, write_folder
from training import RECIPE, dataset

from convnext_nb import convnext, fcmae, folders, optim

PAINT = replace(RECIPE, epochs=1, model_args=dict(
    depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), grn=True, layer_scale=None, stem_stride=2))


def test_fewer_images_than_a_batch():
    _, losses = fcmae.pretrain(replace(PAINT, batch_size=64), dataset(5))
    assert len(losses) == 1 and 0 < losses[0] < 3


def test_growing_images_and_another_size():
    recipe = replace(PAINT, epochs=2, sizes=((0, 32), (0.5, 64)))
    assert len(fcmae.pretrain(recipe, dataset(8))[1]) == 2
    assert len(fcmae.pretrain(PAINT, dataset(8).at_size(64))[1]) == 1


def test_optimizer_and_layer_decay_reach_the_encoder():
    recipe = replace(PAINT, optimizer="muon", layer_decay=0.5)
    net = convnext.ConvNeXt(num_classes=4, **PAINT.model_args)
    def kinds(model):
        groups = optim.make_optimizer(model, recipe).param_groups
        names = {id(p): name.removeprefix("encoder.") for name, p in model.named_parameters()}
        return {names[id(p)]: (g["use_fallback"], g["lr_scale"]) for g in groups
                for p in g["params"]}
    alone, inside = kinds(net), kinds(fcmae.FCMAE(net, 8))
    encoder = {name for name in alone if name.startswith(("stages", "downsample_layers"))}
    assert {name: inside[name] for name in encoder} == {name: alone[name] for name in encoder}
    assert False in {fallback for fallback, _ in alone.values()}


def test_streamed_pictures_are_cropped(tmp_path, monkeypatch):
    files = {f"{c}/{i}.png": picture(i, kind="PNG") for c in "ab" for i in range(6)}
    streamed = folders.StreamedFolder(write_folder(tmp_path / "own", files), 32, workers=0)
    seeds = []
    read = folders.Reader.read
    def watched(self, row, seed):
        seeds.append(seed)
        return read(self, row, seed)
    monkeypatch.setattr(folders.Reader, "read", watched)
    torch.manual_seed(0)
    fcmae.pretrain(replace(PAINT, batch_size=4, augment="resized_crop flip"), streamed)
    assert seeds and None not in seeds


@pytest.mark.parametrize("side", [2, 3, 14])
@pytest.mark.parametrize("ratio", [0.001, 0.1, 0.6, 0.9, 0.999])
def test_something_is_hidden_and_something_seen(side, ratio):
    hidden = fcmae.draw_mask(5, side, ratio).flatten(1).sum(1)
    assert len(hidden.unique()) == 1 and 1 <= hidden[0] <= side**2 - 1
    if 1 <= ratio * side**2 <= side**2 - 1: assert hidden[0] == round(ratio * side**2)
    with pytest.raises(ValueError, match="one patch"): fcmae.draw_mask(5, 1, ratio)


def test_nothing_is_mixed(monkeypatch):
    plain = fcmae.pretrain(PAINT, dataset(8))[1]
    assert fcmae.pretrain(replace(PAINT, mixup=0.2, cutmix=1.0), dataset(8))[1] == plain


@pytest.mark.parametrize("change, said", [
    (dict(sizes=((0, 64), (0.5, 72))), "images of 72 px cannot be cut into patches of 16 px"),
    (dict(size=16), "images of 16 px are one patch"),
    (dict(size=24), "images of 24 px cannot be cut"),
    (dict(model="resnet18", model_args={}), "resnet18 is no ConvNeXt"),
    (dict(model="roadmap/sep_ds", model_args=dict(width_mult=0.1)), "sep_ds is no ConvNeXt")])
def test_what_cannot_be_painted_is_refused_at_once(change, said, monkeypatch):
    monkeypatch.setattr(fcmae, "batches", None)  # before any is asked for
    with pytest.raises(ValueError, match=said):
        fcmae.pretrain(replace(PAINT, epochs=2, **change), dataset(8))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_precision_can_be_masked(dtype):
    net = convnext.ConvNeXt(num_classes=4, **PAINT.model_args).to(dtype)
    x, hidden = torch.randn(2, 3, 64, 64, dtype=dtype), fcmae.draw_mask(2, 4)
    y = fcmae.encode(net, x, hidden)
    assert y.dtype == dtype and not y[hidden.expand_as(y)].any() and y.any()
    assert fcmae.paint(fcmae.FCMAE(net, 8).to(dtype), x, hidden).dtype == dtype


def test_images_of_one_channel():
    net = convnext.ConvNeXt(num_classes=4, in_chans=1, **PAINT.model_args)
    x, hidden = torch.randn(2, 1, 64, 64), fcmae.draw_mask(2, 4)
    assert fcmae.paint(fcmae.FCMAE(net, 8), x, hidden).shape == x.shape


class Painter(torch.nn.Module):
    "Off by 2 where hidden, and far off elsewhere."
    patch = 16
    def forward(self, x, hidden):
        return torch.where(hidden, fcmae.targets(x, self.patch)[0] + 2, 99.0)


def test_only_hidden_patches_count_and_each_is_normalized():
    x, hidden = 5 + 3 * torch.randn(3, 3, 64, 64), fcmae.draw_mask(3, 4)
    assert fcmae.painting_loss(Painter(), x, hidden).item() == pytest.approx(4, rel=1e-4)
    wanted, _, _ = fcmae.targets(x, 16)
    assert wanted.mean(1).abs().max() < 1e-5 and (wanted.std(1) - 1).abs().max() < 2e-3
