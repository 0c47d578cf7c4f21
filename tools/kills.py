"""Kill a training at 20 random moments, resume it each time, compare its end (make kills)."""
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

from convnext_nb import runs

ROOT = Path(__file__).resolve().parent.parent
CODE = """
import sys, torch
from convnext_nb import data, train
torch.set_num_threads(1)
sizes = dict(depths=(1, 1, 1, 1), dims=(16, 32, 64, 64), layer_scale=1.0, drop_path=0.2)
recipe = train.Recipe(
    model="convnext", model_args=sizes, epochs=4, batch_size=32, warmup_epochs=1, ema=0.9,
    augment="crop flip trivialaugment", erasing=0.25, mixup=0.2, cutmix=1.0, mix_until=0.8)
shapes = data.Shapes(1024, 128)
print("ready", flush=True)
train.fit(recipe, shapes, sys.argv[1], "cpu", progress=False,
          save_minutes=float(sys.argv[2]))
"""


def start(folder: Path) -> subprocess.Popen:
    "Start a training in a process of its own; it saves its state every half second."
    process = subprocess.Popen([sys.executable, "-c", CODE, str(folder), "0.008"], cwd=ROOT,
                               stdout=subprocess.PIPE, text=True)
    process.stdout.readline()
    return process


def equal(one: Path, other: Path, name: str) -> bool:
    "Whether two run folders hold the same tensors under this name, bit for bit."
    a = load_file(one / f"{name}.safetensors")
    b = load_file(other / f"{name}.safetensors")
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="seed of the random moments")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        whole = Path(root) / "whole"
        killed = Path(root) / "killed"
        kills = 0
        begin = time.monotonic()
        if start(whole).wait():
            return 1
        seconds = time.monotonic() - begin
        moments = random.Random(args.seed)
        print(f"undisturbed: {seconds:.0f} s")
        while True:
            process = start(killed)
            patience = moments.uniform(0, seconds / 5) if kills < args.kills else None
            try:
                if process.wait(patience):
                    return 1
                break  # it ended by itself
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                process.wait()
                kills += 1
                done = runs.Run(killed).metrics if killed.exists() else []
                print(f"kill {kills}: {len(done)} of 4 epochs done", flush=True)
        same = equal(whole, killed, "model") and equal(whole, killed, "ema")
    print(f"{kills} kills, the end is {'bit for bit the same' if same else 'NOT the same'}")
    return 0 if same and kills == args.kills else 1


if __name__ == "__main__":
    sys.exit(main())
