"""Give every chapter the cell that installs the project in Colab and on Kaggle, if it lacks it.

With --check, only say which chapters lack it.
"""
import sys

from notebooks import NBS, rewrite
from project import settings

ID = "c01ab000"
CELL = """#| hide
#| eval: false
# Only in Google Colab and on Kaggle: fetch the project, install it, and go to its notebooks.
import os
import sys

away = "google.colab" in sys.modules or "KAGGLE_KERNEL_RUN_TYPE" in os.environ
if away and not os.path.exists("../settings.ini"):
    ![ -d {repo} ] || git clone -q --depth 1 {url}
    !pip install -q ./{repo} onnxruntime onnxscript
    %cd {repo}/nbs"""


def install_cell() -> dict:
    "The cell, with the address of the repository from settings.ini."
    cfg = settings()
    source = CELL.format(url=cfg["git_url"], repo=cfg["repo"])
    return {"cell_type": "code", "execution_count": None, "id": ID,
            "metadata": {"jupyter": {"source_hidden": True}}, "outputs": [],
            "source": source.splitlines(keepends=True)}


def with_cell(nb: dict) -> dict:
    "A notebook with the cell below its title."
    cells = [cell for cell in nb["cells"] if cell.get("id") != ID]
    return {**nb, "cells": [cells[0], install_cell(), *cells[1:]]}


if __name__ == "__main__":
    sys.exit(rewrite(NBS.glob("[0-9]*.ipynb"), with_cell, "without the cell", "changed"))
