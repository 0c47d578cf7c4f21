"""JupyterLab in a real browser: a chapter runs, its slider moves, training is seen and stopped."""
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

pytest.importorskip("jupyterlab")
ROOT = Path(__file__).resolve().parent.parent
WAIT = 120_000  # milliseconds; on a busy machine a step takes tens of seconds
IDLE = ".jp-Notebook-ExecutionIndicator[data-status=idle]"
TRAINING = """
import time
from pathlib import Path
from convnext_nb import data, train
from convnext_nb.results import live

show = live("Live")
def watch(run):
    show(run)
    while Path(f"hold{len(run.metrics)}").exists(): time.sleep(0.05)  # the test looks meanwhile

shapes = data.Shapes(n_train=32, n_val=16)
size = dict(stem_stride=4, depths=[1, 1, 1, 1], dims=[8, 16, 32, 64])
recipe = train.Recipe(model="convnext_atto", model_args=size, epochs=4, batch_size=16,
                      warmup_epochs=1)
train.fit(recipe, shapes, "run", device="cpu", progress=False, watch=watch)
print("trained", 4, "epochs")"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    "The chapters, and a notebook that trains and waits for a look after epochs 1 and 2."
    folder = tmp_path_factory.mktemp("lab")
    for file in [*(ROOT / "nbs").glob("*.ipynb"), *(ROOT / "nbs").glob("*.json")]:
        shutil.copy(file, folder)
    nb = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(TRAINING.strip())])
    nb.metadata.kernelspec = {"name": "python3", "display_name": "Python 3", "language": "python"}
    nbformat.write(nb, folder / "training.ipynb")
    for epoch in (1, 2): (folder / f"hold{epoch}").touch()
    return folder


@pytest.fixture(scope="module")
def lab(folder):
    "The address of a JupyterLab in that folder, for this machine only and with a token."
    env = os.environ | {"JUPYTER_CONFIG_DIR": str(folder / ".config"),
                        "JUPYTER_DATA_DIR": str(folder / ".data")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--ip=127.0.0.1", "--port=0",
               "--IdentityProvider.token=secret", f"--ServerApp.root_dir={folder}", "--allow-root",
               "--LabApp.expose_app_in_browser=True"]
    with open(folder / ".log", "w") as log:
        server = subprocess.Popen(command, env=env, stdout=log, stderr=log)
    try:
        yield address(folder / ".log", server)
    finally:
        server.terminate()
        server.wait(60)


def address(log, server) -> str:
    "Where the server answers, as its log says."
    until = time.monotonic() + WAIT / 1000
    while time.monotonic() < until:
        found = re.search(r"http://127.0.0.1:\d+/", log.read_text())
        if found: return found[0]
        assert server.poll() is None, log.read_text()[-2000:]
        time.sleep(0.1)
    raise TimeoutError(log.read_text()[-2000:])


@pytest.fixture(scope="module")
def page(browser, lab):
    "JupyterLab with the shortest chapter that has a slider."
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    page.set_default_timeout(WAIT)
    page.goto(f"{lab}lab/tree/650_paths.ipynb?token=secret&reset")
    ready(page, "650_paths.ipynb")
    yield page
    page.close()


def ready(page, name: str):
    "The panel of an open notebook, once its kernel is there and has nothing to do."
    page.wait_for_function("""name => {
        const context = window.jupyterapp?.shell.currentWidget?.sessionContext;
        return context?.isReady && context.session?.path == name;
    }""", arg=name)
    panel = page.locator(".jp-NotebookPanel:not(.lm-mod-hidden)")
    panel.locator(IDLE).wait_for(state="attached")
    return panel


def run_all(page) -> None:
    "Starts all cells, as the menu does; does not wait for them."
    page.evaluate("() => { window.jupyterapp.commands.execute('notebook:run-all-cells') }")


def active(page) -> int:
    "The number of the selected cell."
    return page.evaluate("() => window.jupyterapp.shell.currentWidget.content.activeCellIndex")


def test_a_chapter_runs_and_its_slider_takes_the_arrow_keys(page):
    panel = ready(page, "650_paths.ipynb")
    run_all(page)
    errors = page.wait_for_function("""() => {
        const cells = [...window.jupyterapp.shell.currentWidget.content.model.cells];
        const run = cells.filter(cell => cell.type == 'code');
        const errors = run.flatMap(cell => cell.outputs.toJSON()).filter(out => out.ename);
        if (errors.length || run.every(cell => cell.executionCount)) return errors;
    }""")
    assert errors.json_value() == []
    panel.locator(IDLE).wait_for(state="attached")
    handle = panel.locator(".widget-slider .noUi-handle")
    handle.click()
    cell = active(page)
    for key, clock in [("ArrowRight", "2:30"), ("ArrowUp", "3:00"), ("ArrowLeft", "2:30"),
                       ("ArrowDown", "2:00")]:
        handle.press(key)
        panel.get_by_text(f"{clock} hours").wait_for()
        assert active(page) == cell, key


def test_training_shows_itself_stops_by_the_button_and_goes_on(page, folder):
    page.evaluate("() => { window.jupyterapp.commands.execute('docmanager:open', "
                  "{path: 'training.ipynb', factory: 'Notebook'}) }")
    panel = ready(page, "training.ipynb")
    run_all(page)
    curve = panel.locator(".jp-OutputArea-output img")
    curve.wait_for()
    first = curve.get_attribute("src")
    (folder / "hold1").unlink()
    page.wait_for_function("before => [...document.querySelectorAll('.jp-OutputArea-output img')]"
                           ".some(img => img.src != before)", arg=first)
    assert curve.count() == 1  # drawn again in place
    panel.locator("[data-jp-item-name=interrupt]").click()
    panel.get_by_text("saving, then stopping").wait_for()
    (folder / "hold2").unlink()
    panel.get_by_text("stopped after epoch 2 and saved").wait_for()
    panel.locator(IDLE).wait_for(state="attached")
    run = folder / "run"
    assert (run / "checkpoint.pt").exists() and not (run / "evidence.json").exists()
    run_all(page)
    panel.get_by_text("trained 4 epochs").wait_for()
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    assert (run / "evidence.json").exists()
