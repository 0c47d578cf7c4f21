"""What is measured of trained networks, on networks and answers that are known."""
from dataclasses import replace
from functools import partial

import pytest
import torch
from archives import SMALL as SMALL_TINY
from archives import toy_files, write_zip
from torch import nn

from convnext_nb import convnext, data, finetune, resnet, runs, seen, train
from convnext_nb.data import Preprocessing, Split

SMALL = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), layer_scale=1.0)


def images(n, h=64, w=64):
    return torch.randn(n, 3, h, w, generator=torch.Generator().manual_seed(0))


def network(**kwargs):
    torch.manual_seed(0)
    return convnext.ConvNeXt(num_classes=4, **{**SMALL, **kwargs}).eval()


class Cells(nn.Module):
    "Units that look at their own cell of 32 x 32 pixels and at nothing else."
    def __init__(self):
        super().__init__()
        self.stages = nn.Sequential(nn.AvgPool2d(32))

    def forward(self, x): return self.stages(x).mean((2, 3))


@pytest.mark.parametrize("h, w", [(64, 64), (96, 96), (224, 224), (64, 96), (256, 64), (32, 160)])
def test_a_unit_that_sees_its_own_cell(h, w):
    energy = seen.receptive_field(Cells(), images(2, h, w))
    assert energy.shape == (h, w) and energy.sum() == pytest.approx(1, abs=1e-5)
    assert seen.field_size(energy, 32)["outside"] == pytest.approx(0, abs=1e-5)


def test_untrained_is_the_network_before_the_first_step(tmp_path):
    dataset = data.Shapes(16, 8)
    recipe = train.Recipe(model="convnext", model_args=SMALL, head_init_scale=0.001, seed=3)
    runs.write_json(tmp_path / "recipe.json", dict(recipe=recipe.to_dict(),
                                                   data=dict(classes=list(dataset.classes))))
    net = seen.untrained(tmp_path, images(2))
    first = train.prepare(recipe, dataset, "cpu").model.state_dict()
    assert all(torch.equal(t, first[key]) for key, t in net.state_dict().items())
    start = replace(recipe, start="atto_tiny200").to_dict()
    runs.write_json(tmp_path / "recipe.json", dict(recipe=start, data=dict(classes=["a"])))
    with pytest.raises(ValueError, match="started from atto_tiny200"):
        seen.untrained(tmp_path, images(2))


def test_grad_cam_of_a_frozen_network_is_the_same():
    net, x, y = network(), images(3), torch.tensor([0, 1, 3])
    free = seen.stage_cam(net, 4, x, y)
    assert torch.equal(seen.stage_cam(finetune.freeze(net), 4, x, y), free) and free.any()
    for stage in (0, 5):
        with pytest.raises(ValueError, match=f"stage {stage}: 1 to 4"):
            seen.stage_cam(net, stage, x, y)


@pytest.mark.parametrize("side", [32, 64, 128])
def test_the_middle_of_masks_of_any_size(side):
    masks = torch.ones(2, side, side, dtype=torch.bool)
    masks[:, side // 2 - 4:side // 2 + 4, side // 2 - 4:side // 2 + 4] = False
    found = seen.cam_in_boxes(network(), images(2), torch.tensor([0, 1]), masks)
    assert all(row["hit_center"] == 0 for row in found.values())


@pytest.mark.parametrize("make", [resnet.resnet18, resnet.resnet50, convnext.convnext_atto])
def test_any_network_without_each_of_its_blocks(make):
    torch.manual_seed(0)
    net = make(num_classes=4).eval()
    found = seen.without_each_block(net, images(2), torch.tensor([0, 1]))
    assert len(found["blocks"]) == sum(map(len, seen.stage_modules(net)))


def test_a_network_in_double_precision():
    net = convnext.convnext_atto(num_classes=4).double().eval()
    x = images(2).double()
    assert len(seen.without_each_block(net, x, torch.tensor([0, 1]))["blocks"]) == 12
    assert seen.receptive_field(net, x).dtype == torch.float64


def test_stages_that_are_not_known():
    with pytest.raises(ValueError, match="Linear has no stages"):
        seen.stage_modules(torch.nn.Linear(2, 2))


def test_a_class_without_images_is_neither_best_nor_worst():
    g = torch.Generator().manual_seed(0)
    names = tuple(f"n0{i}000000 {word}" for i, word in enumerate("abcd"))
    part = Split(torch.randint(256, (9, 32, 32, 3), generator=g, dtype=torch.uint8),
                 torch.arange(9) % 3)  # none of the last class
    how = Preprocessing(size=32)
    dataset = replace(data.Shapes(8, 8), train=part, val=part, classes=names,
                      preprocessing=how)
    found = seen.mistakes(network(), dataset)
    assert {name for name, _ in found["best"] + found["worst"]} == {"a", "b", "c"}


def test_maps_are_made_at_the_size_that_is_asked_for():
    dataset = data.Shapes(16, 16)
    asked = dataset.at_size(2 * dataset.preprocessing.size)
    torch.manual_seed(0)
    net = convnext.ConvNeXt(num_classes=len(dataset.classes), **SMALL).eval()
    small, large = (seen.true_and_rival(net, d)["maps"][4]["true"][0] for d in (dataset, asked))
    assert len(large) == 2 * len(small)


def test_boxes_are_masks_of_the_sorted_validation_images(tmp_path, monkeypatch):
    notes = b"val_1.JPEG\tn01\t10\t20\t30\t40\nval_0.JPEG\tn02\t0\t5\t63\t5\n"
    path = write_zip(tmp_path / "toy.zip", toy_files() | {"val/val_annotations.txt": notes})
    monkeypatch.setattr(seen.archive, "tiny_imagenet_files",
                        partial(seen.archive.tiny_imagenet_files, layout=SMALL_TINY))
    expected = torch.zeros(2, 64, 64, dtype=torch.bool)
    expected[0, 20:41, 10:31] = True
    expected[1, 5] = True
    assert torch.equal(seen.box_masks(path, torch.tensor([1, 0])), expected)


def test_untrained_statistics_are_those_of_all_branches(tmp_path):
    "Stochastic depth drops none of them."
    dataset = data.Shapes(16, 8)
    found = []
    for drop_path in (0.0, 0.9):
        recipe = train.Recipe(model="roadmap/base", model_args=dict(
            width_mult=0.25, depths=(1, 1, 1, 1), drop_path=drop_path), seed=3)
        folder = tmp_path / str(drop_path)
        folder.mkdir()
        runs.write_json(folder / "recipe.json", dict(
            recipe=recipe.to_dict(), data=dict(classes=list(dataset.classes))))
        found.append(seen.untrained(folder, images(2)).state_dict())
    assert found[0].keys() == found[1].keys()
    assert all(torch.equal(found[0][key], found[1][key]) for key in found[0])
