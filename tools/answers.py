"""What trained networks answer on the validation images: at which size, how sure, and who is right.

    python tools/answers.py --out nbs/runs/measured/race.json RUN RUN ...

Each RUN is a finished run folder with its weights. Two minutes a network on one core.
"""
import argparse
from dataclasses import replace
from itertools import combinations
from pathlib import Path

import torch

from convnext_nb import data, evaluation, models, runs

SIZES = (32, 48, 64)  # pixels; the last is the full size


def answered(folder: Path, net: torch.nn.Module, preprocessing: data.Preprocessing,
             val: data.Split) -> tuple[dict, torch.Tensor]:
    "A network's accuracy by size, its calibration, and for each image whether it is right (N,)."
    bf16 = runs.load(folder).evidence["bf16"]  # as its accuracy was measured
    logits = {size: evaluation.predict(net, val, replace(preprocessing, size=size), 256, bf16)
              for size in SIZES}
    top1 = {str(size): evaluation.scores(found, val.labels)["top1"]
            for size, found in logits.items()}
    full = logits[SIZES[-1]]
    measured = dict(top1_by_size=top1, temperature=evaluation.temperature(full, val.labels))
    return measured | evaluation.calibration(full, val.labels), full.argmax(1) == val.labels


def alone(right: dict[str, torch.Tensor]) -> dict[str, dict[str, int]]:
    "For each two networks: how many images only the one, and only the other, has right."
    return {f"{a}, {b}": {a: (right[a] & ~right[b]).sum().item(),
                          b: (right[b] & ~right[a]).sum().item()}
            for a, b in combinations(right, 2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default="tiny", help="tiny, shapes, or a path")
    parser.add_argument("--out", type=Path, required=True, help="the file to write, JSON")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    args = parser.parse_args()
    if len({folder.name for folder in args.runs}) < len(args.runs):
        parser.error("two of the folders have one name")
    dataset = data.load(args.data)
    # all of them first: an unfinished one is refused at once
    trained = {folder: models.restore(folder)[:2] for folder in args.runs}
    networks, right = {}, {}
    for folder, (net, preprocessing) in trained.items():
        networks[folder.name], right[folder.name] = answered(
            folder, net, preprocessing, dataset.val)
        print(f"{folder.name}: {100 * right[folder.name].float().mean():.2f} % right, "
              f"calibration error {networks[folder.name]['ece']:.1f} %", flush=True)
    runs.write_json(args.out, dict(machine=runs.machine(), data=dataset.source, networks=networks,
                                   alone=alone(right)))


if __name__ == "__main__":
    main()
