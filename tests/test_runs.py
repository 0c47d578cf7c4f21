"""Run folders: disks at fault, and who reads along."""
import os
import resource
import subprocess
import sys
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest
from children import FORK, in_child
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from training import RECIPE, dataset, fit

from convnext_nb import models, results, runs, train, weights


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


@pytest.mark.parametrize("lengths", [(2, 4), (4, 2)])
def test_curves_of_seeds_that_are_not_equally_far(lengths, tmp_path):
    seeds = [runs.Run(tmp_path / str(n)) for n in lengths]
    for run, n in zip(seeds, lengths):
        run.folder.mkdir()
        for e in range(1, n + 1):
            run.append(dict(epoch=e, loss=float(n), val_top1=1.0, train_top1=1.0))
    figure = results.curves({"both": seeds})
    line = figure.axes[0].lines[0]
    assert list(line.get_xdata()) == [1, 2, 3, 4] and list(line.get_ydata()) == [3, 3, 4, 4]
    results.plt.close(figure)


def test_live_curves_outside_a_notebook_are_refused_before_training(capsys):
    with pytest.raises(ValueError, match="live.* needs a notebook.*: leave out `watch`"):
        results.live()
    assert capsys.readouterr().out == ""


def test_files_of_one_stem_do_not_meet(tmp_path):
    "Each is written beside its target, under the target's whole name."
    with runs.atomic_write(tmp_path / "lr0.1") as one, runs.atomic_write(tmp_path / "lr0.2") as two:
        one.write(b"one")
        two.write(b"two")
    assert [(tmp_path / f"lr0.{i}").read_bytes() for i in (1, 2)] == [b"one", b"two"]


def test_one_process_at_a_time_trains_in_a_folder(tmp_path):
    held = FORK.Event()
    def hold():
        with runs.Run(tmp_path).alone():
            held.set()
            time.sleep(60)
    process, _ = in_child(hold)
    assert held.wait(30)
    with pytest.raises(ValueError, match="is being trained in already; .*another folder"):
        fit(tmp_path)
    process.kill()
    process.join()
    assert len(fit(tmp_path)[1].metrics) == 4 and not (tmp_path / ".lock").exists()


@pytest.mark.parametrize("text", [b"", b"{", b"\xff\xfe"])
def test_a_damaged_recipe_is_named(text, tmp_path):
    (tmp_path / "recipe.json").write_bytes(text)
    with pytest.raises(ValueError, match="recipe.json is damaged"):
        print(runs.load(tmp_path).recipe)


@pytest.mark.parametrize("damage", [lambda text: b"", lambda text: b"\xff" + text])
def test_no_line_of_damaged_metrics_is_lost(damage, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(train, "finish", lambda job, run: None)
        fit(tmp_path)
    metrics = tmp_path / "metrics.jsonl"
    whole, broken = metrics.read_bytes(), damage(metrics.read_bytes())
    metrics.write_bytes(broken)
    with pytest.raises(ValueError, match="metrics.jsonl is damaged: 0 of 4 epochs can be read"):
        fit(tmp_path)
    assert metrics.read_bytes() == broken
    metrics.write_bytes(whole)
    assert fit(tmp_path)[1].evidence


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    "The shell leaves it as it is in --out=~/run."
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    model, run = fit("~/run")
    assert run.folder == tmp_path / "home/run" and runs.load("~/run").metrics == run.metrics
    assert models.restore("~/run")[2] == dataset().classes
    weights.save(model, "~/net")
    weights.load(model, "~/net.safetensors")
    assert [path.name for path in tmp_path.iterdir()] == ["home"]


def test_watch_sees_every_epoch(tmp_path):
    seen = []
    train.fit(RECIPE, dataset(), tmp_path, "cpu", progress=False,
              watch=lambda run: seen.append(len(run.metrics)))
    assert seen == [1, 2, 3, 4]


def test_watch_sees_the_finished_epochs_of_a_run_that_resumes(tmp_path):
    def stop(run):
        if len(run.metrics) == 2:
            raise RuntimeError("power cut")
    with pytest.raises(RuntimeError, match="power cut"):
        train.fit(RECIPE, dataset(), tmp_path, "cpu", progress=False, watch=stop)
    seen = []
    train.fit(RECIPE, dataset(), tmp_path, "cpu", progress=False,
              watch=lambda run: seen.append(len(run.metrics)))
    assert seen == [2, 3, 4]


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


def test_the_commit_is_this_projects_and_not_the_users(tmp_path, monkeypatch):
    own = os.environ | {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}  # no hooks
    def git(*words):
        subprocess.run(["git", *words], cwd=tmp_path, check=True, capture_output=True, env=own)
    for folder in (".venv/convnext_nb", "convnext_nb"):
        (tmp_path / folder).mkdir(parents=True)
        (tmp_path / folder / "runs.py").write_text("")
    (tmp_path / ".gitignore").write_text(".venv\n")
    git("init")
    git("add", ".")
    git("-c", "user.name=me", "-c", "user.email=me@here", "commit", "-m", "mine")
    for folder, known in (("convnext_nb", True), (".venv/convnext_nb", False)):
        monkeypatch.setattr(runs, "__file__", str(tmp_path / folder / "runs.py"))
        assert bool(runs.commit()) == known


def test_a_hook_of_another_project_names_no_commit_of_its_own(tmp_path, monkeypatch):
    before = runs.commit()
    subprocess.run(["git", "init", tmp_path], check=True, capture_output=True)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / ".git"))
    assert runs.commit() == before


def test_a_second_thread_does_not_train_in_the_folder(tmp_path):
    run = runs.Run(tmp_path)
    with run.alone():
        with pytest.raises(ValueError, match="being trained in already"), run.alone(): pass
        assert (tmp_path / ".lock").exists()


def test_a_free_folder_at_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    runs.Run(tmp_path / "run").make()
    runs.write_json(tmp_path / "run/evidence.json", dict(done=True))
    assert runs.free_folder("~/run") == tmp_path / "run-2"


def test_nothing_half_written_stays(tmp_path):
    (tmp_path / "weights").write_text("before")
    with pytest.raises(KeyboardInterrupt), runs.atomic_write(tmp_path / "weights") as f:
        f.write(b"half")
        raise KeyboardInterrupt
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]
    assert (tmp_path / "weights").read_text() == "before"


def test_names_are_of_both_folders(tmp_path, monkeypatch):
    "Many have a folder `runs` of their own, such as TensorBoard's."
    monkeypatch.chdir(tmp_path)
    for folder in ("runs/May_01", "nbs/runs/family/one", "runs/other/two"):
        runs.Run(tmp_path / folder).make()
    for name in ("nbs/runs/family/one", "runs/other/two"):
        runs.write_json(tmp_path / name / "recipe.json", {})
    assert runs.names() == ["family/one", "other/two"]
    with pytest.raises(FileNotFoundError, match="there are: family/one$"):
        runs.load("family/none")
    with pytest.raises(FileNotFoundError, match="there are: family/[.]{3}, other/[.]{3}$"):
        runs.load("elsewhere")


def test_curves_of_runs_with_one_name(tmp_path):
    found = [runs.Run(tmp_path / folder / "run") for folder in "ab"]
    for run, loss in zip(found, (1.0, 2.0)):
        run.make()
        run.append(dict(epoch=1, loss=loss, val_top1=50.0, train_top1=60.0))
    left = results.curves(found).axes[0]
    assert [line.get_ydata()[0] for line in left.lines] == [1.0, 2.0]


def test_gains_and_their_error(monkeypatch):
    top1 = dict(base=[10.0, 12.0, 14.0], stage_ratio=[13.0, 15.0, 17.0])
    monkeypatch.setattr(results, "seeds_of", lambda name, prefix: [
        SimpleNamespace(evidence=dict(val_top1=v)) for v in top1[name]])
    table = str(results.trained_steps("base", "stage_ratio")[1])
    assert "+3.0 \u00b1 1.6" in table and "+0.54" in table


def test_a_lock_that_was_just_removed_is_no_lock(tmp_path, monkeypatch):
    "Its last owner removes the file between another's opening and locking it."
    run = runs.Run(tmp_path)
    lock = runs.fcntl.flock
    def late(file, how):
        (tmp_path / ".lock").unlink()
        lock(file, how)
    monkeypatch.setattr(runs.fcntl, "flock", late)
    with pytest.raises(ValueError, match="being trained in already; try again"), run.alone(): pass


def test_the_remedy_fits_the_error(tmp_path):
    with pytest.raises(OSError, match="make its folder first or choose another"):
        runs.write_json(tmp_path / "none" / "x.json", {})


def test_elsewhere_names_are_not_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="give a folder's path, or start in the project's"):
        runs.load("hour/mixed")
