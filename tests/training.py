"""What the tests of training share: tiny images, a tiny recipe, runs that are cut off."""
import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from convnext_nb import train
from convnext_nb.data import Dataset, Preprocessing, Split
from convnext_nb.recipe import Recipe

ROOT = Path(__file__).resolve().parent.parent
RECIPE = Recipe(model="convnext", epochs=4, batch_size=8, lr=1e-2, warmup_epochs=1,
                model_args=dict(depths=(1, 1, 1, 1), dims=(8, 8, 16, 16), drop_path=0.3),
                precision="fp32")
FULL = replace(RECIPE, epochs=2, augment="crop flip trivialaugment", erasing=0.5, mixup=0.5,
               cutmix=1.0, mix_until=0.5, ema=0.9, sizes=((0.0, 32), (0.5, 40)))
TIMES = ("seconds", "first_seconds", "images_per_s")  # what differs from run to run
COMPLETE = ["checkpoint.pt", "evidence.json", "metrics.jsonl", "model.safetensors", "recipe.json"]


def split(n, classes=4, side=32):
    "Noisy images whose mean color gives the class away."
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


CHILD = f"""
import sys, time
sys.path.insert(0, {str(ROOT / "tests")!r})
import torch, training
torch.set_num_threads(1)
quick = training.train.prepare_batch
steps, last = 0, None  # `last`: the step at which it waits to be killed
def slow(*args):
    global steps
    steps += 1
    print("step", flush=True)
    time.sleep(300 if steps == last else 0.2)
    return quick(*args)
training.train.prepare_batch = slow
"""


class Killed(BaseException):
    "Stands for whatever ends a run at some point."


def interrupted(where, name, when):
    "Make call number `when` (from 0) of a function raise; returns the patch, to be undone."
    original, calls = getattr(where, name), [0]
    def function(*args, **kwargs):
        calls[0] += 1
        if calls[0] == when + 1:
            raise Killed
        return original(*args, **kwargs)
    patch = pytest.MonkeyPatch()
    patch.setattr(where, name, function)
    return patch
