"""How a step is computed on this machine: micro-batches, kept memory, threads. The step stays."""
import math
import os
import subprocess
import sys
from dataclasses import replace
from functools import partial

import pytest
import torch
from children import python
from torch.nn import functional as F
from training import (
    FULL,
    RECIPE,
    ROOT,
    Killed,
    assert_same,
    dataset,
    fit,
    interrupted,
    rows,
)

from convnext_nb import checkpoint, device, runs, train
from convnext_nb.recipe import PRESETS, Recipe

SPLIT = replace(FULL, micro_batch=3)  # batches of 8 at 32 px: parts of 3, 3 and 2


def one_step(micro_batch, dtype=torch.float64, **change):
    "The job after one step on 16 mixed images."
    recipe = replace(RECIPE, **change)
    job = train.prepare(replace(recipe, model_args=recipe.model_args | dict(drop_path=0.0)),
                        dataset(), "cpu")
    job.micro_batch = micro_batch
    job.model.to(dtype).train()
    g = torch.Generator().manual_seed(0)
    x = torch.randn(16, 3, 32, 32, generator=g, dtype=dtype)
    y = torch.rand(16, 4, generator=g, dtype=dtype).softmax(1)
    job.loss = train.train_step(job, x, y)
    return job


def state(job):
    return torch.cat([p.detach().flatten() for p in job.model.parameters()])


@pytest.mark.parametrize("micro_batch", [1, 3, 5, 8, 15])
def test_parts_are_the_same_step(micro_batch):
    "Loss and gradients to 12 digits, clipped after the last part; the average follows."
    whole, parts = one_step(None, ema=0.5), one_step(micro_batch, ema=0.5)
    assert abs(whole.loss - parts.loss) < 1e-12
    for p, q in zip(whole.model.parameters(), parts.model.parameters(), strict=True):
        assert (p.grad - q.grad).abs().max() < 1e-12
    norm = sum((p.grad**2).sum() for p in parts.model.parameters())**0.5
    assert norm <= 1 + 1e-6  # the recipe's clip_grad, of the sum
    for job in (whole, parts):
        assert any((p != q).any() for p, q in zip(job.model.parameters(),
                                                  job.ema.module.parameters(), strict=True))


@pytest.mark.parametrize("bf16", [False, True])
def test_a_whole_batch_is_the_plain_step(bf16):
    "Bit for bit what the step was before there were parts."
    jobs = [one_step(None, torch.float32, precision="bf16" if bf16 else "fp32") for _ in range(2)]
    x = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    y = torch.arange(8) % 4
    train.train_step(jobs[0], x, y)
    plain = jobs[1]
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = plain.model(x)
    loss = F.cross_entropy(logits.float(), y, label_smoothing=0.1)
    plain.optimizer.zero_grad()
    loss.backward()
    torch.nn.utils.clip_grad_norm_(plain.model.parameters(), 1.0)
    plain.optimizer.step()
    assert torch.equal(state(jobs[0]), state(plain))


def test_weights_are_cast_once_a_step(monkeypatch):
    "In bf16, however many parts there are, and again in the next step, after they have moved."
    job = one_step(4, torch.float32, precision="bf16")
    from torch.profiler import ProfilerActivity, profile
    x = torch.randn(16, 3, 32, 32)
    counts = []
    for micro_batch in (None, 4):
        job.micro_batch = micro_batch
        before = job.model.downsample_layers[0][0].weight.clone()
        with profile(activities=[ProfilerActivity.CPU], record_shapes=True) as found:
            train.train_step(job, x, torch.arange(16) % 4)
        shape = list(before.shape)
        counts.append(sum(e.name == "aten::_to_copy" and e.input_shapes[0] == shape
                          for e in found.events()))
        assert not torch.equal(before, job.model.downsample_layers[0][0].weight)
    assert counts[1] == 4 * counts[0] - 3  # the weight once, its gradient with each part


def test_images_are_mixed_before_the_split(tmp_path, monkeypatch):
    "Every part of a batch has classes that were mixed in from the others."
    seen = []
    original = train.loss_of
    def watched(job, x, y):
        seen.append(tuple(x.shape) + (y.ndim,))
        return original(job, x, y)
    monkeypatch.setattr(train, "loss_of", watched)
    fit(tmp_path, SPLIT)
    assert [s[0] for s in seen[:9]] == [3, 3, 2] * 3 and {s[-1] for s in seen[:9]} == {2}
    assert [s[0] for s in seen[9:]] == [1] * 24  # 3 images of 32 px are one of 40
    assert {s[2] for s in seen[9:]} == {40} and {s[-1] for s in seen[9:]} == {1}


def test_parts_resume_to_the_same_bits(tmp_path):
    one = fit(tmp_path / "one", SPLIT)
    patch = interrupted(train.optim, "lr_at", 4)
    with pytest.raises(Killed):
        train.fit(SPLIT, dataset(), tmp_path / "two", "cpu", progress=False, save_minutes=0)
    patch.undo()
    assert_same(one, fit(tmp_path / "two", SPLIT))
    assert one[1].evidence["micro_batch"] == 3


def test_a_resumed_run_keeps_its_choice(tmp_path, monkeypatch):
    "What `auto` chose at the start holds, even if this machine would choose another number now."
    auto = replace(SPLIT, micro_batch="auto")
    monkeypatch.setattr(train, "choose_micro_batch", lambda *args: 3)
    one = fit(tmp_path / "one", auto)
    patch = interrupted(train, "train_epoch", 1)
    with pytest.raises(Killed):
        fit(tmp_path / "two", auto)
    patch.undo()
    monkeypatch.setattr(train, "choose_micro_batch", lambda *args: None)
    again = fit(tmp_path / "two", auto)
    assert_same(one, again)
    assert again[1].evidence["micro_batch"] == 3


def test_a_run_that_moves_to_another_device_takes_what_suits_that(tmp_path, monkeypatch):
    monkeypatch.setattr(train, "choose_micro_batch", lambda *args: 3)
    for asked, found in (("auto", 5), (3, 3)):
        patch = interrupted(train, "train_epoch", 1)
        with pytest.raises(Killed):
            fit(tmp_path / str(asked), replace(SPLIT, micro_batch=asked))
        patch.undo()
        path = tmp_path / str(asked) / "checkpoint.pt"
        state = torch.load(path, weights_only=True)
        state["machines"][-1]["device_type"] = "cuda"  # as if it had begun there
        torch.save(state, path)
        job = train.prepare(replace(SPLIT, micro_batch=asked), dataset(), "cpu")
        if asked == "auto": job.micro_batch = 5  # what suits this device
        checkpoint.load(path, job)
        assert job.micro_batch == found


def test_a_run_from_before_goes_on_with_the_parts_that_are_asked_for(tmp_path):
    patch = interrupted(train, "train_epoch", 1)
    with pytest.raises(Killed): fit(tmp_path, replace(FULL, micro_batch=None))
    patch.undo()
    path = tmp_path / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    del state["micro_batch"], state["recipe"]["micro_batch"]
    torch.save(state, path)
    job = train.prepare(SPLIT, dataset(), "cpu")
    checkpoint.load(path, job)
    assert job.micro_batch == 3


@pytest.mark.parametrize("asked", ["auto", None])
def test_a_run_from_before_goes_on_with_whole_batches(asked, tmp_path, monkeypatch):
    monkeypatch.setattr(train, "choose_micro_batch", lambda *args: asked and 3)  # for `auto` now
    patch = interrupted(train, "train_epoch", 1)
    with pytest.raises(Killed):
        fit(tmp_path, replace(FULL, micro_batch=asked))
    patch.undo()
    saved = torch.load(tmp_path / "checkpoint.pt")
    del saved["micro_batch"], saved["recipe"]["micro_batch"], saved["recipe"]["eval_every"]
    torch.save(saved, tmp_path / "checkpoint.pt")
    assert fit(tmp_path, replace(FULL, micro_batch=asked))[1].evidence["micro_batch"] is None


def test_an_old_recipe_takes_the_whole_batch():
    old = PRESETS["hour"].to_dict()
    del old["micro_batch"], old["eval_every"]
    assert Recipe.from_dict(old) == replace(PRESETS["hour"], micro_batch=None)
    assert Recipe.from_dict(PRESETS["hour"].to_dict()).micro_batch == "auto"


@pytest.mark.parametrize("change, words", [
    (dict(micro_batch=0), "micro_batch must be"), (dict(micro_batch="all"), "micro_batch must be"),
    (dict(micro_batch=2.5), "micro_batch must be"), (dict(eval_every=0), "eval_every must be"),
    (dict(eval_every=None), "eval_every must be")])
def test_fields_at_fault(change, words):
    with pytest.raises(ValueError, match=words):
        replace(RECIPE, **change)


def test_batch_norm_sees_its_whole_batch():
    args = dict(model="roadmap/base", batch_size=4,
                model_args=dict(width_mult=0.25, depths=(1, 1, 1, 1)))
    job = train.prepare(replace(RECIPE, **args), dataset(), "cpu")
    assert job.micro_batch is None and "whole batches of 4 images" in train.how_it_runs(job)
    with pytest.raises(ValueError, match="micro_batch=2 would change what batch norm computes"):
        train.prepare(replace(RECIPE, micro_batch=2, **args), dataset(), "cpu")


def test_small_images_go_in_larger_parts():
    growing = replace(PRESETS["pocket"], sizes=((0, 32), (0.5, 48), (0.75, 64)), batch_size=512)
    job = train.prepare(growing, dataset(600, side=64), "cpu")
    assert job.micro_batch == 64
    assert [train.micro_batches(job, 512, size) for size in (32, 48, 64)] == [2, 5, 8]
    assert [train.micro_batches(job, n, 64) for n in (1, 64, 65)] == [1, 1, 2]
    assert "parts of 256 (32 px), 103 (48 px), 64 (64 px)" in train.how_it_runs(job)


@pytest.mark.parametrize("micro_batch", [None, 2])
def test_two_processes_and_parts(micro_batch, tmp_path):
    "Two processes with parts take the step of one with the whole batch; they exchange once."
    recipe = replace(RECIPE, epochs=1, model_args=RECIPE.model_args | dict(drop_path=0.0),
                     augment="none", micro_batch=micro_batch)
    script = tmp_path / "two.py"
    script.write_text(f"""
import sys
sys.path.insert(0, {str(ROOT / "tests")!r})
import torch, training
torch.set_num_threads(1)
from torch.nn.parallel import DistributedDataParallel
steps, alone = [], []
original = DistributedDataParallel.no_sync
def watched(self):
    alone.append(1)
    return original(self)
DistributedDataParallel.no_sync = watched
recipe = training.Recipe.from_dict({recipe.to_dict()!r})
model, run = training.train.fit(recipe, training.dataset(24), {str(tmp_path / "two")!r}, "cpu",
                                progress=False)
assert len(alone) == {3 if micro_batch else 0}, len(alone)
""")
    done = subprocess.run([sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2",
                           str(script)], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    one = train.fit(replace(recipe, micro_batch=None), dataset(24), tmp_path / "one", "cpu",
                    progress=False)
    losses = [rows(run)[0]["loss"] for run in (one[1], runs.Run(tmp_path / "two"))]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


def test_parts_compiled(tmp_path):
    "torch.compile with parts of unequal size."
    recipe = replace(RECIPE, epochs=1, micro_batch=3,
                     model_args=RECIPE.model_args | dict(drop_path=0.0))
    with pytest.MonkeyPatch.context() as m:
        m.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
        found = fit(tmp_path / "a", replace(recipe, compile=True))
    plain = fit(tmp_path / "b", recipe)
    gaps = [(p - q).abs().max().item()
            for p, q in zip(found[0].parameters(), plain[0].parameters(), strict=True)]
    assert max(gaps) < 1e-3  # a wrong gradient: about the rate, 1e-2


# memory

def test_memory_is_kept_where_that_is_known(monkeypatch):
    monkeypatch.setattr(device.platform, "libc_ver", lambda: ("musl", "1"))
    assert device.keep_memory() is False
    monkeypatch.setattr(device.platform, "libc_ver", lambda: ("glibc", "2.36"))
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")  # somebody has decided
    assert device.keep_memory() is False
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    monkeypatch.setattr(device.ctypes, "CDLL", lambda name: object())  # no mallopt in it
    assert device.keep_memory() is False


@pytest.mark.skipif(device.platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_kept_memory_needs_no_new_pages():
    code = """
import os, resource, torch
from convnext_nb import device
for name in [name for name in os.environ if name.startswith("MALLOC_")]: del os.environ[name]
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(5): torch.ones(2**24)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
usual = faults()
assert device.keep_memory()
for _ in range(3): faults()
print(usual, faults())"""
    usual, kept = map(int, python(code).split())
    assert kept < usual / 100 or usual < 100


# threads

@pytest.mark.parametrize("busy, threads", [(0.0, 8), (0.4, 8), (1.2, 7), (6.7, 1), (8.0, 1)])
def test_threads_leave_busy_cores_alone(busy, threads, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 8)
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(device, "busy_cores", lambda: busy)
    assert device.choose_threads() == threads
    monkeypatch.setenv("OMP_NUM_THREADS", "8")  # asked for
    assert device.choose_threads() == 8


def test_busy_cores_are_counted(monkeypatch):
    times = iter([[(10, 90), (50, 50), (0, 0)], [(10, 190), (140, 60), (0, 0)]])
    monkeypatch.setattr(device, "_core_times", lambda: next(times))
    assert device.busy_cores(0) == pytest.approx(0.9)
    monkeypatch.setattr(device, "_core_times", lambda: [])
    assert device.busy_cores(0) == 0


def test_a_resumed_run_takes_its_number_of_threads(tmp_path, monkeypatch):
    "It is chosen once; afterwards the process has the number that it had before."
    monkeypatch.setattr(train, "choose_threads", lambda: 2)
    monkeypatch.setattr(train, "usable_cores", lambda: 4)
    seen = []
    original = train.train_epoch
    def watched(*args):
        seen.append(torch.get_num_threads())
        return original(*args)
    patch = interrupted(train, "end_epoch", 1)
    monkeypatch.setattr(train, "train_epoch", watched)
    with pytest.raises(Killed):
        fit(tmp_path)
    patch.undo()
    assert torch.get_num_threads() == 1
    monkeypatch.setattr(train, "choose_threads", lambda: 3)
    run = fit(tmp_path)[1]
    assert set(seen) == {2} and run.evidence["threads"] == 2 and torch.get_num_threads() == 1


def test_waiting_threads_spin_shortly_unless_somebody_has_decided():
    code = "import os, convnext_nb; print(os.environ.get('GOMP_SPINCOUNT'))"
    both = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    for given, found in (({}, "20000"), ({"GOMP_SPINCOUNT": "7"}, "7"),
                         ({"OMP_WAIT_POLICY": "active"}, "None")):
        env = {k: v for k, v in os.environ.items() if k not in both} | given
        done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True,
                              text=True)
        assert done.stdout.strip() == found, done.stderr


# the rest of an epoch

def test_accuracy_is_measured_at_the_size_of_training(tmp_path, monkeypatch):
    growing = replace(RECIPE, sizes=((0, 16), (0.5, 24)),
                      model_args=RECIPE.model_args | dict(stem_stride=2))
    seen = []
    original = train.evaluate
    def watched(model, split, preprocessing, *args):
        seen.append(preprocessing.size)
        return original(model, split, preprocessing, *args)
    monkeypatch.setattr(train, "evaluate", watched)
    run = fit(tmp_path, growing)[1]
    assert [(row["size"], row["val_size"]) for row in rows(run)] == [
        (16, 16), (16, 16), (24, 24), (24, 32)]  # the last at full size
    assert seen == [16] * 4 + [24] * 2 + [32] * 4
    assert run.evidence["val_top1"] == rows(run)[-1]["val_top1"]


def test_accuracy_may_be_measured_less_often(tmp_path):
    every = fit(tmp_path / "one", RECIPE)[1]
    third = fit(tmp_path / "two", replace(RECIPE, eval_every=3))[1]
    assert ["val_top1" in row for row in rows(third)] == [False, False, True, True]
    for row, whole in zip(rows(third), rows(every), strict=True):
        assert row == {k: whole[k] for k in row} and set(row) >= {"epoch", "loss", "size"}


def test_broken_weights_are_seen_in_an_epoch_without_accuracies(tmp_path, monkeypatch):
    original = train.train_epoch
    def broken(job, *args):
        original(job, *args)
        if job.epoch == 1:
            with torch.no_grad():
                next(job.model.parameters())[0, 0] = math.nan
    monkeypatch.setattr(train, "train_epoch", broken)
    with pytest.raises(train.Diverged, match="after epoch 2"):
        fit(tmp_path, replace(RECIPE, eval_every=4))
    assert torch.load(tmp_path / "checkpoint.pt")["epoch"] == 1


def test_the_bar_counts_pixels_and_stands_where_the_job_stands():
    growing = replace(RECIPE, sizes=((0, 16), (0.5, 32)),
                      model_args=RECIPE.model_args | dict(stem_stride=2))
    job = train.prepare(growing, dataset(), "cpu")  # 3 steps of 8 images an epoch
    bar = train._progress_bar(job, False)
    assert bar.total == 3 * 8 * (2 * 16**2 + 2 * 32**2) and bar.n == 0
    job.epoch, job.step = 2, 1
    bar = train._progress_bar(job, False)
    assert bar.n == 3 * 8 * 2 * 16**2 + 8 * 32**2
    job.epoch, job.step = 4, 0
    assert train._progress_bar(job, False).n == bar.total


def test_one_line_says_how_it_runs(tmp_path, capsys):
    train.fit(replace(RECIPE, epochs=1), dataset(), tmp_path, "cpu")
    said = capsys.readouterr().err
    assert said.startswith("1 thread, fp32, whole batches of 8 images")


def test_the_state_says_what_was_chosen(tmp_path):
    job = one_step(3)
    checkpoint.save(tmp_path / "c.pt", job)
    assert torch.load(tmp_path / "c.pt")["micro_batch"] == 3


def test_threads_of_a_run_that_was_resumed_on_fewer_cores(monkeypatch):
    monkeypatch.setattr(train, "usable_cores", lambda: 4)
    job = train.prepare(FULL, dataset(), "cpu")
    job.machines = [dict(device_type="cpu", threads=4), dict(device_type="cpu", threads=2)]
    set_to = []
    monkeypatch.setattr(torch, "set_num_threads", set_to.append)
    train._set_threads(job)
    assert set_to == [4]
