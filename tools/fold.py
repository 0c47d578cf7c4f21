"""Fold in JupyterLab what the site folds: cells that are hidden, drawn only, or solutions.

A directive (`#| hide`, `#| echo: false`, `#| code-fold: true`, `#| default_exp`) means nothing to
JupyterLab; it looks at `source_hidden` in a cell's metadata. With --check, only say which differ.
"""
import json
import re
import sys
from pathlib import Path

NBS = Path(__file__).resolve().parent.parent / "nbs"
FOLDED = re.compile(r"^#\|\s*(hide|echo:\s*false|code-fold:\s*true|default_exp\s+\w+)\s*$", re.M)


def with_folds(nb: dict) -> dict:
    "The notebook with `source_hidden` on the cells whose directives ask for it, and on no other."
    cells = []
    for cell in nb["cells"]:
        metadata = {key: value for key, value in cell["metadata"].items() if key != "jupyter"}
        lab = dict(cell["metadata"].get("jupyter", {}))
        lab.pop("source_hidden", None)
        if cell["cell_type"] == "code" and FOLDED.search("".join(cell["source"])):
            lab["source_hidden"] = True
        if lab: metadata["jupyter"] = lab
        cells.append({**cell, "metadata": metadata})
    return {**nb, "cells": cells}


def main() -> int:
    differ = []
    for path in sorted(NBS.glob("*.ipynb")):
        text = path.read_text(encoding="utf-8")
        wanted = json.dumps(with_folds(json.loads(text)), indent=1, ensure_ascii=False) + "\n"
        if text == wanted: continue
        differ.append(path.name)
        if "--check" not in sys.argv: path.write_text(wanted, encoding="utf-8")
    if differ: print(f"{'to fold' if '--check' in sys.argv else 'folded'}: {', '.join(differ)}")
    return int(bool(differ) and "--check" in sys.argv)


if __name__ == "__main__":
    sys.exit(main())
