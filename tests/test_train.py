"""The training loop: wrong losses, odd data, every recipe and network, several processes."""
import json
import math
import subprocess
import sys
import zlib
from dataclasses import replace
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from tqdm import tqdm
from training import (
    COMPLETE,
    FULL,
    RECIPE,
    ROOT,
    Killed,
    assert_same,
    dataset,
    fit,
    interrupted,
    names,
    rows,
    split,
)

from convnext_nb import convnext, data, evaluation, models, optim, runs, train, weights
from convnext_nb.data import Dataset, Preprocessing
from convnext_nb.recipe import PRESETS, Recipe

# losses at fault

def test_nan_stops_and_earlier_epochs_are_kept(whole, tmp_path, monkeypatch):
    original = train.train_epoch
    def poisoned(job, *args):
        if job.epoch == 2:  # the third
            with torch.no_grad():
                next(job.model.parameters())[0, 0] = math.nan
        return original(job, *args)
    with monkeypatch.context() as m:
        m.setattr(train, "train_epoch", poisoned)
        with pytest.raises(train.Diverged, match="loss is nan in epoch 3.*[Tt]ry a lower lr"):
            fit(tmp_path)
    run = runs.Run(tmp_path)
    assert rows(run) == rows(whole[1])[:2] and not run.evidence
    assert torch.load(tmp_path / "checkpoint.pt")["epoch"] == 2
    assert_same(whole, fit(tmp_path))


@pytest.mark.parametrize("batch_size", [1, 8, 26])
@pytest.mark.parametrize("lr", [1e6, 1e20, 1e38])
def test_a_wild_rate_stops(batch_size, lr, tmp_path):
    wild = replace(RECIPE, lr=lr, warmup_epochs=0, clip_grad=None, batch_size=batch_size)
    with pytest.raises(train.Diverged, match="epoch [12].*[Tt]ry a lower lr"):
        fit(tmp_path, wild)
    assert len(rows(runs.Run(tmp_path))) <= 1
    if (tmp_path / "checkpoint.pt").exists():  # kept as the last good state
        model = torch.load(tmp_path / "checkpoint.pt")["model"]
        assert all(p.isfinite().all() for p in model.values())


@pytest.mark.parametrize("broken", ["loss", "weights"])
def test_a_broken_state_is_not_saved_within_an_epoch(broken, tmp_path, monkeypatch):
    "Here the state would be saved after each step; the fifth step (of three an epoch) goes wrong."
    steps, loss_of, update = [], train.loss_of, train.update_weights
    def poisoned_loss(*args):
        return loss_of(*args) * (math.nan if broken == "loss" and len(steps) == 4 else 1)
    def poisoned_update(job):
        update(job)
        steps.append(job.step)
        if broken == "weights" and len(steps) == 5:
            with torch.no_grad():
                next(job.model.parameters())[0, 0] = math.nan
    monkeypatch.setattr(train, "loss_of", poisoned_loss)
    monkeypatch.setattr(train, "update_weights", poisoned_update)
    with pytest.raises(train.Diverged, match="in epoch 2, step 2.*In a new folder, try a lower lr"):
        train.fit(RECIPE, dataset(), tmp_path, device="cpu", progress=False, save_minutes=0)
    state = torch.load(tmp_path / "checkpoint.pt")
    assert (state["epoch"], len(state["losses"])) == (1, 1)
    assert all(p.isfinite().all() for p in state["model"].values())


@pytest.mark.parametrize("losses, ok", [([1.4] * 3, True), ([1.4, math.nan, 1.4], False),
                                        ([1.4, math.inf], False), ([0.0], True), ([6.1], True),
                                        ([6.2], False), ([-math.inf, 1.0], False)])
def test_check_losses(losses, ok):
    if ok:
        train.check_losses(torch.tensor(losses), 4, "here", RECIPE)
    else:
        with pytest.raises(train.Diverged, match="here; guessing would give 1.39"):
            train.check_losses(torch.tensor(losses), 4, "here", RECIPE)


# odd data

def test_labels_beyond_the_classes_are_refused():
    with pytest.raises(ValueError, match="label 3 of image 3 in train is outside 0..2"):
        Dataset("toy", split(8), split(8, 3), tuple("abc"), Preprocessing(32), "-")


@pytest.mark.parametrize("n_train, n_val", [(0, 5), (5, 0)])
def test_empty_splits_are_refused(n_train, n_val, tmp_path):
    with pytest.raises(ValueError, match=f"toy has {n_train} training and {n_val} held-out"):
        fit(tmp_path / "run", what=dataset(n_train, n_val))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("n_train, n_val, batch_size", [(1, 1, 1), (1, 1, 8), (5, 1, 64), (1, 5, 1),
                                                        (9, 3, 8), (8, 3, 8)])
def test_small_splits(n_train, n_val, batch_size, tmp_path):
    small = replace(RECIPE, epochs=2, batch_size=batch_size)
    model, run = fit(tmp_path, small, dataset(n_train, n_val))
    assert len(rows(run)) == 2 and names(tmp_path) == COMPLETE
    assert all(math.isfinite(row["loss"]) and row["loss"] > 0 for row in rows(run))


def test_two_classes_and_batch_norm(tmp_path):
    "With fewer than five classes top-5 is 100; batch norm's statistics resume, too."
    recipe = Recipe(model="roadmap/base", model_args=dict(width_mult=0.25, depths=(1, 1, 1, 1)),
                    epochs=2, batch_size=4, warmup_epochs=1, precision="fp32")
    one = fit(tmp_path / "one", recipe, dataset(8, 4, 2))
    assert all(row["val_top5"] == 100 for row in rows(one[1]))
    patch = interrupted(train, "train_epoch", 1)
    with pytest.raises(Killed):
        fit(tmp_path / "two", recipe, dataset(8, 4, 2))
    patch.undo()
    assert_same(one, fit(tmp_path / "two", recipe, dataset(8, 4, 2)))


def test_images_that_do_not_fit_stay():
    what = dataset()
    size = what.train.images.nbytes + what.val.images.nbytes
    assert train.to_device(what, torch.device("cpu"), size - 1) is what
    assert train.to_device(what, torch.device("cpu"), size) is not what


def test_images_are_not_copied_to_be_measured(monkeypatch):
    part = dataset(8, 4, 2).hold_out(1)  # rows of a store
    def refuse(split): raise AssertionError("a copy of all images was made")
    monkeypatch.setattr(type(part.train), "images", property(refuse))
    assert train.to_device(part, torch.device("cpu"), 0) is part


# measuring

@pytest.mark.parametrize("classes", [3, 12])
@pytest.mark.parametrize("training", [True, False])
def test_evaluate_is_the_plain_computation(classes, training):
    torch.manual_seed(0)
    model = convnext.ConvNeXt((1, 1, 1, 1), (8, 8, 16, 16), classes, drop_path=0.9).train(training)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    what, pre = split(23, classes), Preprocessing(32)
    top1 = top5 = loss = 0
    before = {k: v.clone() for k, v in model.state_dict().items()}
    found = [train.evaluate(model, what, pre, size) for size in (1, 5, 23, 512)]
    assert model.training == training and all(m.training == training for m in model.modules())
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())
    model.eval()
    for image, label in zip(what.images, what.labels):
        x = (image.double() / 255 - torch.tensor(pre.mean)) / torch.tensor(pre.std)
        with torch.no_grad():
            logits = model(x.permute(2, 0, 1)[None].float())[0].double()
        better = int((logits > logits[label]).sum())
        top1, top5 = top1 + (better < 1), top5 + (better < 5)
        loss += -torch.log_softmax(logits, 0)[label].item()
    assert 0 < top1 < 23
    for one in found:
        assert one["top1"] == pytest.approx(100 * top1 / 23)
        assert one["top5"] == pytest.approx(100 * top5 / 23)
        assert one["loss"] == pytest.approx(loss / 23, rel=1e-4)


def test_evaluate_keeps_the_mode_of_each_part():
    model = convnext.ConvNeXt((1, 1, 1, 1), (8, 8, 16, 16), 4).train()
    model.stages[0].eval()  # frozen
    train.evaluate(model, split(5), Preprocessing(32))
    assert model.training and not model.stages[0].training and model.stages[1].training


def test_evaluate_refuses_nothing():
    with pytest.raises(ValueError, match="cannot evaluate on an empty split"):
        train.evaluate(nn.Linear(1, 1), split(0), Preprocessing(32))


# the loop

def test_the_loop_follows_lr_at(tmp_path, monkeypatch):
    seen, step = [], torch.optim.AdamW.step
    def watched(self, *args, **kwargs):
        seen.append({group["lr"] for group in self.param_groups})
        return step(self, *args, **kwargs)
    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    fit(tmp_path)
    assert seen == [{optim.lr_at(RECIPE, i, 3)} for i in range(4 * 3)]  # 26 images, 8 a step


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_step_on_a_gpu_waits_for_nothing(monkeypatch):
    "The losses are read every fifty steps; in between, the program runs ahead of the GPU."
    job = train.prepare(replace(FULL, precision="auto", sizes=()), dataset(64), "cuda")
    def epoch():
        job.step, job.losses, job.seconds = 0, None, 0.0
        train.train_epoch(job, tqdm(disable=True), lambda: None)
    epoch()
    monkeypatch.setattr(train, "check_losses", lambda *args: 0.0)
    monkeypatch.setattr(train, "wait_for", lambda where: None)  # before the clock is read
    original = train.prepare_batch
    def watched(*args):  # the order of the images has been sent before the first step
        torch.cuda.set_sync_debug_mode("error")
        return original(*args)
    monkeypatch.setattr(train, "prepare_batch", watched)
    try:
        epoch()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_everything_on(full):
    model, run = full
    assert names(run.folder) == sorted([*COMPLETE, "ema.safetensors"])
    assert all(0 <= row["ema_val_top1"] <= 100 for row in rows(run))
    net, pre, classes = models.restore(run.folder, ema=True)
    found = evaluation.evaluate(net, dataset().val, pre)
    assert {f"ema_{k}": v for k, v in found.items()} == pytest.approx(
        {k: v for k, v in run.evidence.items() if k.startswith("ema_")})


def test_the_average_is_the_plain_formula(tmp_path, monkeypatch):
    seen, update = [], torch.optim.AdamW.step
    def watched(self, *args, **kwargs):
        update(self, *args, **kwargs)
        seen.append(self.param_groups[0]["params"][0].detach().clone())
    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    model, run = fit(tmp_path, replace(RECIPE, epochs=1, ema=0.7))
    torch.manual_seed(RECIPE.seed)
    average = next(train.create(RECIPE.model, 4, **RECIPE.model_args).parameters()).detach()
    for current in seen:
        average = 0.7 * average + 0.3 * current
    kept = models.restore(tmp_path, ema=True)[0]
    assert torch.allclose(next(kept.parameters()), average, atol=1e-6)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_run(name, tmp_path, monkeypatch):
    "Each preset from end to end, with a small network and few small images."
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(train, "check_compiler", lambda where: None)
    preset = PRESETS[name]
    args = {k: v for k, v in preset.model_args.items() if k in ("drop_path", "layer_scale")}
    small = replace(preset, model="convnext", model_args=RECIPE.model_args | args, epochs=2,
                    batch_size=8, size=preset.size and 64, warmup_epochs=1, start=None)
    model, run = fit(tmp_path, small)
    assert len(rows(run)) == 2
    assert run.recipe["data"]["preprocessing"]["size"] == (small.size or 32)


@pytest.mark.parametrize("model, args", [
    ("swin_t", dict(stem_stride=2)), ("resnet18", {}), ("convnextv2_atto", {}),
    ("convnext_isotropic_small", {}), ("roadmap/ln", dict(width_mult=0.25))])
def test_a_run_of_each_family_can_be_used(model, args, tmp_path):
    recipe = Recipe(model=model, model_args=args, epochs=1, batch_size=2, warmup_epochs=0)
    net, run = fit(tmp_path, recipe, dataset(2, 2, side=32))
    again, pre, classes = models.restore(run.folder)
    assert evaluation.evaluate(again, dataset(2, 2).val, pre) == evaluation.evaluate(
        net, dataset(2, 2).val, pre)


def test_a_start_from_weights(whole, tmp_path):
    "Weights are loaded before the first step; another number of classes leaves the head fresh."
    file = str(whole[1].folder / "model.safetensors")
    recipe = replace(RECIPE, start=file, head_init_scale=0.001, lr=1e-9, min_lr=0.0,
                     warmup_epochs=0, epochs=1)
    same = fit(tmp_path / "same", recipe)[0]
    for a, b in zip(same.parameters(), whole[0].parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-7)
    with pytest.warns(UserWarning, match="head is left fresh"):
        other = fit(tmp_path / "other", recipe, dataset(classes=5))[0]
    assert other.head.weight.abs().max() < 1e-3
    assert torch.allclose(other.stages[3][0].pwconv1.weight, whole[0].stages[3][0].pwconv1.weight,
                          atol=1e-6)


def test_a_start_from_the_shipped_network(tmp_path):
    recipe = Recipe(model="convnext_atto", model_args=dict(layer_scale=1.0), start="atto_tiny200",
                    lr=1e-12, min_lr=0.0, warmup_epochs=0, epochs=1, batch_size=2, precision="fp32")
    with pytest.warns(UserWarning, match="head is left fresh"):
        net = fit(tmp_path, recipe, dataset(2, 2))[0]
    shipped = models.restore("atto_tiny200")[0]
    assert torch.allclose(net.stages[3][1].pwconv2.weight, shipped.stages[3][1].pwconv2.weight)


# several processes

def test_two_processes_agree_with_one(tmp_path):
    "The global batches are the same; only the order of additions differs."
    recipe = replace(RECIPE, epochs=3, augment="none", ema=0.9, model_args=RECIPE.model_args | dict(
        drop_path=0.0))
    one = fit(tmp_path / "one", recipe, dataset(24, 10))
    (tmp_path / "two.py").write_text(f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import torch, training
torch.set_num_threads(1)
recipe = training.Recipe.from_dict({recipe.to_dict()!r})
training.fit({str(tmp_path / "two")!r}, recipe, training.dataset(24, 10))
""")  # on CPUs torchrun starts the processes; accelerate's launcher does so for GPUs
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
              "--standalone", str(tmp_path / "two.py")]
    done = subprocess.run(launch, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert "strides do not match" not in done.stderr
    run = runs.Run(tmp_path / "two")
    assert run.evidence["processes"] == 2 and names(run.folder) == names(tmp_path / "one")
    for name in ("model", "ema"):
        ours, theirs = (load_file(tmp_path / f / f"{name}.safetensors") for f in ("one", "two"))
        gaps = {k: (a - theirs[k]).abs().max().item() for k, a in ours.items()}
        assert max(gaps.values()) < 1e-4, gaps  # without averaging about 0.1
    for a, b in zip(rows(one[1]), rows(run), strict=True):
        assert a == pytest.approx(b, rel=1e-4)


def test_processes_need_equal_shares():
    batches = data.batches(split(24), 8, share=(1, 2))
    assert [len(y) for _, y in batches] == [4, 4, 4]
    with pytest.raises(ValueError, match="cannot be shared by 3 processes"):
        data.batches(split(24), 8, share=(0, 3))



def test_a_run_from_before_the_fields_goes_on(tmp_path):
    "`kind`, `holdout` and `streamed` are missing in its recipe.json; only the sentence is there."
    shapes = data.Shapes(250, 50).hold_out(5)
    short = replace(RECIPE, epochs=1)
    train.fit(short, shapes, tmp_path / "run", device="cpu", progress=False)
    file = tmp_path / "run" / "recipe.json"
    stored = json.loads(file.read_text())
    assert {k: stored["data"].pop(k) for k in ("kind", "holdout", "streamed")} == dict(
        kind="shapes", holdout=5, streamed=False)
    file.write_text(json.dumps(stored))
    train.fit(short, shapes, tmp_path / "run", device="cpu", progress=False)
    with pytest.raises(ValueError, match="holds a run on other data .*val: 5 training images"):
        train.fit(short, data.Shapes(250, 50), tmp_path / "run", device="cpu", progress=False)


def test_a_dataset_at_another_size_is_trained_at_it(tmp_path, monkeypatch):
    seen = []
    step = train.train_step
    def watched(job, x, y):
        seen.append(x.shape[-1])
        return step(job, x, y)
    monkeypatch.setattr(train, "train_step", watched)
    run = fit(tmp_path, replace(RECIPE, epochs=1), dataset().at_size(64))[1]
    assert set(seen) == {64} and run.metrics[0]["size"] == 64


def test_a_run_with_numpys_numbers_goes_on(tmp_path):
    recipe = replace(RECIPE, lr=np.float64(1e-3), epochs=2)
    fit(tmp_path, recipe)
    assert len(fit(tmp_path, recipe)[1].metrics) == 2


def test_a_begun_run_needs_no_start_and_a_finished_one_no_compiler(tmp_path, monkeypatch):
    net = models.create(RECIPE.model, 10, **RECIPE.model_args)
    path = weights.save(net, tmp_path / "first")
    recipe = replace(RECIPE, start=str(path))
    one = fit(tmp_path / "one", recipe)
    patch = interrupted(train, "train_epoch", 2)
    with pytest.raises(Killed): fit(tmp_path / "two", recipe)
    patch.undo()
    path.unlink()
    assert_same(one, fit(tmp_path / "two", recipe))
    assert_same(one, fit(tmp_path / "one", recipe))
    def refuse(device): raise ValueError("no compiler")
    monkeypatch.setattr(train, "check_compiler", refuse)
    fit(tmp_path / "one", recipe)
    with pytest.raises(ValueError, match="no compiler"):
        fit(tmp_path / "three", replace(RECIPE, compile=True))


def test_it_is_said_if_a_run_is_measured_at_another_size_than_it_trains(tmp_path, capsys):
    recipe = replace(RECIPE, epochs=1, sizes=((0, 32),))
    train.fit(recipe, dataset().at_size(64), tmp_path, "cpu")
    assert "trained at up to 32 px, evaluated at 64" in capsys.readouterr().err


# what the recipe asks for reaches the step

def test_layer_decay_betas_and_weight_decay_reach_each_step(tmp_path, monkeypatch):
    seen, step = [], torch.optim.AdamW.step
    def watched(self, *args, **kwargs):
        seen.append([(g["lr"], g["weight_decay"], g["betas"]) for g in self.param_groups])
        return step(self, *args, **kwargs)
    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    recipe = replace(RECIPE, epochs=1, layer_decay=0.5, weight_decay=0.07, betas=(0.8, 0.95))
    groups = optim.param_groups(fit(tmp_path, recipe)[0], 0.07, 0.5)
    assert len({g["lr_scale"] for g in groups}) > 3 and len(seen) == 3
    for i, found in enumerate(seen):
        rate = optim.lr_at(recipe, i, 3)
        assert found == [(rate * g["lr_scale"], g["weight_decay"], (0.8, 0.95)) for g in groups]


def test_each_field_reaches_the_function_that_it_is_for(monkeypatch):
    asked = {}
    def watched(name, original):
        def call(*args):
            asked[name] = args
            return original(*args)
        return call
    for name in ("augment_images", "erase", "mix"):
        monkeypatch.setattr(train.augment, name, watched(name, getattr(train.augment, name)))
    recipe = replace(RECIPE, augment="flip randaugment", magnitude=3, erasing=0.4, mixup=0.3,
                     cutmix=0.7, mix_per_sample=False, label_smoothing=0.2, sizes=((0, 48),))
    what, g = dataset(), torch.Generator().manual_seed(0)
    x, target = train.prepare_batch(*next(iter(data.batches(what.train, 8))), recipe, 0, what, g)
    assert asked["augment_images"][1:] == (("flip", "randaugment"), g, 3, 48)
    assert asked["erase"][1:] == (0.4, g)
    assert asked["mix"][2:] == (4, 0.3, 0.7, g, False, 0.2)
    assert x.shape == (8, 3, 48, 48) and target.min().item() == pytest.approx(0.05)


def test_wrong_losses_are_noticed_every_fifty_steps(tmp_path, monkeypatch):
    step = train.train_step
    def wrong(job, *args):
        loss = step(job, *args)
        return loss if job.step < 50 else 0 * loss + 8  # the mean of all 100 would still pass
    monkeypatch.setattr(train, "train_step", wrong)
    with pytest.raises(train.Diverged, match="loss is 8 in epoch 1, step 100"):
        fit(tmp_path, replace(RECIPE, epochs=1, batch_size=1), dataset(120))


def test_the_loss_of_an_epoch_is_the_mean_of_its_steps(tmp_path, monkeypatch):
    seen, step = [], train.train_step
    def watched(*args):
        seen.append(step(*args))
        return seen[-1]
    monkeypatch.setattr(train, "train_step", watched)
    found = [row["loss"] for row in fit(tmp_path)[1].metrics]
    assert found == pytest.approx(torch.stack(seen).view(4, 3).mean(1).tolist())


def test_the_seed_of_a_place_never_changes():
    "Or checkpoints from before would resume to other bits."
    assert train.seed_of(0, 3, 17) == zlib.crc32(b"(0, 3, 17)")
    assert train.seed_of(5, 2) == zlib.crc32(b"(5, 2)")


def test_a_step_that_processes_cannot_share_equally_is_refused(tmp_path, monkeypatch):
    fake = SimpleNamespace(device=torch.device("cpu"), num_processes=4, process_index=0)
    monkeypatch.setattr(train, "make_accelerator", lambda device: fake)
    with pytest.raises(ValueError, match="a step of 10 images cannot be shared equally by 4"):
        fit(tmp_path / "run", replace(RECIPE, batch_size=512), dataset(10))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("place", ["train_step", "evaluate"])
def test_what_does_not_fit_on_the_gpu_says_what_to_change(place, tmp_path, monkeypatch):
    def full(*args): raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
    monkeypatch.setattr(train, place, full)
    with pytest.raises(torch.OutOfMemoryError, match=r"too small for 16 .* set micro_batch=4 in"):
        fit(tmp_path / "run", replace(RECIPE, micro_batch=None, batch_size=16))
