"""The commands as a person types them: help, results, exit codes, Ctrl-C."""
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from convnext_nb import data

BIN = Path(sys.executable).parent
SMALL = '{"depths": [1, 1, 1, 1], "dims": [8, 16, 32, 64], "layer_scale": 1.0}'


def command(*words):
    return subprocess.run([BIN / words[0], *words[1:]], capture_output=True, text=True)


def pictures(folder: Path, n: int = 30) -> Path:
    "A folder of two classes of own pictures."
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


@pytest.mark.parametrize("name", ["cnx_train", "cnx_data", "cnx_bench"])
def test_help_shows_defaults(name):
    done = command(name, "--help")
    assert done.returncode == 0 and "(default: auto)" in " ".join(done.stdout.split())


def test_train_leaves_a_run_and_json(train, tmp_path):
    done = command(*train, "--epochs", "2", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    lines = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["epoch"] for line in lines] == [1, 2]
    assert found == json.loads((tmp_path / "run" / "evidence.json").read_text())


@pytest.mark.parametrize("words, said", [
    (["--recipe", "pocked"], "there are: auto, pocket"),
    (["--model", "convnext_gigantic"], "unknown model"),
    (["--model_args", "width=2"], "no JSON object"),
    (["--data", "no/such/folder"], "no data"),
    (["--classes", "9"], "select 2 to 2"),
])
def test_bad_input_is_one_line_and_exit_code_1(train, words, said):
    done = command(*train, *words)
    assert done.returncode == 1
    assert said in done.stderr and "Traceback" not in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("error: ")


def test_unknown_option_is_exit_code_2():
    assert command("cnx_train", "--recipes", "pocket").returncode == 2


def test_unknown_benchmark():
    done = command("cnx_bench", "--what", "speed")
    assert done.returncode == 1 and "there are: pack, data" in done.stderr


def test_ctrl_c_keeps_whole_epochs_and_goes_on(train, tmp_path):
    metrics = tmp_path / "run" / "metrics.jsonl"
    words = [*train, "--epochs", "200"]
    process = subprocess.Popen([BIN / words[0], *words[1:]], stderr=subprocess.PIPE, text=True)
    deadline = time.time() + 120
    while not metrics.exists() or metrics.read_text().count("\n") < 3:
        assert process.poll() is None and time.time() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "goes on after the last whole epoch" in said
    before = metrics.read_text()
    assert before.count("\n") < 200
    done = command(*words)
    assert done.returncode == 0, done.stderr
    after = metrics.read_text().splitlines()
    assert len(after) == 200
    assert [json.loads(line)["epoch"] for line in after] == list(range(1, 201))
    assert after[:2] == before.splitlines()[:2]  # not trained again


def test_bench_prints_nothing_but_json():
    done = command("cnx_bench", "--what", "data", "--data", "shapes", "--repeats", "1", "--json")
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["data"][2]["ratio"] > 10 and found["machine"]["torch"]
