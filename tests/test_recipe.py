"""Recipes: what is refused, what depends on the epoch, what older files mean."""
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from training import RECIPE

from convnext_nb import data
from convnext_nb.device import use_bf16
from convnext_nb.recipe import PRESETS, Recipe, plan, preset


@pytest.mark.parametrize("change, words", [
    (dict(augment="crop blur"), "blur"), (dict(optimizer="sgd"), "choose one of"),
    (dict(erasing=2), "erasing must be between 0 and 1"),
    (dict(ema=1.0), "ema must be at least 0 and below 1"),
    (dict(label_smoothing=1.0), "label_smoothing must be at least 0 and below 1"),
    (dict(mixup=-1), "mixup must be between 0"), (dict(layer_decay=7), "layer_decay must be"),
    (dict(warmup_epochs=5), "warmup_epochs must be between 0 and 4"),
    (dict(clip_grad=-1), "clip_grad"),
    (dict(warmup_epochs=-1), "warmup_epochs"),
    (dict(min_lr=1.0), "min_lr must be between 0 and 0.01"),
    (dict(weight_decay=-1), "weight_decay"), (dict(size=-5), "size must be positive"),
    (dict(betas=(2, 3)), "betas"), (dict(sizes=((0.5, 48), (0, 32))), "sizes .* in order"),
    (dict(sizes=((0, -5),)), "sizes .* pixels"), (dict(sizes=((0, 0),)), "sizes .* pixels"),
    (dict(sizes=((2, 32),)), "sizes .* from 0 to 1"),
    (dict(model_args=dict(num_classes=3)), "leave num_classes out"),
    (dict(model_args=dict(features=True)), "leave features out")])
def test_recipes_at_fault(change, words):
    with pytest.raises(ValueError, match=words):
        replace(RECIPE, **change)


def test_sizes_and_mixing_follow_the_epoch():
    recipe = replace(RECIPE, epochs=10, size=64, sizes=((0, 32), (0.5, 48), (0.85, 64)), mixup=0.2,
                     mix_until=0.7)
    assert [recipe.size_at(e) for e in range(10)] == [32] * 5 + [48] * 4 + [64]
    assert [recipe.mixes(e) for e in range(10)] == [True] * 7 + [False] * 3
    assert replace(RECIPE, sizes=((0.5, 48),)).size_at(0) is None
    assert not replace(recipe, mixup=0.0).mixes(0)


def test_a_shorter_run_warms_up_for_less():
    recipe = replace(RECIPE, epochs=10, warmup_epochs=2)
    found = [(r.epochs, r.warmup_epochs) for r in map(recipe.with_epochs, (1, 5, 10, 30))]
    assert found == [(1, 0.2), (5, 1.0), (10, 2.0), (30, 2.0)]


def test_an_old_recipe_means_what_it_meant():
    "Fields that were added later have defaults that do what was done before them."
    now = Recipe(epochs=8, warmup_epochs=1, lr=0.004).to_dict()
    later = ("start", "head_init_scale", "optimizer", "layer_decay", "size", "sizes", "magnitude",
             "erasing", "mixup", "cutmix", "mix_per_sample", "mix_until", "ema")
    old = {k: v for k, v in now.items() if k not in later}
    recipe = Recipe.from_dict(json.loads(json.dumps(old)))
    assert (recipe.optimizer, recipe.layer_decay, recipe.ema) == ("adamw", None, None)
    assert not recipe.erasing and not recipe.mixes(0) and recipe.size_at(0) is None
    with pytest.raises(ValueError, match="no field blur in Recipe"):
        Recipe.from_dict(now | dict(blur=1))


def test_presets_by_name():
    assert preset("brief") == preset("tiny_224") == PRESETS["tiny_224"]  # its name before
    with pytest.raises(ValueError, match="no recipe 'pocked'; there are: .*pocket"):
        preset("pocked")


def test_numbers_of_numpy_and_torch_become_pythons():
    recipe = Recipe(lr=np.float64(1e-3), seed=np.int64(1), epochs=torch.tensor(2), compile=np.True_,
                    warmup_epochs=np.float32(0.5), betas=(np.float64(0.9), 0.99),
                    sizes=[(np.float64(0.5), np.int64(64))],
                    model_args=dict(drop_path=np.float64(0.1), dims=(np.int64(8), 16)))
    plain = Recipe(lr=1e-3, seed=1, epochs=2, compile=True, warmup_epochs=0.5, betas=(0.9, 0.99),
                   sizes=[(0.5, 64)], model_args=dict(drop_path=0.1, dims=(8, 16)))
    assert repr(recipe) == repr(plain) and recipe == plain
    assert json.loads(json.dumps(recipe.to_dict())) == plain.to_dict()


def test_a_preset_is_a_copy():
    for name in PRESETS: preset(name).model_args["drop_path"] = 0.9
    assert all(recipe.model_args.get("drop_path") != 0.9 for recipe in PRESETS.values())


def test_layer_decay_of_nothing():
    with pytest.raises(ValueError, match="layer_decay must be positive"): Recipe(layer_decay=0.0)


@pytest.mark.parametrize("kind", ["shapes", "folder"])
def test_a_plan_is_a_copy(kind):
    recipe, _ = plan(replace(data.Shapes(8, 8), kind=kind), "cpu")
    recipe.model_args["drop_path"] = 0.9
    assert all(recipe.model_args.get("drop_path") != 0.9 for recipe in PRESETS.values())


def test_fractions_of_the_training_are_whole_epochs():
    "Although 0.07 * 100 is 7.000000000000001, and 0.29 * 100 is 28.999999999999996."
    for epochs in range(1, 201):
        for n in range(epochs):
            recipe = Recipe(epochs=epochs, warmup_epochs=0, mixup=0.2, mix_until=n / epochs,
                            sizes=((0, 32), (n / epochs, 64)))
            assert recipe.size_at(n) == 64 and not recipe.mixes(n)
            if n: assert recipe.size_at(n - 1) == 32 and recipe.mixes(n - 1)
    hundredths = [replace(recipe, epochs=100, mix_until=n / 100) for n in range(100)]
    assert [sum(map(r.mixes, range(100))) for r in hundredths] == list(range(100))


def test_a_warm_up_of_the_whole_training_can_be_shortened():
    for long in range(1, 40):
        recipe = Recipe(epochs=long, warmup_epochs=long)
        for epochs in range(1, long): assert recipe.with_epochs(epochs).warmup_epochs <= epochs


@pytest.mark.parametrize("can", [True, False])
def test_bf16_where_the_device_multiplies_in_it(can, monkeypatch):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict(avx512_bf16=can))
    monkeypatch.setattr(torch.cuda, "is_bf16_supported",
                        lambda including_emulation=True: can or including_emulation)
    def found(precision):
        return [use_bf16(replace(RECIPE, precision=precision), torch.device(d))
                for d in ("cpu", "cuda", "mps")]
    assert found("auto") == [can, can, False]
    assert found("bf16") == [True] * 3 and found("fp32") == [False] * 3


@pytest.mark.parametrize("can", [True, False])
def test_a_plan_for_a_gpu_compiles_where_that_works(can, monkeypatch):
    def check(device):
        if not can: raise ValueError("torch.compile needs a C compiler")
    monkeypatch.setattr("convnext_nb.device.check_compiler", check)
    many = data.Shapes(8, 8)
    many = replace(many, train=many.train.subset(torch.arange(20_000) % 8))
    assert plan(many, "cuda")[0] == replace(preset("tiny_fast"), compile=can)


@pytest.mark.parametrize("name", ["head_init_scale", "magnitude", "lr", "mixup", "weight_decay"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_numbers_are_finite(name, value):
    with pytest.raises(ValueError, match=f"{name} must be a finite number"):
        replace(RECIPE, **{name: value})
