"""Fold in JupyterLab what the site folds: cells that are hidden, drawn only, or solutions.

A directive (`#| hide`, `#| echo: false`, `#| code-fold: true`, `#| default_exp`) means nothing to
JupyterLab; it looks at `source_hidden` in a cell's metadata. With --check, only say which differ.
"""
import re
import sys

from notebooks import NBS, rewrite

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


if __name__ == "__main__":
    sys.exit(rewrite(NBS.glob("*.ipynb"), with_folds, "to fold", "folded"))
