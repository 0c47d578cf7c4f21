"""Painting hidden patches: every field of the recipe counts, and any data set will do."""
from dataclasses import replace

import torch
from archives import picture, write_folder
from training import RECIPE, dataset

from convnext_nb import convnext, fcmae, folders, optim

PAINT = replace(RECIPE, epochs=1, model_args=dict(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16),
                                                  grn=True, layer_scale=None))


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
