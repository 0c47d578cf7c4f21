"""The commands as a person types them: help, results, exit codes, Ctrl-C."""
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from configparser import ConfigParser
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from children import BIN, ROOT, command
from PIL import Image, ImageFile

import convnext_nb
from convnext_nb import cli, data, evaluation, folders, models, runs, weights
from convnext_nb.data import Preprocessing
from convnext_nb.recipe import plan
from convnext_nb.train import PRESETS, Recipe, fit

SMALL = '{"depths": [1, 1, 1, 1], "dims": [8, 16, 32, 64], "layer_scale": 1.0}'


def pictures(folder: Path, n: int = 30) -> Path:
    "A folder of pictures of your own, in two classes."
    shapes = data.Shapes(250, 50).select(2)
    for i, label in enumerate(shapes.train.labels[:n].tolist()):
        place = folder / shapes.classes[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(shapes.train.images[i].numpy()).save(place / f"{i}.png")
    return folder


@pytest.fixture
def train(tmp_path, monkeypatch):
    "cnx_train on own pictures; returns the words before the options."
    monkeypatch.setenv("CONVNEXT_NB_DATA", str(tmp_path / "packed"))
    folder = pictures(tmp_path / "own")
    return ["cnx_train", "--data", str(folder), "--out", str(tmp_path / "run"),
            "--model", "convnext", "--model_args", SMALL, "--device", "cpu"]


@pytest.mark.parametrize("name, default", [
    ("cnx_train", "auto"), ("cnx_data", "auto"), ("cnx_bench", "auto"),
    ("cnx_eval", "val"), ("cnx_predict", "atto_tiny200")])
def test_help_shows_defaults(name, default):
    done = command(name, "--help")
    assert done.returncode == 0 and f"(default: {default})" in " ".join(done.stdout.split())


def test_train_leaves_a_run_and_json(train, tmp_path):
    done = command(*train, "--epochs", "2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert found == json.loads((tmp_path / "run" / "evidence.json").read_text())


@pytest.mark.parametrize("words, said", [
    (["--recipe", "pocked"], "or auto"),
    (["--model", "convnext_gigantic"], "unknown model"),
    (["--model_args", "width=2"], "takes a JSON object"),
    (["--data", "no/such/folder"], "no data"),
    (["--classes", "9"], "select 2 to 2"),
])
def test_bad_input_is_one_line_and_exit_code_1(train, words, said):
    done = command(*train, *words)
    assert done.returncode == 1
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("error, said", [
    (KeyError("preprocessing"), "error: KeyError: 'preprocessing' (CONVNEXT_NB_TRACEBACK=1 before"),
    (RuntimeError("no memory\nframe 1\nframe 2"), "error: RuntimeError: no memory (CONVNEXT_NB_"),
    (AssertionError(), "error: AssertionError (CONV"), (ValueError("a\nb"), "error: a b\n")])
def test_every_error_is_one_line(error, said, capsys, monkeypatch):
    @cli.command
    def cnx_fail():
        raise error
    with pytest.raises(SystemExit) as stop:
        cnx_fail()
    told = capsys.readouterr().err
    assert stop.value.code == 1 and told.startswith(said) and told.count("\n") == 1
    monkeypatch.setenv("CONVNEXT_NB_TRACEBACK", "1")
    with pytest.raises(type(error)):
        cnx_fail()


@pytest.mark.parametrize("device", ["gpu", "meta", "cuda:99", "3"])
def test_unknown_devices_are_refused(device, tmp_path, capsys):
    for call in (lambda: cli.cnx_train("pocket", "shapes", str(tmp_path / "run"), device=device),
                 lambda: cli.cnx_eval(device=device),
                 lambda: cli.cnx_predict([str(tmp_path)], device=device)):
        with pytest.raises(SystemExit) as stop:
            call()
        told = capsys.readouterr().err
        assert stop.value.code == 1 and told.count("\n") == 1
        assert told.startswith(f"error: no device '{device}' here; there are: cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("change", [
    '{"epochs": "3"}', '{"size": [64]}', '{"betas": 0.9}', '{"sizes": 3}', '{"model_args": []}'])
def test_a_change_of_the_wrong_type_is_one_line(change, tmp_path, monkeypatch, capsys):
    few = data.Shapes(20, 10)
    monkeypatch.setattr(data, "load", lambda word, size: few)
    with pytest.raises(SystemExit):
        cli.cnx_train("pocket", "shapes", str(tmp_path / "run"), change=change, device="cpu")
    told = capsys.readouterr().err
    assert told.startswith("error: ") and " must be " in told and told.count("\n") == 1


@pytest.fixture
def as_script(monkeypatch):
    "Calls a command as its script does, with another stdout; returns the exit code."
    def call(stdout, *words):
        monkeypatch.setattr(sys, "argv", list(words))
        monkeypatch.setattr(sys, "stdout", stdout)
        try:
            getattr(cli, words[0])()
        except SystemExit as stop:
            return stop.code
        finally:
            monkeypatch.undo()
        return 0
    return call


def test_names_that_the_terminal_cannot_print(as_script, tmp_path):
    net = models.create("resnet18", 2)
    about = dict(network="resnet18", network_args="{}", classes='["\u732b", "\u00e9t\u00e9"]',
                 preprocessing=json.dumps(Preprocessing(size=32).to_dict()))
    file = weights.save(net, tmp_path / "net", **about)
    picture = pictures(tmp_path / "own", 1)
    stdout = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    words = ["cnx_predict", str(picture), "--run", str(file), "--device", "cpu"]
    assert as_script(stdout, *words) == 0
    said = stdout.buffer.getvalue().decode()
    assert "\\u732b" in said and "\\xe9t\\xe9" in said


def test_closed_pipe_and_full_disk(as_script, tmp_path, capsys):
    words = ["cnx_predict", str(pictures(tmp_path / "own", 1)), "--device", "cpu"]
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as stdout:
        assert as_script(stdout, *words) == 141
    assert not capsys.readouterr().err
    with open("/dev/full", "w") as stdout:
        assert as_script(stdout, *words) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: ") and "No space left" in told and told.count("\n") == 1


def test_closed_stderr(as_script, monkeypatch, tmp_path):
    "Python then has no sys.stderr, and `print(file=None)` would write into --json's output."
    few = data.Shapes(20, 10)
    monkeypatch.setattr(data, "load", lambda word, size: few)
    monkeypatch.setattr(sys, "stderr", None)
    out = io.StringIO()
    change = '{"batch_size": 8, "sizes": [[0, 16]], "warmup_epochs": 0.1}'
    assert as_script(out, "cnx_train", "--recipe", "pocket", "--epochs", "1", "--json", "--out",
                     str(tmp_path / "run"), "--change", change, "--device", "cpu") == 0
    assert json.loads(out.getvalue())["device_type"] == "cpu"


@pytest.mark.parametrize("recipe, model, kept", [
    ("tiny_fast", "", ["drop_path", "init", "layer_scale", "stem_stride"]),
    ("tiny_fast", "convnext_small", ["drop_path", "init", "layer_scale", "stem_stride"]),
    ("tiny_fast", "convnextv2_tiny", ["drop_path", "init", "stem_stride"]),
    ("tiny_fast", "convnext_isotropic_small", ["drop_path"]),
    ("tiny_fast", "swin_t", ["drop_path", "stem_stride"]),
    ("tiny_fast", "resnet50", ["drop_path", "stem_stride"]),
    ("pocket", "resnet18", ["drop_path", "stem_stride"]),
    ("pocket", "convnext",
     ["depths", "dims", "drop_path", "init", "layer_scale", "stem_stride"]),
    ("step", "roadmap/k7", ["width_mult"]), ("hour", "roadmap/k7", ["drop_path", "init"])])
def test_another_network_keeps_the_arguments_it_shares(recipe, model, kept):
    chosen = cli.recipe_by_name(recipe)
    args = cli.model_args_for(chosen, model)
    assert sorted(args) == kept and args.items() <= chosen.model_args.items()
    with torch.device("meta"):
        models.create(model or chosen.model, 10, **args)  # takes them


def test_two_processes_train_by_the_recipe_alone(train, tmp_path, monkeypatch):
    """No matter how accelerate is configured; batch norm is as the saved file has it."""
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run([*launch, BIN / "cnx_train", *train[1:-6], "--model", "roadmap/base",
                           "--model_args", '{"width_mult": 0.25, "depths": [1, 1, 1, 1]}',
                           "--epochs", "3", "--lr", "0.004", "--change",
                           '{"batch_size": 8, "precision": "fp32"}',
                           "--device", "cpu", "--json"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    evidence = json.loads(done.stdout)
    assert evidence["processes"] == 2
    net, pre, classes = models.restore(tmp_path / "run")
    found = evaluation.evaluate(net, cli.load_data(str(tmp_path / "own"), True).val, pre)
    for key, value in found.items():
        assert evidence[f"val_{key}"] == pytest.approx(value, rel=1e-5)


def test_unknown_option_is_exit_code_2():
    assert command("cnx_train", "--recipes", "pocket", "--data", "no").returncode == 2


def test_unknown_benchmark():
    done = command("cnx_bench", "--what", "speed")
    assert done.returncode == 1 and "there are: pack, data" in done.stderr


def test_ctrl_c_keeps_whole_epochs_and_resumes(train, tmp_path):
    metrics = tmp_path / "run" / "metrics.jsonl"
    words = [*train, "--epochs", "60"]
    process = subprocess.Popen([BIN / words[0], *words[1:]], stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "goes on from there" in said
    before = metrics.read_text()
    assert before.count("\n") < 60
    done = command(*words)
    assert done.returncode == 0, done.stderr
    after = metrics.read_text().splitlines()
    assert len(after) == 60
    assert [json.loads(line)["epoch"] for line in after] == list(range(1, 61))
    assert after[:2] == before.splitlines()[:2]  # not trained again


def test_bench_prints_nothing_but_json():
    done = command("cnx_bench", "--what", "data", "--data", "shapes", "--repeats", "1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["data"][2]["ratio"] > 10 and found["machine"]["torch"]


# cnx_eval and cnx_predict, called as functions where no process is needed

@pytest.fixture
def small_run(tmp_path, monkeypatch):
    "A run on drawn shapes with 5 images per class held out, with its data and network."
    shapes = data.Shapes(120, 50)
    monkeypatch.setattr(data, "Shapes", lambda: shapes)
    held = shapes.hold_out(5)
    folder = tmp_path / "run"
    folder.mkdir()
    sizes = dict(depths=[1, 1, 1, 1], dims=[8, 16, 24, 32], layer_scale=1.0)
    net = weights.randomize(models.create("convnext", 10, **sizes))
    runs.write_json(folder / "recipe.json", dict(
        recipe=dict(model="convnext", model_args=sizes, epochs=1),
        data=dict(classes=list(held.classes), source=held.source,
                  preprocessing=held.preprocessing.to_dict())))
    weights.save(net, folder / "model")
    runs.write_json(folder / "evidence.json", {})
    return folder, shapes, held, net


def evaluated(capsys, **words):
    cli.cnx_eval(device="cpu", json=True, **words)
    return json.loads(capsys.readouterr().out)


def test_eval_measures_the_split_that_is_asked_for(small_run, capsys):
    folder, shapes, held, net = small_run
    pre = shapes.preprocessing
    trained = evaluation.evaluate(net, held.train, pre)["top1"]
    for word, split in dict(val=shapes.val, holdout=held.val, train=held.train).items():
        found = evaluated(capsys, run=str(folder), split=word, flip=word == "val")
        row, = found["results"]
        for key, value in evaluation.evaluate(net, split, pre).items():
            assert row[key] == pytest.approx(value)
        assert found["images"] == len(split) and found["split"] == word
        assert row.get("train_top1") == (None if word == "train" else pytest.approx(trained))
        both = evaluation.evaluate(net, split, pre, flip=True)
        assert row.get("flip") == (pytest.approx(both) if word == "val" else None)


def test_eval_reports_the_average_of_the_weights_too(small_run, capsys):
    folder, shapes, _, net = small_run
    with torch.no_grad():
        net.head.bias[3] += 1e3  # answers nothing else
    weights.save(net, folder / "ema")
    found = evaluated(capsys, run=str(folder))
    assert [row["weights"] for row in found["results"]] == ["weights", "ema"]
    plain, average = found["results"]
    assert plain["loss"] < 100 < average["loss"]
    share = 100 * (shapes.val.labels == 3).double().mean().item()
    assert average["top1"] == pytest.approx(share)
    cli.cnx_eval(str(folder), device="cpu", flip=True)
    said = capsys.readouterr().out
    assert all(word in said for word in ("ema, flip averaged", "un-augmented", "mixed up most"))


def test_eval_matches_the_classes(small_run, capsys, tmp_path):
    folder, shapes, _, _ = small_run
    three = tuple(reversed(shapes.classes[2:5]))
    found = cli.data_for("shapes", "a file", shapes.preprocessing, three, quiet=True)
    assert found.classes == three and len(found.val) == 15
    with pytest.raises(ValueError, match="lacks 1 of the network's 2 classes .cat.: give --data"):
        cli.data_for("shapes", "a file", shapes.preprocessing, ("ring", "cat"))
    recipe = json.loads((folder / "recipe.json").read_text())
    recipe["data"]["source"] = "drawn by code"
    runs.write_json(folder / "recipe.json", recipe)
    with pytest.raises(SystemExit) as stop:
        cli.cnx_eval(str(folder), split="holdout", device="cpu")
    assert stop.value.code == 1 and "--holdout 25" in capsys.readouterr().err


def test_eval_reads_streamed_pictures_as_the_run_did(train, tmp_path, capsys):
    done = command(*train, "--epochs", "1", "--stream", "96", "--json")
    assert done.returncode == 0, done.stderr
    found = evaluated(capsys, run=str(tmp_path / "run"), data=str(tmp_path / "own"))
    row, = found["results"]
    for key in ("top1", "loss"):
        assert row[key] == pytest.approx(json.loads(done.stdout)[f"val_{key}"], rel=1e-3)


def large_pictures(folder, n=6, side=200):
    "Stripes of two kinds, so fine that a copy of 64 pixels shows gray."
    for k, name in enumerate(("across", "down")):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            lines = 255 * (torch.arange(side) % 4 < 2).to(torch.uint8).roll(i)
            image = (lines[:, None] if k else lines[None]).expand(side, side)
            Image.fromarray(image.contiguous().numpy()).save(folder / name / f"{i}.png")
    return folder


@pytest.mark.parametrize("words", [
    dict(recipe="step", change=dict(size=160)), dict(recipe="paper_imagenet"),
    dict(recipe="step", change=dict(size=160), stream=160),
    dict(recipe="step", change=dict(sizes=[[0, 96], [0.5, 160]]))])
def test_training_and_prediction_see_the_same_pixels(words, tmp_path, monkeypatch):
    monkeypatch.setenv("CONVNEXT_NB_DATA", str(tmp_path / "packed"))
    folder, out = large_pictures(tmp_path / "own"), tmp_path / "run"
    change = dict(batch_size=4, epochs=1, warmup_epochs=0, ema=None, precision="fp32")
    change |= words.pop("change", {})
    cli.cnx_train(**words, data=str(folder), out=str(out), model="convnext", model_args=SMALL,
                  change=json.dumps(change), device="cpu", json=True)
    evidence = json.loads((out / "evidence.json").read_text())
    net, pre, classes = models.restore(out)
    assert pre.size == (224 if words["recipe"] == "paper_imagenet" else 160)
    files = folders.StreamedFolder(folder, pre.size, pre.crop, workers=0).val
    expected = evaluation.evaluate(net, files, pre)
    assert evidence["val_loss"] == pytest.approx(expected["loss"], rel=1e-4)
    assert files.take([0])[0].float().std() > 30  # not gray


def test_stream_and_size_agree(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.cnx_train("paper_imagenet", str(tmp_path), str(tmp_path / "run"), stream=96)
    said = capsys.readouterr().err
    assert "recipe works at 224 pixels: give --stream 224, or" in said
    assert '{"size": 96, "sizes": []}' in said
    with pytest.raises(SystemExit):  # it would train at 64 at most, and be measured at 224
        cli.cnx_train("pocket", str(tmp_path), str(tmp_path / "run"), stream=224)
    assert "the recipe works at 64 pixels: give --stream 64, or" in capsys.readouterr().err


@pytest.mark.parametrize("words, said", [
    (dict(change='{"mixpu": 0.2}'), "no field mixpu"),
    (dict(recipe="auto", change='{"mixpu": 0.2}'), "no field mixpu"),
    (dict(change='{"ema": 2}'), "ema must be at least 0 and below 1"),
    (dict(model_args="{bad"), "--model_args takes a JSON object"),
    (dict(model_args='{"depth": 3}'), "depth"),
    (dict(model="resnet17"), "resnet17"), (dict(recipe="auto", model="resnet17"), "resnet17"),
    (dict(lr=-1.0), "lr must be positive"), (dict(epochs=-1), "epochs must be positive")])
def test_mistakes_are_told_before_data_are_read(words, said, monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(cli, "load_data", lambda *args: pytest.fail("data were read"))
    with pytest.raises(SystemExit): cli.cnx_train(**(dict(recipe="pocket", device="cpu") | words))
    told = capsys.readouterr().err
    assert said in told and told.count("\n") == 1


def test_auto_takes_arguments_of_the_network_that_the_data_decide(monkeypatch, capsys):
    def stop(*args): raise ValueError("data are read now")
    monkeypatch.setattr(cli, "load_data", stop)
    with pytest.raises(SystemExit):
        cli.cnx_train(model_args='{"depths": [1, 1, 1, 1]}', epochs=1, device="cpu")
    assert "data are read now" in capsys.readouterr().err


def test_own_pictures_packed_too_small_are_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVNEXT_NB_DATA", str(tmp_path / "packed"))
    own = data.ImageFolder(large_pictures(tmp_path / "own"))
    with pytest.raises(ValueError, match=r"read at 64 pixels.*ImageFolder\(path, size=96\)"):
        fit(Recipe(model="resnet18", size=96), own, tmp_path / "run", "cpu")


def test_eval_of_a_folder(train, tmp_path, capsys):
    done = command(*train, "--epochs", "1", "--json")
    assert done.returncode == 0, done.stderr
    run, own = str(tmp_path / "run"), tmp_path / "own"
    evidence = json.loads(done.stdout)
    mine = evaluated(capsys, run=run, data=str(own))  # what training held out
    assert mine["split"] == "val" and mine["images"] == 6
    assert mine["results"][0]["loss"] == pytest.approx(evidence["val_loss"], rel=1e-3)
    assert mine["results"][0]["train_top1"] == pytest.approx(evidence["train_top1"])
    others = pictures(tmp_path / "others", 20)
    gone = next(own.iterdir())
    gone.rename(tmp_path / "gone")
    for folder, n in ((others, 20), (own, len(list(own.rglob("*.png"))))):
        found = evaluated(capsys, run=run, data=str(folder))
        assert found["images"] == n and found["split"] == "all pictures"
        assert "train_top1" not in found["results"][0]
    assert found["absent"] == [gone.name]
    (own / "cow").mkdir()
    (next(own.rglob("*.png"))).rename(own / "cow" / "1.png")
    cli.cnx_eval(run, str(own), device="cpu")
    told = capsys.readouterr().out
    assert "left out, as the network does not know them: 1 of cow" in told
    assert f"without pictures here: {gone.name}" in told and f"all pictures: {n - 1} images" in told
    (tmp_path / "full").mkdir()
    others.rename(tmp_path / "full" / "test")
    found = evaluated(capsys, run=run, data=str(tmp_path / "full"), split="test")
    assert found["images"] == 20 and found["split"] == "test"
    with pytest.raises(SystemExit):
        cli.cnx_eval("atto_tiny200", str(own), device="cpu")
    assert "0 pictures in folders named after" in capsys.readouterr().err


def test_eval_tells_the_folder_of_a_run_from_others(train, tmp_path, capsys):
    "By its name, and by the number of its pictures."
    done = command(*train, "--epochs", "1")
    assert done.returncode == 0, done.stderr
    own, copy = tmp_path / "own", tmp_path / "copy"
    shutil.copytree(own, copy)
    def split(folder):
        return evaluated(capsys, run=str(tmp_path / "run"), data=str(folder))["split"]
    assert split(own) == "val" and split(copy) == "all pictures"
    next(own.rglob("*.png")).unlink()
    assert split(own) == "all pictures"


def test_predict_with_fewer_than_five_classes(train, tmp_path, capsys):
    done = command(*train, "--epochs", "1")
    assert done.returncode == 0, done.stderr
    cli.cnx_predict([str(tmp_path / "own")], str(tmp_path / "run"), device="cpu", json=True)
    found = json.loads(capsys.readouterr().out)
    assert len(found) == 30 and all(len(row["classes"]) == 2 for row in found)


def test_predict_ignores_what_systems_leave_behind(tmp_path):
    folder = pictures(tmp_path / "own", 2)
    inside = sorted(folder.rglob("*.png"))
    inside[0].with_name("._0.png").write_bytes(b"x")
    (folder / "__MACOSX").mkdir()
    (folder / "__MACOSX" / "1.png").write_bytes(b"x")
    (folder / "up").symlink_to(folder)
    assert cli.list_pictures([str(folder)]) == inside


def test_all_own_pictures_are_trained_on(monkeypatch):
    shapes = data.Shapes(100, 50)
    many = shapes.train.subset(torch.arange(12_000) % 100)
    own = replace(shapes, kind="folder", train=many)
    recipe, few = plan(own, "cpu")
    assert len(few.train) == 12_000 and recipe == PRESETS["finetune"]


def test_ctrl_c_is_exit_code_130(monkeypatch, capsys):
    def interrupted(*args, **kw):
        raise KeyboardInterrupt
    monkeypatch.setattr(models, "restore", interrupted)
    for call in (lambda: cli.cnx_eval("run"), lambda: cli.cnx_predict([__file__])):
        with pytest.raises(SystemExit) as stop:
            call()
        assert stop.value.code == 130 and capsys.readouterr().err.strip() == "interrupted"


def handler_in(folder, name):
    "What Ctrl-C does in a script of this name, after it has imported the package."
    script = folder / name
    script.write_text("import convnext_nb, signal\n"
                      "print(getattr(signal.getsignal(signal.SIGINT), '__name__', '-'))\n")
    done = subprocess.run([sys.executable, script], capture_output=True, text=True,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    return done.stdout.strip()


def test_ctrl_c_is_caught_early_in_the_packages_own_commands_alone(tmp_path):
    settings = ConfigParser()
    settings.read(ROOT / "settings.ini")
    own = re.findall(r"(\w+)=", settings["DEFAULT"]["console_scripts"])
    assert set(own) == convnext_nb.COMMANDS
    assert handler_in(tmp_path, own[0]) == handler_in(tmp_path, f"{own[-1]}.py") == "end_at_once"
    for name in ("cnx_mine", "cnx_training.py", "my_cnx_train"):
        assert handler_in(tmp_path, name) == "default_int_handler"


@pytest.mark.parametrize("name", ["cnx_eval", "cnx_bench", "cnx_proof"])
def test_ctrl_c_while_torch_is_loaded(name, tmp_path):
    (tmp_path / "torch.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(60)\n")
    env = os.environ | {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    process = subprocess.Popen([BIN / name], env=env, text=True, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE)
    assert process.stdout.readline() == "here\n"
    process.send_signal(signal.SIGINT)
    assert process.communicate(timeout=30)[1] == "interrupted\n" and process.returncode == 130


def test_predict_pictures_and_folders(tmp_path):
    folder = pictures(tmp_path / "own", 4)
    inside = sorted(folder.rglob("*.png"))
    done = command("cnx_predict", str(folder), str(inside[0]), "--top", "2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [row["image"] for row in found] == [str(p) for p in [*inside, inside[0]]]
    assert found[0]["classes"] == found[-1]["classes"] and len(found[0]["classes"]) == 2
    net, pre, classes = models.restore("atto_tiny200")
    expected = models.classify(net, [Image.open(p) for p in inside], pre, classes, 2)
    for row, best in zip(found, expected):
        assert [c["name"] for c in row["classes"]] == [name for name, _ in best]
        probabilities = [c["probability"] for c in row["classes"]]
        assert probabilities == pytest.approx([p for _, p in best], abs=1e-4)


def test_predict_cuts_a_picture_only_once(small_run, tmp_path):
    net, pre = small_run[3], Preprocessing(size=32, crop=0.5)
    path = tmp_path / "one.png"
    Image.fromarray(small_run[1].val.images[0].numpy()).save(path)
    (_, found), = cli.predict_pictures(net, [path], pre, data.SHAPES, 10)
    best = models.classify(net, [Image.open(path)], pre, data.SHAPES, 10)[0]
    assert dict(found) == pytest.approx(dict(best), abs=1e-5)


def test_predict_says_which_pictures_it_cannot_read(tmp_path):
    good = sorted(pictures(tmp_path / "own", 1).rglob("*.png"))[0]
    text, cut = tmp_path / "text.jpg", tmp_path / "cut.png"
    text.write_text("no picture")
    cut.write_bytes(good.read_bytes()[:300])
    done = command("cnx_predict", str(text), str(good), str(cut))
    assert done.returncode == 1 and str(good) in done.stdout and str(cut) not in done.stdout
    lines = done.stderr.strip().splitlines()
    assert [line.split(" cannot be")[0] for line in lines] == [f"error: {text}", f"error: {cut}"]


class Failing(ImageFile.ImageFile):
    "Pictures that open, and then fail as damaged AVIF files do: with a RuntimeError."
    format = "FAILING"

    def _open(self):
        self._size, self._mode = (64, 64), "RGB"

    def load(self):
        raise RuntimeError("Failed to decode frame 0: Truncated data")


def test_a_decoder_may_raise_anything(tmp_path, monkeypatch, capsys):
    """In prediction, while streaming and while packing: the picture is named, in one line."""
    monkeypatch.setenv("CONVNEXT_NB_DATA", str(tmp_path / "packed"))
    monkeypatch.setitem(Image.OPEN, "FAILING", (Failing, lambda start: start[:7] == b"FAILING"))
    monkeypatch.setattr(Image, "ID", [*Image.ID, "FAILING"])
    folder = pictures(tmp_path / "own", 8)
    good = sorted(folder.rglob("*.png"))
    bad = good[0].with_name("bad.png")
    bad.write_bytes(b"FAILING to decode, whoever tries")
    with pytest.raises(SystemExit) as stop:
        cli.cnx_predict([str(folder)], device="cpu", json=True)
    told = capsys.readouterr()
    assert stop.value.code == 1 and told.err.count("\n") == 1
    assert told.err.startswith(f"error: {bad} cannot be used as a picture (Failed to decode")
    assert [row["image"] for row in json.loads(told.out)] == [str(path) for path in good]
    for stream in (0, 32):
        with pytest.raises(SystemExit):
            cli.cnx_train("pocket", str(folder), str(tmp_path / "run"), stream=stream,
                          change='{"batch_size": 4, "size": 32, "sizes": []}', device="cpu")
        last = capsys.readouterr().err.splitlines()[-1]
        assert last.startswith("error: ") and "bad.png" in last and "Failed to decode" in last


@pytest.mark.parametrize("words, said", [
    (dict(images=["no.png"]), "there is no picture no.png"),
    (dict(images=["tests"]), "no picture in tests"),
    (dict(images=["image"], top=0), "1 to 200 classes"),
    (dict(images=["image"], run="no/run"), "or a shipped network: atto_tiny200"),
])
def test_predict_refuses(words, said, monkeypatch, capsys):
    monkeypatch.chdir(Path(__file__).resolve().parent.parent)
    with pytest.raises(SystemExit) as stop:
        cli.cnx_predict(**words, device="cpu")
    told = capsys.readouterr()
    assert stop.value.code == 1 and not told.out
    assert told.err.startswith("error: ") and told.err.count("\n") == 1 and said in told.err


def test_wrong_use_is_exit_code_2():
    assert command("cnx_predict").returncode == 2
    assert command("cnx_eval", "--split", "tests", "--data", "no").returncode == 2


@pytest.mark.parametrize("start", [lambda: cli.cnx_eval("nowhere", device="cpu"),
                                   lambda: cli.cnx_predict(["nothing"], device="cpu")])
def test_measuring_and_predicting_set_up_the_device(start, monkeypatch):
    "Before any work: on a GPU both compute as training does, without TF32."
    asked = []
    def set_up(device):
        asked.append(device.type)
        raise ValueError("far enough")
    monkeypatch.setattr(cli.train, "set_up", set_up)
    with pytest.raises(SystemExit): start()
    assert asked == ["cpu"]


@pytest.mark.parametrize("kind, recipe", [("folder", "finetune"), ("shapes", "pocket")])
def test_fewer_classes_do_not_change_the_recipe(kind, recipe):
    whole = replace(data.Shapes(40, 20), kind=kind)
    for classes in (0, 5):
        chosen, some = cli.settle("auto", whole, classes, 0, "cpu")
        assert chosen == PRESETS[recipe] and len(some.classes) == (classes or 10)
    tiny = replace(whole, kind="tiny-imagenet")
    assert len(cli.settle("auto", tiny, 7, 0, "cpu")[1].classes) == 7


def test_the_average_of_a_run_is_found_by_its_name(small_run, tmp_path, monkeypatch):
    folder = tmp_path / "runs" / "family" / "one"
    shutil.copytree(small_run[0], folder)
    shutil.copy(folder / "model.safetensors", folder / "ema.safetensors")
    monkeypatch.chdir(tmp_path)
    for name in ("family/one", "runs/family/one", str(folder)):
        assert list(cli.restored(name)) == ["weights", "ema"]
    assert list(cli.restored("atto_tiny200")) == ["weights"]


def test_options_of_training_are_obeyed(tmp_path, monkeypatch, capsys):
    few = data.Shapes(120, 50)
    monkeypatch.setattr(data, "load", lambda word, size: few)
    cli.cnx_train("pocket", "shapes", str(tmp_path / "run"), model_args=SMALL, classes=5, epochs=1,
                  lr=1e-3, change='{"batch_size": 16, "sizes": [[0, 16]]}', seed=7, holdout=3,
                  tensorboard=True, device="cpu", json=True)
    asked = runs.Run(tmp_path / "run").recipe
    assert (asked["recipe"]["seed"], asked["recipe"]["lr"]) == (7, 1e-3)
    about, part = asked["data"], few.select(5)
    assert (about["holdout"], about["val_images"]) == (3, 15)
    assert about["classes"] == list(part.classes)
    assert about["train_images"] == len(part.train) - 15
    assert any((tmp_path / "run" / "tensorboard").iterdir())


def test_data_prints_nothing_but_json(monkeypatch, capsys):
    few = data.Shapes(40, 20)
    monkeypatch.setattr(data, "Shapes", lambda: few)
    cli.cnx_data("shapes", json=True)
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert (found["classes"], found["train_images"], found["val_images"]) == (10, 40, 20)
    assert "data: Shapes" in said.err


def test_epochs_without_accuracies_are_printed(tmp_path, capsys):
    run = runs.Run(tmp_path)
    runs.write_json(tmp_path / "recipe.json",
                    dict(data=dict(preprocessing=Preprocessing(64).to_dict())))
    run.append(dict(epoch=1, loss=2.0))
    run.append(dict(epoch=2, loss=1.5, train_top1=50.0, val_top1=40.0, val_size=48))
    runs.write_json(tmp_path / "evidence.json", dict(
        val_top1=41.0, train_top1=51.0, params=1000, train_seconds=3.0, device="here"))
    cli.print_run(run)
    first, second, last = capsys.readouterr().out.splitlines()
    assert first == "epoch   1  loss 2.000"
    assert second.endswith("held-out  40.0 %  at 48 px") and "41.00 % held-out" in last


def test_another_model_in_change_is_as_another_model():
    "What belongs to the recipe's network does not stay."
    finetune = cli.recipe_by_name("finetune")
    by_option = cli.changed(finetune, 0, {}, {}, dict(model="resnet18"))
    by_change = cli.changed(finetune, 0, {}, dict(model="resnet18"), {})
    assert by_option == by_change and by_change.start is None and not by_change.model_args


def test_training_says_what_it_begins_with(train, tmp_path, capsys):
    done = command(*train, "--epochs", "1")
    assert "convnext from random weights, 1 epochs of own" in done.stderr
    cli.cnx_train(data=str(tmp_path / "own"), out=str(tmp_path / "b"), epochs=1, device="cpu")
    assert "convnext_atto from atto_tiny200, 1 epochs of own" in capsys.readouterr().err


def test_processes_of_one_launch_do_not_try_the_first_gpu(monkeypatch):
    monkeypatch.setattr(cli.train, "best_device", lambda: "cuda")
    def taken(*args, **kwargs): raise RuntimeError("the first GPU was asked")
    monkeypatch.setattr(torch, "zeros", taken)
    with pytest.raises(ValueError, match="the first GPU was asked"): cli.find_device("cuda")
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert cli.find_device("cuda") == "cuda"
    with pytest.raises(ValueError, match="no device 'gpu' here"): cli.find_device("gpu")


@pytest.mark.parametrize("given, fields", [
    (dict(epochs=5), '{"epochs": 10}'), (dict(lr=0.1), '{"lr": 0.2}'),
    (dict(model_args='{"stem_stride": 2}'), '{"model_args": {"drop_path": 0.2}}'),
    (dict(model="resnet18"), '{"model": "resnet50"}')])
def test_a_field_that_is_given_twice_is_refused(given, fields, tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.cnx_train("pocket", "shapes", str(tmp_path / "r"), change=fields, device="cpu", **given)
    assert f"{next(iter(given))}: given as an option and in --change" in capsys.readouterr().err


def test_a_model_is_a_name(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.cnx_train("pocket", "shapes", str(tmp_path), change='{"model": 3}', device="cpu")
    assert capsys.readouterr().err == "error: model must be the name of a network, got 3\n"


def test_a_file_does_not_say_what_was_held_out():
    with pytest.raises(ValueError, match="atto_tiny200 does not say what was held out"):
        cli.split_of(data.Shapes(20, 10), "holdout", "atto_tiny200")


def test_a_list_that_is_cut_says_so(capsys):
    left_out = {f"class {k}": k for k in range(1, 15)}
    found = dict(run="r", data="d", split="val", images=1, left_out=left_out, absent=["a", "b"],
                 results=[], ece=0.0, temperature=1.0, confused=[])
    cli.print_eval(found)
    said = capsys.readouterr().out
    assert "12 of class 12 and 2 more\n" in said and "without pictures here: a, b\n" in said


def test_a_picture_that_cannot_be_opened_is_told_as_such(tmp_path, capsys):
    (tmp_path / "folder.jpg").mkdir()
    net, pre, classes = models.restore("atto_tiny200")
    assert not list(cli.predict_pictures(net, [tmp_path / "folder.jpg"], pre, classes, 1))
    assert capsys.readouterr().err == f"error: {tmp_path / 'folder.jpg'}: Is a directory\n"


def test_auto_takes_fewer_epochs_than_another_recipe_warms_up():
    assert cli.check_options("auto", 0, {}, dict(epochs=2), {}).epochs == 2
