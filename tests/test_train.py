"""The training loop at fault: killed, resumed, out of disk, diverged, fed with odd data."""
import errno
import json
import math
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from convnext_nb import convnext, data, resnet, roadmap, runs, swin, train
from convnext_nb.data import Dataset, Preprocessing, Split
from convnext_nb.train import Recipe

ROOT = Path(__file__).resolve().parent.parent
RECIPE = Recipe(model="convnext", epochs=4, batch_size=8, lr=1e-2, warmup_epochs=1,
                model_args=dict(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), drop_path=0.3),
                precision="fp32")
TIMES = ("seconds", "images_per_s")  # what differs from run to run


@pytest.fixture(autouse=True)
def one_thread():
    "Tiny networks are slower with more, and all runs must be the same."
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


def split(n, classes=4, side=32):
    "Images whose mean colour tells the class, and noise."
    g = torch.Generator().manual_seed(n)
    labels = torch.arange(n) % classes
    images = torch.randint(120, (n, side, side, 3), generator=g) + 30 * labels[:, None, None, None]
    return Split(images.to(torch.uint8), labels)


def dataset(n_train=26, n_val=10, classes=4, side=32):
    return Dataset("toy", split(n_train, classes, side), split(n_val, classes, side),
                   tuple(f"class {k}" for k in range(classes)), Preprocessing(side), "drawn here")


def fit(folder, recipe=RECIPE, what=None):
    return train.fit(recipe, what or dataset(), folder, device="cpu", progress=False)


def rows(run):
    "The metrics, every line of them strict JSON, without times."
    def refuse(constant):
        raise ValueError(f"{constant} is no JSON")
    path = run.folder / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    found = [json.loads(line, parse_constant=refuse) for line in lines]
    assert found == run.metrics
    return [{k: v for k, v in row.items() if k not in TIMES} for row in found]


def assert_same(one, other):
    "Weights and metrics, bit for bit."
    (model, run), (again, run2) = one, other
    for (k, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), k
    assert rows(run) == rows(run2)
    assert all(run.evidence[k] == run2.evidence[k] for k in ("val_top1", "val_loss", "train_top1"))


def names(folder):
    return sorted(p.name for p in folder.iterdir())


COMPLETE = ["checkpoint.pt", "evidence.json", "metrics.jsonl", "model.safetensors", "recipe.json"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    "A run that nothing disturbed."
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    done = fit(tmp_path_factory.mktemp("whole"))
    torch.set_num_threads(usual)
    return done


class Killed(BaseException):
    "Stands for what ends a run at a certain point."


def interrupted(where, name, when):
    "Let the call number `when` (from 0) of a function raise; returns the patch, to be undone."
    original, calls = getattr(where, name), [0]
    def function(*args, **kwargs):
        calls[0] += 1
        if calls[0] == when + 1:
            raise Killed
        return original(*args, **kwargs)
    patch = pytest.MonkeyPatch()
    patch.setattr(where, name, function)
    return patch


# killed and resumed

def test_a_run_is_complete_and_the_same_twice(whole, tmp_path):
    assert [row["epoch"] for row in rows(whole[1])] == [1, 2, 3, 4]
    assert names(whole[1].folder) == COMPLETE and not whole[0].training
    assert_same(whole, fit(tmp_path / "again"))


def test_a_killed_process_resumes_to_the_same_bits(whole, tmp_path):
    code = f"""
import sys, time
sys.path.insert(0, {str(ROOT / "tests")!r})
import torch, test_train
torch.set_num_threads(1)
quick = test_train.data.crop_flip
def slow(*args):
    time.sleep(0.2)
    return quick(*args)
test_train.data.crop_flip = slow
test_train.fit({str(tmp_path / "run")!r})
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stderr=subprocess.PIPE)
    metrics, end = tmp_path / "run/metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") == 2):
        assert time.monotonic() < end and process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    time.sleep(0.25)  # into the third epoch
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and len(rows(runs.Run(tmp_path / "run"))) == 2
    assert_same(whole, fit(tmp_path / "run"))


STEPS = {  # where the run ends: (place, function, call)
    "before the first epoch": (train, "train_epoch", 0),
    "in the third epoch": (train, "train_epoch", 2),
    "in a step": (data, "crop_flip", 7),
    "in evaluation": (train, "evaluate", 3),
    "before a checkpoint": (train, "save_checkpoint", 1),
    "while a checkpoint is written": (torch, "save", 1),
    "when it takes its place": (train.os, "replace", 5),
    "before the metrics": (runs.Run, "append", 1),
    "at the end": (train, "finish", 0),
    "before the evidence": (runs, "write_json", 1),
}


@pytest.mark.parametrize("step", STEPS)
def test_wherever_it_ends_it_goes_on(step, whole, tmp_path):
    patch = interrupted(*STEPS[step])
    with pytest.raises(Killed):
        fit(tmp_path)
    patch.undo()
    rows(runs.Run(tmp_path))  # valid at any time
    assert_same(whole, fit(tmp_path))


def test_a_cut_line_of_metrics_is_repaired(whole, tmp_path):
    patch = interrupted(train, "train_epoch", 2)
    with pytest.raises(Killed):
        fit(tmp_path)
    patch.undo()
    with open(tmp_path / "metrics.jsonl", "a") as f:
        f.write('{"epoch": 3, "lo')
    assert_same(whole, fit(tmp_path))


def test_a_finished_run_is_only_measured_again(whole, tmp_path, monkeypatch):
    fit(tmp_path)
    monkeypatch.setattr(train, "train_epoch", None)
    assert_same(whole, fit(tmp_path))


# checkpoints

@pytest.mark.parametrize("share", [0, 0.2, 0.7, 0.999])
def test_a_truncated_checkpoint_is_named(share, tmp_path):
    fit(tmp_path, replace(RECIPE, epochs=1))
    path = tmp_path / "checkpoint.pt"
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(ValueError, match="is damaged .*; delete it to start over") as e:
        fit(tmp_path, replace(RECIPE, epochs=1))
    assert str(path) in str(e.value)
    path.unlink()
    assert len(rows(fit(tmp_path, replace(RECIPE, epochs=1))[1])) == 1


@pytest.mark.parametrize("change, words", [
    (dict(lr=0.02), "lr: 0.01 there, 0.02 here"), (dict(seed=1), "seed: 0 there, 1 here"),
    (dict(epochs=5), "epochs: 4 there, 5 here"),
    (dict(model_args=RECIPE.model_args | dict(dims=(8, 8, 8, 8))), "model_args: .* there, .* here"),
    (dict(model="resnet18", model_args={}), "model: 'convnext' there, 'resnet18' here")])
def test_another_recipe_is_refused(change, words, whole):
    folder = whole[1].folder
    before = {name: (folder / name).read_bytes() for name in names(folder)}
    with pytest.raises(ValueError, match=f"another recipe .*{words}.*use another folder"):
        fit(folder, replace(RECIPE, **change))
    assert before == {name: (folder / name).read_bytes() for name in names(folder)}


@pytest.mark.parametrize("what", [dataset(27), dataset(side=33), dataset(classes=5)])
def test_other_data_are_refused(what, whole):
    with pytest.raises(ValueError, match="holds a run on other data .*use another folder"):
        fit(whole[1].folder, what=what)


def test_a_full_disk_keeps_the_last_state(whole, tmp_path, monkeypatch):
    save, calls = torch.save, []
    def fill(state, file):
        calls.append(file)
        save(state, file)
        if len(calls) == 3:
            (tmp_path / "checkpoint.part").write_bytes(b"half")
            raise OSError(errno.ENOSPC, "No space left on device")
    with monkeypatch.context() as m:
        m.setattr(torch, "save", fill)
        with pytest.raises(OSError, match="No space left on device; free some space") as e:
            fit(tmp_path)
    assert str(tmp_path / "checkpoint.pt") in str(e.value) and not list(tmp_path.glob("*.part"))
    assert torch.load(tmp_path / "checkpoint.pt")["epoch"] == 2
    assert_same(whole, fit(tmp_path))


def out_of_room(folder, pipe):
    "A run in a child process, where files may not grow over 20 kB after the first checkpoint."
    save, limit = train.save_checkpoint, resource.RLIMIT_FSIZE
    def then_limit(*args):
        save(*args)
        resource.setrlimit(limit, (20_000, resource.getrlimit(limit)[1]))
    train.save_checkpoint = then_limit
    try:
        pipe.send(fit(folder)[1].metrics)
    except BaseException as e:
        pipe.send((type(e), str(e)))


def test_a_disk_that_is_really_full(whole, tmp_path):
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=out_of_room, args=(tmp_path, there))
    process.start()
    if not here.poll(30):
        process.kill()
        pytest.fail("the child process hangs")
    kind, said = here.recv()
    process.join()
    assert issubclass(kind, OSError), said
    assert f"cannot write {tmp_path / 'checkpoint.pt'}" in said and "free some space" in said
    assert not list(tmp_path.glob("*.part"))
    assert torch.load(tmp_path / "checkpoint.pt")["epoch"] == 1
    assert_same(whole, fit(tmp_path))


# losses at fault

def test_nan_stops_and_earlier_epochs_are_kept(whole, tmp_path, monkeypatch):
    original = train.train_epoch
    def poisoned(model, *args):
        if args[5] == 2:  # the third epoch
            with torch.no_grad():
                next(model.parameters())[0, 0] = math.nan
        return original(model, *args)
    with monkeypatch.context() as m:
        m.setattr(train, "train_epoch", poisoned)
        with pytest.raises(train.Diverged, match="loss is nan in epoch 3.*Try a lower lr"):
            fit(tmp_path)
    run = runs.Run(tmp_path)
    assert rows(run) == rows(whole[1])[:2] and not run.evidence
    assert torch.load(tmp_path / "checkpoint.pt")["epoch"] == 2
    assert_same(whole, fit(tmp_path))


@pytest.mark.parametrize("batch_size", [1, 8, 26])
@pytest.mark.parametrize("lr", [1e6, 1e20, 1e38])
def test_a_wild_rate_stops(batch_size, lr, tmp_path):
    wild = replace(RECIPE, lr=lr, warmup_epochs=0, clip_grad=None, batch_size=batch_size)
    with pytest.raises(train.Diverged, match="epoch [12].*Try a lower lr"):
        fit(tmp_path, wild)
    assert len(rows(runs.Run(tmp_path))) <= 1
    if (tmp_path / "checkpoint.pt").exists():  # kept as the last good state
        model = torch.load(tmp_path / "checkpoint.pt")["model"]
        assert all(p.isfinite().all() for p in model.values())


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
    "Fewer than five classes: top-5 is 100; statistics of batch norm resume, too."
    recipe = Recipe(model="roadmap/base", model_args=dict(width_mult=0.25, depths=(1, 1, 1, 1)),
                    epochs=2, batch_size=4, precision="fp32")
    one = fit(tmp_path / "one", recipe, dataset(8, 4, 2))
    assert all(row["val_top5"] == 100 for row in rows(one[1]))
    patch = interrupted(train, "train_epoch", 1)
    with pytest.raises(Killed):
        fit(tmp_path / "two", recipe, dataset(8, 4, 2))
    patch.undo()
    assert_same(one, fit(tmp_path / "two", recipe, dataset(8, 4, 2)))


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


# the rate and the groups

@pytest.mark.parametrize("epochs, warmup, steps", [(10, 2, 7), (4, 1, 90), (3, 0.5, 20), (5, 0, 9)])
def test_lr_at(epochs, warmup, steps):
    recipe = replace(RECIPE, epochs=epochs, warmup_epochs=warmup, lr=3e-3, min_lr=1e-6)
    total, top = epochs * steps, int(warmup * steps)
    rates = [train.lr_at(recipe, i, steps) for i in range(total + 1)]
    if warmup:
        assert rates[0] == pytest.approx(3e-3 / top)  # near 0, not 0: the first step counts
        rises = [b - a for a, b in zip(rates[:top], rates[1:top])]
        assert all(rise == pytest.approx(3e-3 / top) for rise in rises)
    assert max(rates) == 3e-3 == rates[top]
    assert all(a > b for a, b in zip(rates[top:], rates[top + 1:]))
    for done, share in ((1 / 3, 0.75), (1 / 2, 0.5), (2 / 3, 0.25)):  # of a half cosine
        rate = train.lr_at(recipe, top + done * (total - top), steps)
        assert rate == pytest.approx(1e-6 + share * (3e-3 - 1e-6))
    assert rates[total] == pytest.approx(1e-6) and rates[total - 1] < 3e-3 * 0.05


def test_the_loop_follows_lr_at(tmp_path, monkeypatch):
    seen, step = [], torch.optim.AdamW.step
    def watched(self, *args, **kwargs):
        seen.append({group["lr"] for group in self.param_groups})
        return step(self, *args, **kwargs)
    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    fit(tmp_path)
    assert seen == [{train.lr_at(RECIPE, i, 3)} for i in range(4 * 3)]  # 26 images, 8 a step


@pytest.mark.parametrize("make", [
    convnext.convnext_atto, convnext.convnextv2_atto, resnet.resnet18, swin.swin_t,
    lambda: roadmap.build("depthwise", width_mult=0.25),
    lambda: roadmap.build("ln", width_mult=0.25, layer_scale=0.1)],
    ids=["convnext", "convnextv2", "resnet", "swin", "depthwise", "ln"])
def test_norms_biases_and_scales_do_not_decay(make):
    model = make()
    full, flat = train.param_groups(model, 0.05)
    assert full["weight_decay"] == 0.05 and flat["weight_decay"] == 0
    decays = {id(p) for p in full["params"]}
    assert not decays & {id(p) for p in flat["params"]}
    layers = {f"{name}.weight".lstrip(".") for name, m in model.named_modules()
              if isinstance(m, (nn.Conv2d, nn.Linear))}
    for name, p in model.named_parameters():  # nothing but the weights of convolutions and matrices
        assert (id(p) in decays) == (name in layers), name
    assert len(full["params"]) + len(flat["params"]) == len(list(model.parameters()))


def test_decay_shrinks_only_what_it_should(tmp_path):
    "With no gradient at all, AdamW leaves norms and biases alone and shrinks the rest."
    model = convnext.ConvNeXt((1, 1, 1, 1), (8, 8, 16, 16), 4)
    for p in model.parameters():
        nn.init.ones_(p)
        p.grad = torch.zeros_like(p)
    torch.optim.AdamW(train.param_groups(model, 0.5), lr=0.1).step()
    for name, p in model.named_parameters():
        expected = 1.0 if p.squeeze().ndim < 2 else 0.95
        assert torch.allclose(p, torch.tensor(expected)), name


def test_ctrl_c_in_a_checkpoint_is_ctrl_c(whole, tmp_path, monkeypatch):
    "torch's writer reports an interrupted write as a RuntimeError of its own."
    def cut(state, file):
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("unexpected pos 64 vs 0")
    with monkeypatch.context() as m:
        m.setattr(torch, "save", cut)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path)
    assert_same(whole, fit(tmp_path))
