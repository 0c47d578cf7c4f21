"""The training loop at fault: killed, resumed, out of disk, diverged, fed with odd data."""
import errno
import json
import math
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from jupyter_client.manager import start_new_kernel
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from tqdm import tqdm

from convnext_nb import convnext, data, evaluation, models, optim, runs, train
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


CHILD = f"""
import sys, time
sys.path.insert(0, {str(ROOT / "tests")!r})
import torch, test_train
torch.set_num_threads(1)
quick = test_train.train.prepare
def slow(*args):
    print("step", flush=True)
    time.sleep(0.2)
    return quick(*args)
test_train.train.prepare = slow
"""


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
    code = CHILD + f"test_train.fit({str(tmp_path / 'run')!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.DEVNULL,
                               stderr=subprocess.PIPE)
    metrics, end = tmp_path / "run/metrics.jsonl", time.monotonic() + 60
    while not (metrics.exists() and metrics.read_text().count("\n") == 2):
        assert time.monotonic() < end and process.poll() is None, process.stderr.read()
        time.sleep(0.01)
    time.sleep(0.25)  # into the third epoch
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and len(rows(runs.Run(tmp_path / "run"))) == 2
    assert_same(whole, fit(tmp_path / "run"))


@pytest.mark.parametrize("after", [1, 4])  # of six steps, with an image size of its own each three
def test_a_process_killed_between_its_saves_resumes(after, full, tmp_path):
    "Everything on, the state saved after each step, and a real kill while one is under way."
    code = CHILD + f"""
test_train.train.fit(test_train.FULL, test_train.dataset(), {str(tmp_path)!r}, "cpu",
                     progress=False, save_minutes=0)"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE,
                               text=True)
    for _ in range(after + 1):
        assert process.stdout.readline() == "step\n"
    time.sleep(0.1)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    state = torch.load(tmp_path / "checkpoint.pt")
    assert (state["epoch"], len(state["losses"])) == divmod(after, 3)
    assert_same(full, fit(tmp_path, FULL))


STEPS = {  # where the run ends: (place, function, call)
    "before the first epoch": (train, "train_epoch", 0),
    "in the third epoch": (train, "train_epoch", 2),
    "in a step": (train, "prepare", 7),
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


def test_a_finished_run_is_left_alone(whole, tmp_path, monkeypatch):
    fit(tmp_path)
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    monkeypatch.setattr(train, "train_epoch", None)
    monkeypatch.setattr(runs, "machine", lambda device: dict(device="another one"))
    assert_same(whole, fit(tmp_path))
    assert before == {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}


def test_a_run_whose_state_is_gone_is_kept(tmp_path):
    "As it is with the runs of the book, whose checkpoints are not in the repository."
    fit(tmp_path, replace(RECIPE, epochs=2))
    (tmp_path / "checkpoint.pt").unlink()
    before = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    for gone in ((), ("evidence.json",)):  # the second: it was still running
        for name in gone:
            (tmp_path / name).unlink()
        with pytest.raises(ValueError, match="without its checkpoint.pt, .* use another folder"):
            fit(tmp_path, replace(RECIPE, epochs=1, lr=0.005))
        assert all((tmp_path / n).read_bytes() == before[n] for n in names(tmp_path))


def test_evidence_names_every_machine(whole, tmp_path, monkeypatch):
    patch = interrupted(train, "train_epoch", 2)
    with monkeypatch.context() as m:
        m.setattr(runs, "machine", lambda device: dict(device="a laptop"))
        with pytest.raises(Killed):
            fit(tmp_path)
    patch.undo()
    again = fit(tmp_path)
    assert again[1].evidence["before"] == [dict(device="a laptop")]
    assert again[1].evidence["device"] == whole[1].evidence["device"]
    assert "before" not in whole[1].evidence


# checkpoints

@pytest.mark.parametrize("share", [0, 0.2, 0.7, 0.999])
def test_a_truncated_checkpoint_is_named(share, tmp_path):
    fit(tmp_path, replace(RECIPE, epochs=1))
    path = tmp_path / "checkpoint.pt"
    os.truncate(path, int(share * path.stat().st_size))
    with pytest.raises(ValueError, match="is damaged .*; delete the run's folder") as e:
        fit(tmp_path, replace(RECIPE, epochs=1))
    assert str(path) in str(e.value)
    shutil.rmtree(tmp_path)
    assert len(rows(fit(tmp_path, replace(RECIPE, epochs=1))[1])) == 1


def test_a_changed_bit_in_a_checkpoint_is_noticed(tmp_path):
    "torch would load it: of a weight, one bit makes 1e36."
    model = fit(tmp_path, replace(RECIPE, epochs=1))[0]
    path, weight = tmp_path / "checkpoint.pt", model.head.weight.detach().numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(weight) + 3] ^= 0x40
    path.write_bytes(content)
    assert not torch.equal(torch.load(path)["model"]["head.weight"], model.head.weight)
    with pytest.raises(ValueError, match="is damaged .*; delete the run's folder"):
        fit(tmp_path, replace(RECIPE, epochs=1))


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
    def poisoned(job, *args):
        if job.epoch == 2:  # the third
            with torch.no_grad():
                next(job.model.parameters())[0, 0] = math.nan
        return original(job, *args)
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
                    epochs=2, batch_size=4, warmup_epochs=1, precision="fp32")
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
    "Between the looks at the losses, every fifty steps, the program runs ahead of the GPU."
    job = train.set_up(replace(FULL, precision="auto", sizes=()), dataset(64), "cuda")
    def epoch():
        job.step, job.losses, job.seconds = 0, None, 0.0
        train.train_epoch(job, job.model, tqdm(disable=True), lambda: None)
    epoch()
    monkeypatch.setattr(train, "check_losses", lambda *args: 0.0)
    original = train.prepare
    def watched(*args):  # the order of the images has been sent before the first step
        torch.cuda.set_sync_debug_mode("error")
        return original(*args)
    monkeypatch.setattr(train, "prepare", watched)
    try:
        epoch()
    finally:
        torch.cuda.set_sync_debug_mode("default")


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


# inside an epoch

FULL = replace(RECIPE, epochs=2, augment="crop flip trivialaugment", erasing=0.5, mixup=0.5,
               cutmix=1.0, mix_until=0.5, ema=0.9, sizes=((0.0, 32), (0.5, 40)))


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    "An undisturbed run of a recipe with everything on."
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    done = fit(tmp_path_factory.mktemp("full"), FULL)
    torch.set_num_threads(usual)
    return done


@pytest.mark.parametrize("when", [0, 2, 3, 5])  # 3 steps an epoch
def test_killed_inside_an_epoch(when, full, tmp_path, monkeypatch):
    "State is saved after every step here; what follows has the same bits, average included."
    patch = interrupted(train.optim, "lr_at", when)
    with pytest.raises(Killed):
        train.fit(FULL, dataset(), tmp_path, device="cpu", progress=False, save_minutes=0)
    patch.undo()
    steps, original = [], train.prepare
    def counted(*args):
        steps.append(args)
        return original(*args)
    monkeypatch.setattr(train, "prepare", counted)
    again = fit(tmp_path, FULL)
    assert len(steps) == 6 - when  # no step is done twice
    assert_same(full, again)
    averages = [load_file(f / "ema.safetensors") for f in (tmp_path, full[1].folder)]
    assert all(torch.equal(a, averages[1][k]) for k, a in averages[0].items())


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
    for weights in seen:
        average = 0.7 * average + 0.3 * weights
    kept = models.restore(tmp_path, ema=True)[0]
    assert torch.allclose(next(kept.parameters()), average, atol=1e-6)


@pytest.mark.parametrize("name", train.PRESETS)
def test_presets_run(name, tmp_path, monkeypatch):
    "Each preset from end to end, with a small network and few small images."
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(train, "need_compiler", lambda: None)
    preset = train.PRESETS[name]
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


def test_muon_resumes_to_the_same_bits(tmp_path):
    recipe = replace(RECIPE, epochs=2, optimizer="muon", lr=1e-3)
    one = fit(tmp_path / "one", recipe)
    patch = interrupted(train.optim, "lr_at", 4)
    with pytest.raises(Killed):
        train.fit(recipe, dataset(), tmp_path / "two", device="cpu", progress=False, save_minutes=0)
    patch.undo()
    assert_same(one, fit(tmp_path / "two", recipe))


def test_a_start_from_weights(whole, tmp_path):
    "Weights come before the first step; another number of classes leaves the head fresh."
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


@pytest.mark.parametrize("change, words", [
    (dict(augment="crop blur"), "blur"), (dict(optimizer="sgd"), "choose one of"),
    (dict(erasing=2), "erasing must be from 0 to 1"), (dict(ema=1.5), "ema must be from 0 to 1"),
    (dict(mixup=-1), "mixup must be from 0"), (dict(layer_decay=7), "layer_decay must be"),
    (dict(warmup_epochs=5), "warmup_epochs must be from 0 to 4"), (dict(clip_grad=-1), "clip_grad"),
    (dict(warmup_epochs=-1), "warmup_epochs"), (dict(min_lr=1.0), "min_lr must be from 0 to 0.01"),
    (dict(weight_decay=-1), "weight_decay"), (dict(size=-5), "size must be positive"),
    (dict(betas=(2, 3)), "betas"), (dict(sizes=((0.5, 48), (0, 32))), "sizes .* in order")])
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
    found = [(r.epochs, r.warmup_epochs) for r in map(recipe.lasting, (1, 5, 10, 30))]
    assert found == [(1, 0.2), (5, 1.0), (10, 2.0), (30, 2.0)]


def test_images_that_do_not_fit_stay():
    what = dataset()
    size = what.train.images.nbytes + what.val.images.nbytes
    assert train.sent(what, torch.device("cpu"), size - 1) is what
    assert train.sent(what, torch.device("cpu"), size) is not what


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OSError, match="cannot write .*run: .*choose another folder"):
        fit(tmp_path / "file" / "run")


@pytest.mark.parametrize("write", [
    lambda run: run.append(dict(epoch=1, note="x" * 50_000)),
    lambda run: runs.write_json(run.folder / "recipe.json", dict(note="x" * 50_000))])
def test_a_full_disk_names_the_file(write, tmp_path):
    run = runs.Run(tmp_path)
    runs.write_json(tmp_path / "recipe.json", dict(old=1))
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, before[1]))
    try:
        with pytest.raises(OSError, match=f"cannot write {tmp_path}/.*: .*; free some space"):
            write(run)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert run.recipe == dict(old=1) and run.metrics == [] and not list(tmp_path.glob("*.part"))


# stopped by hand

def test_ctrl_c_saves_and_leaves(whole, tmp_path):
    code = CHILD + f"test_train.fit({str(tmp_path / 'run')!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    for _ in range(5):
        assert process.stdout.readline() == "step\n", process.stderr.read()
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert "saving, then stopping" in said
    assert "stopped in epoch 2 after step 2 and saved" in said
    state = torch.load(tmp_path / "run/checkpoint.pt")
    assert state["epoch"] == 1 and len(state["losses"]) == 2
    assert_same(whole, fit(tmp_path / "run"))


def test_a_second_ctrl_c_does_not_wait():
    with pytest.raises(KeyboardInterrupt), train.polite_interrupt() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert len(asked) == 1
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_jupyter_an_interrupt_is_one_line(whole, tmp_path):
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        cell = client.execute(CHILD + f"test_train.fit({str(tmp_path / 'run')!r})")
        steps, said, end = 0, None, time.monotonic() + 60
        while said is None and time.monotonic() < end:
            message = client.get_iopub_msg(timeout=60)
            if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                steps += message["content"]["text"].count("step")
                if steps == 2:
                    manager.interrupt_kernel()
            elif message["msg_type"] == "error" and message["parent_header"]["msg_id"] == cell:
                said = message["content"]
        assert said["ename"] == "Interrupted" and len(said["traceback"]) == 1, said
        assert "the same call goes on from there" in said["traceback"][0]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert_same(whole, fit(tmp_path / "run"))


# several processes

def test_two_processes_agree_with_one(tmp_path):
    "The same global batches; only the order of additions differs."
    recipe = replace(RECIPE, epochs=3, augment="none", ema=0.9, model_args=RECIPE.model_args | dict(
        drop_path=0.0))
    one = fit(tmp_path / "one", recipe, dataset(24, 10))
    (tmp_path / "two.py").write_text(f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import torch, test_train
torch.set_num_threads(1)
recipe = test_train.Recipe.from_dict({recipe.to_dict()!r})
test_train.fit({str(tmp_path / "two")!r}, recipe, test_train.dataset(24, 10))
""")  # on CPUs torchrun starts the processes; accelerate's launcher does so for GPUs
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2",
              "--standalone", str(tmp_path / "two.py")]
    done = subprocess.run(launch, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
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


# seen while it runs

def test_watch_sees_every_epoch(tmp_path):
    seen = []
    train.fit(RECIPE, dataset(), tmp_path, "cpu", progress=False,
              watch=lambda run: seen.append(len(run.metrics)))
    assert seen == [1, 2, 3, 4]


def test_tensorboard_reads_what_is_measured(tmp_path, monkeypatch):
    run = train.fit(replace(RECIPE, epochs=2), dataset(), tmp_path, "cpu", progress=False,
                    watch=runs.tensorboard())[1]
    found = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    for name in ("loss", "val_top1"):
        read = [(e.step, e.value) for e in found.Scalars(name)]
        assert read == [(row["epoch"], pytest.approx(row[name])) for row in run.metrics]
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match="pip install tensorboard"):
        runs.tensorboard()
