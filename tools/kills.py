"""Kill a training at 20 random moments, resume it each time, compare its end (make kills).

The steps of the whole training are cut into as many equal parts as there are kills, and each part
gets one, at a random moment. So the kills are spread over all epochs.
"""
import argparse
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).resolve().parent.parent
EPOCHS = 4
STEPS = 32  # of an epoch
CODE = f"""
import sys, torch
from convnext_nb import data, train
torch.set_num_threads(1)
sizes = dict(depths=(1, 1, 1, 1), dims=(16, 32, 64, 64), layer_scale=1.0, drop_path=0.2)
recipe = train.Recipe(
    model="convnext", model_args=sizes, epochs={EPOCHS}, batch_size=32, warmup_epochs=1, ema=0.9,
    augment="crop flip trivialaugment", erasing=0.25, mixup=0.2, cutmix=1.0, mix_until=0.8)
shapes = data.Shapes(32 * {STEPS}, 128)
lr_at = train.optim.lr_at
def told(recipe, step, steps):
    print(step, flush=True)
    return lr_at(recipe, step, steps)
train.optim.lr_at = told
train.fit(recipe, shapes, sys.argv[1], "cpu", progress=False, save_minutes=0.008)
"""


def start(folder: Path) -> subprocess.Popen:
    "Start a training that says each step's number (from 0), and saves every half second."
    return subprocess.Popen([sys.executable, "-c", CODE, str(folder)], cwd=ROOT,
                            stdout=subprocess.PIPE, text=True)


def undisturbed(folder: Path) -> float:
    "Train from start to end; the seconds of a step."
    process = start(folder)
    began = [time.monotonic() for _ in process.stdout]
    if process.wait(): raise SystemExit("the undisturbed training failed")
    return (began[-1] - began[0]) / len(began)


def kill_at(folder: Path, target: int, patience: float) -> int:
    "Train on until a step, and kill the process a moment later; the step at which that was."
    process = start(folder)
    step = next((int(line) for line in process.stdout if int(line) >= target), None)
    if step is None: raise SystemExit(f"the training ended before step {target}")
    time.sleep(patience)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    return step


def equal(one: Path, other: Path, name: str) -> bool:
    "Whether two run folders hold the same tensors under this name, bit for bit."
    a = load_file(one / f"{name}.safetensors")
    b = load_file(other / f"{name}.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    args = parser.parse_args()
    moments = random.Random(args.seed)
    in_epoch = [0] * EPOCHS
    with tempfile.TemporaryDirectory() as root:
        whole = Path(root) / "whole"
        killed = Path(root) / "killed"
        seconds = undisturbed(whole)
        print(f"undisturbed: {EPOCHS * STEPS} steps of {1000 * seconds:.0f} ms")
        for kill in range(args.kills):
            target = int((kill + moments.random()) / args.kills * EPOCHS * STEPS)
            step = kill_at(killed, target, moments.uniform(0, seconds))
            in_epoch[step // STEPS] += 1
            print(f"kill {kill + 1}: in epoch {step // STEPS + 1}, step {step % STEPS + 1}",
                  flush=True)
        process = start(killed)
        process.communicate()
        same = not process.returncode and all(equal(whole, killed, n) for n in ("model", "ema"))
    print(f"kills in each epoch: {', '.join(map(str, in_epoch))}")
    print(f"{args.kills} kills, the end is {'bit for bit the same' if same else 'NOT the same'}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
