"""List the runs in nbs/runs with their evidence.

    python tools/results.py              one line a run
    python tools/results.py --families   what the README of each family says of its files
    python tools/results.py --readers    the notebooks that show runs
"""
import argparse
import json
import re
from pathlib import Path

from convnext_nb import runs

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
READS = re.compile(r"runs\.load\(|seeds_of\(|trained_steps\(|[\"']runs/")


def line(run: runs.Run) -> str:
    "A run in one line: what was trained on what, where, and what came out."
    asked, evidence = run.recipe, run.evidence
    recipe, data = asked["recipe"], asked["data"]
    what = f"{run.name:38} {recipe['model']:20} {recipe['epochs']:3} epochs  "
    if not evidence:
        return what + f"unfinished, {len(run.metrics)} epochs done"
    return what + (f"{data['name']}, {len(data['classes'])} classes: "
                   f"top-1 {evidence['val_top1']:.1f} %, training {evidence['train_top1']:.1f} %, "
                   f"{evidence['train_seconds'] / 60:.1f} min on {evidence['device']}, "
                   f"torch {evidence['torch']}, commit {evidence['commit']}")


def distinct(values: list) -> str:
    "The different values, in their order."
    different = sorted(set(values), key=lambda v: (v is not None, v))  # no commit: first
    return ", ".join(f"{v:,}" if isinstance(v, int) else str(v) for v in different)


def on_what(found: list[dict]) -> list[str]:
    "Machine and versions, from pieces of evidence, as lines of Markdown."
    def all_of(key: str) -> str:
        return distinct([evidence[key] for evidence in found])

    versions = (f"{name} {all_of(name)}" for name in ("python", "torch", "torchvision", "timm"))
    return [f"- Machine: {all_of('device')} ({all_of('device_type')}), "
            f"threads: {all_of('threads')}.",
            f"- Versions: {', '.join(versions)}; commits {all_of('commit')}."]


def facts(family: Path) -> list[str]:
    "What the files of a family's runs say of all of them together, as lines of Markdown."
    found = [runs.Run(path.parent) for path in sorted(family.glob("*/evidence.json"))]
    evidence = [run.evidence for run in found]
    seconds = sum(e["train_seconds"] for e in evidence)

    def asked(part: str, key: str) -> str:
        return distinct([run.recipe[part][key] for run in found])

    seeds = [run.recipe["recipe"]["seed"] for run in found]
    counts = ", ".join(f"{seeds.count(seed)} with seed {seed}" for seed in sorted(set(seeds)))
    classes = distinct([len(run.recipe["data"]["classes"]) for run in found])
    return [f"- Runs: {len(found)} ({counts}); {seconds / 3600:.1f} hours of training together.",
            f"- Images: {asked('data', 'name')}, {classes} classes, "
            f"{asked('data', 'train_images')} for training, "
            f"{asked('data', 'val_images')} to measure on. Source: {asked('data', 'source')}.",
            f"- Recipe: epochs {asked('recipe', 'epochs')}; "
            f"batch size {asked('recipe', 'batch_size')}; rate {asked('recipe', 'lr')}; "
            f"warm-up epochs {asked('recipe', 'warmup_epochs')}; "
            f"label smoothing {asked('recipe', 'label_smoothing')}; "
            f"augmentation {asked('recipe', 'augment')}.",
            *on_what(evidence)]


def file_facts(path: Path) -> list[str]:
    "Machine and versions of a file of measurements."
    return on_what([json.loads(path.read_text())["machine"]])


def shows_runs(notebook: Path) -> bool:
    "Whether a cell of the notebook reads runs or measurements, exported cells aside."
    cells = json.loads(notebook.read_text())["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    return any(READS.search(source) for source in code if "#| export" not in source)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--readers", action="store_true", help="name the notebooks that show runs")
    parser.add_argument("--families", action="store_true", help="say what each family's files say")
    args = parser.parse_args()
    if args.readers:
        print(*(p.relative_to(ROOT) for p in sorted(NBS.glob("*.ipynb")) if shows_runs(p)))
        return
    if args.families:
        for family in sorted({path.parent.parent for path in NBS.glob("runs/*/*/recipe.json")}):
            print(f"{family.name}\n" + "\n".join(facts(family)))
        for path in sorted(NBS.glob("runs/measured/*.json")):
            print(f"measured/{path.name}\n" + "\n".join(file_facts(path)))
        return
    found = [runs.Run(path.parent) for path in sorted(NBS.glob("runs/*/*/recipe.json"))]
    for run in found: print(line(run))
    print(f"{len(found)} runs")


if __name__ == "__main__":
    main()
