"""List the runs in nbs/runs with their evidence; --readers names the notebooks that show runs."""
import re
import sys
from pathlib import Path

from convnext_nb import runs

ROOT = Path(__file__).resolve().parent.parent
READS = re.compile(r'load\(\\"|seeded\(|trained\(|runs/|runs\.load')


def line(run: runs.Run) -> str:
    "A run in one line: what was trained on which data, where, and the result."
    asked = run.recipe
    e = run.evidence
    what = f"{run.name:28} {asked['recipe']['model']:22} {asked['recipe']['epochs']:3} epochs "
    if not e:
        return what + f"unfinished, {len(run.metrics)} epochs done"
    return what + (f"{asked['data']['name']}, {len(asked['data']['classes'])} classes: top-1 "
                   f"{e['val_top1']:.1f} %, training {e['train_top1']:.1f} %, "
                   f"{e['train_seconds'] / 60:.1f} min on {e['device']}, torch {e['torch']}, "
                   f"commit {e['commit']}")


def main() -> None:
    if "--readers" in sys.argv:
        print(*(p.relative_to(ROOT) for p in sorted((ROOT / "nbs").glob("*.ipynb"))
                if READS.search(p.read_text())))
        return
    for name in runs.names():
        print(line(runs.load(name)))
    print(f"{len(runs.names())} runs")


if __name__ == "__main__":
    main()
