"""Training cut off, at every kind of moment, and resumed to the same bits."""
import errno
import multiprocessing
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from children import PATIENCE
from jupyter_client.manager import start_new_kernel
from safetensors.torch import load_file
from training import (
    CHILD,
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
)

from convnext_nb import checkpoint, runs, train

# killed and resumed

def test_a_run_is_complete_and_the_same_twice(whole, tmp_path):
    assert [row["epoch"] for row in rows(whole[1])] == [1, 2, 3, 4]
    assert names(whole[1].folder) == COMPLETE and not whole[0].training
    assert_same(whole, fit(tmp_path / "again"))


def test_a_killed_process_resumes_to_the_same_bits(whole, tmp_path):
    code = CHILD + f"last = 7  # in the third epoch\ntraining.fit({str(tmp_path / 'run')!r})"
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)
    for _ in range(7):
        assert process.stdout.readline() == "step\n", process.stderr.read()
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and len(rows(runs.Run(tmp_path / "run"))) == 2
    assert_same(whole, fit(tmp_path / "run"))


@pytest.mark.parametrize("after", [1, 4])  # of six steps, with an image size of its own each three
def test_a_process_killed_between_its_saves_resumes(after, full, tmp_path):
    "Everything on, the state saved after each step, and a real kill during a step."
    code = CHILD + f"""
last = {after + 1}
training.train.fit(training.FULL, training.dataset(), {str(tmp_path)!r}, "cpu",
                     progress=False, save_minutes=0)"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE,
                               text=True)
    for _ in range(after + 1):
        assert process.stdout.readline() == "step\n"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    state = torch.load(tmp_path / "checkpoint.pt")
    assert (state["epoch"], len(state["losses"])) == divmod(after, 3)
    assert_same(full, fit(tmp_path, FULL))


STEPS = {  # where the run ends: (place, function, call)
    "before the first epoch": (train, "train_epoch", 0),
    "in the third epoch": (train, "train_epoch", 2),
    "in a step": (train, "prepare_batch", 7),
    "in evaluation": (train, "evaluate", 3),
    "before a checkpoint": (checkpoint, "save", 1),
    "while a checkpoint is written": (torch, "save", 1),
    "when it takes its place": (os, "replace", 5),
    "before the metrics": (runs.Run, "append", 1),
    "at the end": (train, "finish", 0),
    "before the evidence": (runs, "write_json", 1),
}


@pytest.mark.parametrize("step", STEPS)
def test_it_resumes_wherever_it_ended(step, whole, tmp_path):
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
    "As with the book's runs, whose checkpoints are not in the repository."
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


@pytest.mark.parametrize("when", [0, 2, 3, 5])  # 3 steps an epoch
def test_killed_inside_an_epoch(when, full, tmp_path, monkeypatch):
    "The state is saved after every step; the rest has the same bits, the average included."
    patch = interrupted(train.optim, "lr_at", when)
    with pytest.raises(Killed):
        train.fit(FULL, dataset(), tmp_path, device="cpu", progress=False, save_minutes=0)
    patch.undo()
    steps, original = [], train.prepare_batch
    def counted(*args):
        steps.append(args)
        return original(*args)
    monkeypatch.setattr(train, "prepare_batch", counted)
    again = fit(tmp_path, FULL)
    assert len(steps) == 6 - when  # no step is done twice
    assert_same(full, again)
    averages = [load_file(f / "ema.safetensors") for f in (tmp_path, full[1].folder)]
    assert all(torch.equal(a, averages[1][k]) for k, a in averages[0].items())


def test_muon_resumes_to_the_same_bits(tmp_path):
    recipe = replace(RECIPE, epochs=2, optimizer="muon", lr=1e-3)
    one = fit(tmp_path / "one", recipe)
    patch = interrupted(train.optim, "lr_at", 4)
    with pytest.raises(Killed):
        train.fit(recipe, dataset(), tmp_path / "two", device="cpu", progress=False, save_minutes=0)
    patch.undo()
    assert_same(one, fit(tmp_path / "two", recipe))


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
    "torch would load it: one flipped bit turns a weight into 1e36."
    model = fit(tmp_path, replace(RECIPE, epochs=1))[0]
    path, weight = tmp_path / "checkpoint.pt", model.head.weight.detach().numpy().tobytes()
    content = bytearray(path.read_bytes())
    content[content.index(weight) + 3] ^= 0x40
    path.write_bytes(content)
    assert not torch.equal(torch.load(path)["model"]["head.weight"], model.head.weight)
    with pytest.raises(ValueError, match="is damaged .*; delete the run's folder"):
        fit(tmp_path, replace(RECIPE, epochs=1))


def test_a_checkpoint_of_another_program_is_not_called_damaged(tmp_path):
    short = replace(RECIPE, epochs=1)
    fit(tmp_path, short)
    torch.save({"model": SimpleNamespace(answer=42)}, tmp_path / "checkpoint.pt")
    with pytest.raises(ValueError, match="was not written by this library's training"):
        fit(tmp_path, short)


@pytest.mark.parametrize("error", [PermissionError(errno.EACCES, "no"), MemoryError("no")])
def test_a_checkpoint_that_cannot_be_read_need_not_be_deleted(error, whole, monkeypatch):
    def fail(*args, **kwargs):
        raise error
    monkeypatch.setattr(torch, "load", fail)
    with pytest.raises(ValueError, match=f"cannot be read .{type(error).__name__}.*no") as e:
        fit(whole[1].folder)
    assert "delete" not in str(e.value)


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


def test_a_checkpoint_of_an_older_version_goes_on(full, tmp_path):
    "Its recipe lacks fields that were added later, and its run folder what data are told today."
    patch = interrupted(train.optim, "lr_at", 4)
    with pytest.raises(Killed):
        train.fit(FULL, dataset(), tmp_path, device="cpu", progress=False, save_minutes=0)
    patch.undo()
    state = torch.load(tmp_path / "checkpoint.pt")
    for name in ("start", "head_init_scale", "optimizer", "layer_decay", "mix_per_sample"):
        del state["recipe"][name]
    torch.save(state, tmp_path / "checkpoint.pt")
    asked = runs.Run(tmp_path).recipe
    del asked["recipe"]["start"], asked["data"]["val_images"]
    runs.write_json(tmp_path / "recipe.json", asked)
    assert_same(full, fit(tmp_path, FULL))


def test_a_full_disk_keeps_the_last_state(whole, tmp_path, monkeypatch):
    save, calls = torch.save, []
    def fill(state, file):
        calls.append(file)
        save(state, file)
        if len(calls) == 3:
            (tmp_path / "checkpoint.pt.part").write_bytes(b"half")
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
    save, limit = checkpoint.save, resource.RLIMIT_FSIZE
    def then_limit(*args):
        save(*args)
        resource.setrlimit(limit, (20_000, resource.getrlimit(limit)[1]))
    checkpoint.save = then_limit
    try:
        pipe.send(fit(folder)[1].metrics)
    except BaseException as e:
        pipe.send((type(e), str(e)))


def test_a_disk_that_is_really_full(whole, tmp_path):
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=out_of_room, args=(tmp_path, there))
    process.start()
    if not here.poll(PATIENCE):
        process.kill()
        pytest.fail("the child process hangs")
    kind, said = here.recv()
    process.join()
    assert issubclass(kind, OSError), said
    assert f"cannot write {tmp_path / 'checkpoint.pt'}" in said and "free some space" in said
    assert not list(tmp_path.glob("*.part"))
    assert torch.load(tmp_path / "checkpoint.pt")["epoch"] == 1
    assert_same(whole, fit(tmp_path))


def test_ctrl_c_in_a_checkpoint_is_ctrl_c(whole, tmp_path, monkeypatch):
    "torch's writer turns an interrupted write into its own RuntimeError."
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


# stopped by hand

def test_ctrl_c_saves_and_leaves(whole, tmp_path):
    code = CHILD + f"training.fit({str(tmp_path / 'run')!r})"
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


def test_ctrl_c_at_the_end_stops_at_once(whole, tmp_path, monkeypatch, capsys):
    "All epochs are saved by then; the same call does the rest."
    def stopped(job, run):
        os.kill(os.getpid(), signal.SIGINT)
        pytest.fail("the run goes on")
    with monkeypatch.context() as m:
        m.setattr(train, "finish", stopped)
        with pytest.raises(KeyboardInterrupt):
            fit(tmp_path)
    assert "saving" not in capsys.readouterr().err
    assert_same(whole, fit(tmp_path))


def test_a_second_ctrl_c_does_not_wait():
    with pytest.raises(KeyboardInterrupt), checkpoint.delay_interrupt() as asked:
        os.kill(os.getpid(), signal.SIGINT)
        assert len(asked) == 1
        os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_in_jupyter_an_interrupt_is_one_line(whole, tmp_path):
    manager, client = start_new_kernel(kernel_name="python3")
    try:
        cell = client.execute(CHILD + f"training.fit({str(tmp_path / 'run')!r})")
        steps, asked, said, end = 0, False, None, time.monotonic() + PATIENCE
        while said is None and time.monotonic() < end:
            message = client.get_iopub_msg(timeout=PATIENCE)
            if message["msg_type"] == "stream" and message["content"]["name"] == "stdout":
                steps += message["content"]["text"].count("step")
                if steps >= 2 and not asked:
                    manager.interrupt_kernel()
                    asked = True
            elif message["msg_type"] == "error" and message["parent_header"]["msg_id"] == cell:
                said = message["content"]
        assert said["ename"] == "Interrupted" and len(said["traceback"]) == 1, said
        assert "the same call goes on from there" in said["traceback"][0]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert_same(whole, fit(tmp_path / "run"))


def test_other_labels_and_another_hold_out_are_refused(tmp_path):
    patch = interrupted(train, "train_epoch", 1)
    with pytest.raises(Killed):
        fit(tmp_path, what=dataset(40).hold_out(2, seed=0))
    patch.undo()
    with pytest.raises(ValueError, match="other data .*not the same holdout_seed"):
        fit(tmp_path, what=dataset(40).hold_out(2, seed=1))
    turned = dataset(40)
    turned.train.labels.copy_(3 - turned.train.labels)
    with pytest.raises(ValueError, match="other data .*not the same labels"):
        fit(tmp_path, what=turned.hold_out(2, seed=0))
    fit(tmp_path, what=dataset(40).hold_out(2, seed=0))


@pytest.mark.parametrize("change, said", [
    (dict(sizes=((0, 32), (0.5, 16))), "image of 16x16 px is smaller"),
    (dict(model="swin", model_args=dict(depths=(2, 2), dim=8, heads=(1, 2), img_size=64),
          sizes=((0.0, 64),)), "img_size")])
def test_a_size_that_does_not_fit_is_told_before_the_first_step(change, said, tmp_path):
    with pytest.raises(ValueError, match=said):
        fit(tmp_path / "run", replace(RECIPE, **change))
    assert not (tmp_path / "run").exists()


def test_a_start_that_fails_leaves_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError):
        fit(tmp_path / "run", replace(RECIPE, start=str(tmp_path / "missing.safetensors")))
    assert not (tmp_path / "run").exists()


def test_networks_with_batch_norm_are_measured_in_parts_on_a_cpu(monkeypatch):
    asked = []
    monkeypatch.setattr(train, "evaluate", lambda *args: asked.append(args[3]))
    job = train.prepare(replace(RECIPE, model="resnet18", model_args={}), dataset(), "cpu")
    for size in (32, 64, 224, 512): train.evaluate_job(job, job.model, job.dataset.val, size)
    assert asked == [512, 512, 41, 8]


def test_a_state_is_saved_whenever_the_minutes_are_over(tmp_path, monkeypatch):
    saved, now = [], [0.0]
    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(checkpoint, "save", lambda path, job: saved.append(now[0]))
    saver = checkpoint.Saver(SimpleNamespace(rank=0), tmp_path / "c.pt", 10, [])
    for now[0] in (1, 599, 601, 700, 1200, 1202): saver.save_if_due()
    assert saved == [601, 1202]
