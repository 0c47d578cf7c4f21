"""JupyterLab in a real browser: a chapter runs, a widget moves, training shows itself and stops."""
import json
import os
import re
import subprocess
import sys
import time

import nbformat
import pytest
from browsers import browser  # noqa: F401  (a fixture)

pytest.importorskip("jupyterlab")
if not os.environ.get("LAB"):
    pytest.skip("JupyterLab in a browser takes a free machine: LAB=1", allow_module_level=True)
WAIT = 60_000  # milliseconds
CELLS = ["""from convnext_nb.explore import play
play(lambda n: f"{n} squared is {n * n}", n=(1, 9))""",
         """import torch
from convnext_nb import data, train
from convnext_nb.results import live
torch.set_num_threads(1)
shapes = data.Shapes(n_train=64, n_val=32)
recipe = train.Recipe(model="convnext_atto", model_args=dict(stem_stride=2), epochs=500,
                      batch_size=32, warmup_epochs=1)
train.fit(recipe, shapes, "run", device="cpu", progress=False, watch=live("Live"))"""]


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    "A JupyterLab on this machine only, with a token, in a folder with one notebook."
    folder = tmp_path_factory.mktemp("lab")
    nb = nbformat.v4.new_notebook(cells=list(map(nbformat.v4.new_code_cell, CELLS)))
    nb.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nb, folder / "chapter.ipynb")
    env = os.environ | {"JUPYTER_CONFIG_DIR": str(folder / ".config"),
                        "JUPYTER_DATA_DIR": str(folder / ".data")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0",
               "--IdentityProvider.token=secret", f"--ServerApp.root_dir={folder}", "--allow-root"]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        yield folder, address(folder / "log", server)
    finally:
        server.terminate()
        server.wait(20)


def address(log, server) -> str:
    "Where the server answers, as its log says."
    for _ in range(300):
        found = re.search(r"http://127.0.0.1:\d+/", log.read_text())
        if found: return found[0]
        assert server.poll() is None, log.read_text()[-2000:]
        time.sleep(0.1)
    raise TimeoutError(log.read_text()[-2000:])


@pytest.fixture(scope="module")
def page(browser, lab):  # noqa: F811
    "The notebook, opened in JupyterLab."
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.goto(f"{lab[1]}lab/tree/chapter.ipynb?token=secret&reset")
    page.locator(".jp-Notebook").wait_for(timeout=WAIT)
    page.locator("[data-status=idle]").first.wait_for(state="attached", timeout=WAIT)
    yield page
    page.close()


def run_cell(page, number: int) -> None:
    page.locator(".jp-CodeCell .cm-content").nth(number).click()
    page.keyboard.press("Control+Enter")


def test_a_widget_moves(page):
    shown = page.get_by_text("5 squared is 25")
    for _ in range(6):  # a cell that is run before the kernel is there is not run
        run_cell(page, 0)
        page.wait_for_timeout(10_000 if not shown.count() else 0)
        if shown.count(): break
    said = page.locator(".jp-OutputArea").all_inner_texts()
    assert shown.first.is_visible(), said
    page.locator(".widget-slider .noUi-handle").first.focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("6 squared is 36").wait_for(timeout=WAIT)


def test_training_shows_itself_and_an_interrupt_leaves_a_checkpoint(page, lab):
    folder = lab[0]
    run_cell(page, 1)
    curve = page.locator(".jp-OutputArea-output img")
    curve.first.wait_for(timeout=WAIT)
    first = curve.first.get_attribute("src")
    page.wait_for_function("before => document.querySelector('.jp-OutputArea-output img')"
                           ".src !== before", arg=first, timeout=WAIT)  # drawn again in place
    page.locator("[data-jp-item-name=interrupt]").first.click()
    error = page.locator("[data-mime-type='application/vnd.jupyter.error']").first
    error.wait_for(timeout=WAIT)
    assert "Interrupted" in error.inner_text()
    rows = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
    assert rows and (folder / "run/checkpoint.pt").exists()
