"""Measure what trained networks see, for the chapter that shows it (nbs/350_seen.ipynb).

    python tools/seen.py DATA RUNS
    python tools/seen.py DATA --shipped

DATA is Tiny-ImageNet (zip or folder). RUNS is a folder of runs laid out like nbs/runs, with the
weights that `cnx_train` left: the families steps_tiny20 and steps_holdout, and
steps_shapes/fewer_act. `--shipped` measures only the network that comes with the package again, and
keeps the rest of the file. Everything is computed in fp32 on the CPU, by `convnext_nb.seen`.
"""
import argparse
import json
import re
import time
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from convnext_nb import data, models, roadmap, runs, seen

ROOT = Path(__file__).resolve().parent.parent
SEEDS = ("", "-s1", "-s2")
STEPS = ("base", "k7", "sep_ds")  # whose boxes and blocks are measured
SCALES = ("ln", "ln-dp", "sep_ds", "sep_ds-1e-6")  # of steps_holdout: their blocks, too
DRAWN = "steps_shapes/fewer_act"  # trained on drawn images, which may be shown
ATTO = "atto_tiny200"  # the network that comes with the package


def sample(dataset: data.Dataset, count: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    "Evenly spaced validation images (B, 3, H, W), their classes (B,), and their rows (B,)."
    count = min(count, len(dataset.val))
    rows = torch.linspace(0, len(dataset.val) - 1, count).long()
    images, y = dataset.val.take(rows)
    x = data.to_input(images.permute(0, 3, 1, 2), dataset.preprocessing)
    return x, y, rows


def network(root: Path, name: str) -> nn.Module:
    "The trained network of a run in the folder `root`."
    return models.restore(root / name)[0]


def seeds_of(root: Path, step: str) -> list[str]:
    "The finished runs of a step, one for each seed."
    names = [f"steps_tiny20/{step}{seed}" for seed in SEEDS]
    return [name for name in names if (root / name / "evidence.json").exists()]


def fields(root: Path, names: list[str], x: torch.Tensor) -> dict:
    "Receptive fields of the seeds of one recipe, trained and fresh, and their mean as a picture."
    fresh = seen.untrained(root / names[0], x)
    side = fresh.total_stride
    found = [seen.receptive_field(network(root, name), x) for name in names]
    picture = F.avg_pool2d(torch.stack(found).mean(0)[None], 2)[0]
    return dict(runs=names, trained=[seen.field_size(energy, side) for energy in found],
                fresh=seen.field_size(seen.receptive_field(fresh, x), side),
                picture=picture.mul(1e6).round().int().tolist())


def rounded(thing, digits: int = 4):
    "Plain data with short numbers."
    if isinstance(thing, dict):
        return {str(key): rounded(value, digits) for key, value in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [rounded(value, digits) for value in thing]
    return float(f"{thing:.{digits}g}") if isinstance(thing, float) else thing


def compact(found: dict) -> str:
    "JSON with each list of numbers on one line."
    text = json.dumps(found, indent=1, sort_keys=True)
    return re.sub(r"\[[^][{}]*\]", lambda match: re.sub(r"\s+", " ", match[0]), text) + "\n"


def steps(found: dict, root: Path, few: data.Dataset, source: Path, say) -> None:
    "Adds the runs on 20 classes: the field of every step, boxes and blocks of some."
    x, _, _ = sample(few, 100)
    for step in roadmap.steps():
        if names := seeds_of(root, step.name):
            found["fields"][step.name] = fields(root, names, x)
            say(f"field of {step.name}")
    x, y, rows = sample(few, 1000)
    masks = seen.box_masks(source, few.val.rows[rows])
    for step in STEPS:
        for name in seeds_of(root, step):
            net = network(root, name)
            found["boxes"][name] = seen.cam_in_boxes(net, x, y, masks)
            found["blocks"][name] = seen.without_each_block(net, x, y)
            say(f"boxes and blocks of {name}")
    for run in SCALES:
        name = f"steps_holdout/{run}"
        found["blocks"][name] = seen.without_each_block(network(root, name), x, y)
    fresh = seen.untrained(root / "steps_tiny20/base", x[:250])
    found["boxes"]["fresh base"] = seen.cam_in_boxes(fresh, x, y, masks)


def shipped(found: dict, tiny: data.Dataset, source: Path) -> None:
    "Adds the network that comes with the package."
    net = models.restore(ATTO)[0]
    x, y, rows = sample(tiny, 2000)
    found["boxes"][ATTO] = seen.cam_in_boxes(net, x, y, seen.box_masks(source, rows))
    found["blocks"][ATTO] = seen.without_each_block(net, x, y)
    found["mistakes"] = dict(network=ATTO, **seen.mistakes(net, tiny))
    x, _, _ = sample(replace(shapes(), preprocessing=tiny.preprocessing), 20)
    size = seen.field_size(seen.receptive_field(net, x), net.total_stride)
    found["drawn"] = dict(network=ATTO, **size)


def shapes() -> data.Dataset:
    "Drawn images, which may be shown."
    return data.Shapes(n_train=10, n_val=250)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="Tiny-ImageNet: zip or extracted folder")
    parser.add_argument("runs", type=Path, nargs="?",
                        help="folder of runs with weights, like nbs/runs")
    parser.add_argument("--shipped", action="store_true",
                        help="only the network that comes with the package")
    parser.add_argument("--out", type=Path, default=ROOT / "nbs/runs/measured/seen.json",
                        help="the file to write")
    args = parser.parse_args()
    if args.shipped == bool(args.runs): parser.error("name a folder of runs, or --shipped")
    if args.runs:
        for name in (*(f"steps_holdout/{run}" for run in SCALES), DRAWN,
                     *(f"steps_tiny20/{step}" for step in STEPS)):
            network(args.runs, name)  # a missing one is told now, not at the end
    start = time.time()

    def say(what: str) -> None:
        print(f"{time.time() - start:4.0f} s  {what}", flush=True)

    torch.manual_seed(0)
    tiny = data.load(str(args.data))
    if args.shipped: found = json.loads(args.out.read_text())
    else:
        few = tiny.select(20)
        found = dict(machine=runs.machine(), data=few.source, fields={}, boxes={}, blocks={})
        steps(found, args.runs, few, args.data, say)
        found["shown"] = dict(run=DRAWN,
                              **seen.true_and_rival(network(args.runs, DRAWN), shapes()))
        found["seconds"] = round(time.time() - start)
    shipped(found, tiny, args.data)
    found["shipped"] = dict(machine=runs.machine())
    say(ATTO)
    args.out.write_text(compact(rounded(found)))
    say(args.out)


if __name__ == "__main__":
    main()
