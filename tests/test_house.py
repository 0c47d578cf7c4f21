"""The library as a package: what it imports, what that costs, and that the floors hold."""
import ast
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest
from children import ROOT, python

MODULES = sorted(p for p in (ROOT / "convnext_nb").glob("*.py") if not p.stem.startswith("_"))
FLOORS = {"layers": 1, "cost": 1, "resnet": 2, "roadmap": 2, "convnext": 2, "swin": 2,
          "images": 2, "shapes": 2, "archive": 2, "packing": 2, "data": 2, "augment": 2,
          "folders": 2, "optim": 3, "evaluation": 3, "keys": 3, "weights": 3, "recipe": 3,
          "runs": 3, "models": 3, "checkpoint": 3, "train": 3, "fast": 3, "explore": 4,
          "results": 4, "walk": 4, "seen": 4, "finetune": 4, "timm_models": 4, "cli": 4, "peers": 4,
          "proof": 4, "clock": 4, "device": 3, "bench": 4, "fcmae": 3, "anatomy": 4, "draw": 4}
DEVELOPMENT = ("nbdev", "execnb", "jupyterlab", "notebook", "ipykernel", "nbclient", "nbformat")
each_module = pytest.mark.parametrize("path", MODULES, ids=lambda p: p.stem)


def imports(path: Path) -> set[str]:
    "The dotted names that a module imports, wherever in the file."
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {"." * node.level + (node.module or "")}
            if node.module in ("convnext_nb", None):
                names |= {f"convnext_nb.{alias.name}" for alias in node.names}
    return {re.sub(r"^\.", "convnext_nb.", name) for name in names}


IMPORTS = f"""
import importlib, os, sys, traceback
sys.modules.update(dict.fromkeys({DEVELOPMENT!r}))
import torch, torchvision  # once for all
for name in sys.argv[1:]:
    if os.fork():
        print(name, os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
        continue
    try:
        importlib.import_module("convnext_nb." + name)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)
"""


def test_each_module_imports_alone_and_without_development_tools():
    names = [path.stem for path in MODULES]
    done = subprocess.run([sys.executable, "-c", IMPORTS, *names], cwd=ROOT, capture_output=True,
                          text=True)
    assert done.stdout.splitlines() == [f"{name} 0" for name in names], done.stderr


@each_module
def test_imports_go_down(path):
    floor = FLOORS[path.stem]
    for name in imports(path):
        if name.startswith("convnext_nb."):
            other = name.split(".")[1]
            if other:
                assert FLOORS[other] <= floor, f"{path.stem} imports {other}, a floor above it"


@each_module
def test_imports_are_required(path):
    ini = ConfigParser(delimiters="=")
    ini.read(ROOT / "settings.ini")
    required = {re.match(r"\w+", need)[0] for need in ini["DEFAULT"]["requirements"].split()}
    known = required | set(sys.stdlib_module_names)
    known |= {"convnext_nb", "IPython"}  # ipywidgets brings IPython
    known |= {"transformers"}  # used where it is installed
    needed = {name.split(".")[0] for name in imports(path)}
    assert {"pillow" if name == "PIL" else name for name in needed} <= known


def test_one_name_one_meaning():
    "No public name stands in two modules; `load` and `save` are always written with theirs."
    places = {}
    for path in MODULES:
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
                for name in ast.literal_eval(node.value):
                    places.setdefault(name, []).append(path.stem)
    assert len(places) > 100
    shared = {name: modules for name, modules in places.items() if len(modules) > 1}
    assert not {name: shared[name] for name in shared if name not in ("load", "save")}


def test_convnext_is_light_to_import():
    """Beside torch it takes a moment: the quickest of three forked processes tells."""
    code = """
import os, sys, time, torch
for _ in range(3):
    if os.fork():
        os.wait()
        continue
    start = time.perf_counter()
    import convnext_nb.convnext
    print(time.perf_counter() - start, "timm" in sys.modules, flush=True)
    os._exit(0)
"""
    found = [line.split() for line in python(code).splitlines()]
    assert len(found) == 3 and min(float(seconds) for seconds, _ in found) < 0.3
    assert {timm for _, timm in found} == {"False"}


def test_checks_put_widgets_back():
    """After Run All, a toy must stand as its chapter describes it: checks ask `shown_at`."""
    for path in sorted((ROOT / "nbs").glob("*.ipynb")):
        if path.stem != "610_explore":  # teaches how a control is moved
            assert ".controls[" not in path.read_text(encoding="utf-8"), path.name
