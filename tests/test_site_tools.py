"""tools/docs.py: what it makes of a notebook's cells, without building the site."""
import re
import subprocess
import sys
from configparser import ConfigParser
from importlib import import_module
from pathlib import Path

import docs
import nbformat
import pytest
import yaml
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_output

ROOT = Path(__file__).resolve().parent.parent


def code(source, *outputs):
    return new_code_cell(source, outputs=list(outputs))


PICTURE = new_output("display_data", {"image/png": "", "text/plain": "<Figure with 1 Axes>"})


def test_folds_what_is_not_the_lesson():
    assert docs.folded(code("import torch\nfrom torch import nn"), False) == "imports"
    assert docs.folded(code("assert 1 < 2\ntest_eq(3, 3)"), False) == "checks"
    assert docs.folded(code("conv = nn.Conv2d(3, 4, 1)\nassert conv"), False) is None
    draws = "fig, ax = plt.subplots()\nax.plot(x)\nax.set_title('Loss')"
    assert docs.folded(code(draws, PICTURE), False) == "code that draws this"
    assert docs.folded(code("x = 1"), True) == "solutions in code"
    assert docs.folded(code('check("share", 0.5)'), True) is None
    assert docs.folded(code("%timeit f(x)"), False) is None


def test_alt_text_says_what_is_seen():
    draws = code("ax.set_title('Loss of two runs')\nax.set_xlabel('epoch')", PICTURE)
    assert docs.alt_text(draws, "Two runs") == "Figure on Two runs: Loss of two runs, epoch"
    told = code("draw()", new_output("display_data", {"text/plain": "Loss over epoch"}))
    assert docs.alt_text(told, "Two runs") == "Loss over epoch"
    cell = code("#| fig-alt: A cat and a dog\nshow()", PICTURE)
    docs.code_cell(cell, "x.ipynb", {})
    assert cell.metadata.mystnb["image"]["alt"] == "A cat and a dog"


def test_numbers_stand_right():
    page = ("<table><tr><th>step</th><th>top-1</th><th>gain</th></tr>"
            "<tr><td>base</td><td>78.82</td><td>\u2013</td></tr>"
            "<tr><td>k7</td><td>80.57</td><td>+0.5 \u00b1 1.0</td></tr></table>")
    rows = BeautifulSoup(docs.align_numbers(page), "html.parser").find_all("tr")
    for row in rows:
        sides = [cell.get("class") for cell in row.find_all(["td", "th"])]
        assert sides == [None, ["number"], ["number"]]


def test_a_table_in_a_table_stays_whole():
    inner = "<table><tr><td>a</td></tr></table>"
    page = f"<table><tr><th>image 1</th><td>{inner}</td><td>{inner}</td></tr></table>"
    assert docs.align_numbers(page) == page


def test_code_marks_only_what_has_a_color():
    page = ('<pre><span class="k">def</span><span class="w"> </span><span class="nf">f</span>'
            '<span class="p">(</span><span class="n">x</span></pre><span class="n">y</span>')
    assert docs.without_plain_tokens(page) == (
        '<pre><span class="k">def</span> <span class="nf">f</span>(x</pre>'
        '<span class="n">y</span>')


def test_every_public_name_has_an_entry():
    index = docs.api_page({"convnext": "convnext", "layers": "layers"})
    assert "[`convnext_tiny`](convnext.ipynb#convnext_tiny)" in index
    assert "[`DropPath`](layers.ipynb#" in index
    entries = docs.without_entry("convnext", {"Block", "ConvNeXt"})
    assert any(entry.startswith("### convnext_tiny\n") for entry in entries)


def test_every_constant_has_an_entry():
    homes = docs.homes([path.name for path in docs.NBS.glob("[0-9]*.ipynb")])
    assert len(homes) > 30
    for module in homes:
        known = {name for name, places in docs.symbols().items() if module in places}
        entries = [entry.split()[1] for entry in docs.without_entry(module, known)]
        public = getattr(import_module(f"convnext_nb.{module}"), "__all__", [])
        assert entries == [name for name in public if name not in known], module


def test_prose_after_the_exercises_is_folded_in_the_notebook():
    for path in docs.NBS.glob("[0-9]*.ipynb"):
        in_exercises = False
        for cell in nbformat.read(path, 4).cells:
            if cell.cell_type != "markdown": continue
            if re.search("^#", cell.source, re.M): in_exercises = "## Exercises" in cell.source
            elif in_exercises:
                assert re.fullmatch(r"<details><summary>.+</summary>\n\n.+\n\n</details>",
                                    cell.source, re.S), (path.name, cell.source[:60])


def test_links_that_only_the_live_page_makes_are_checked(tmp_path):
    (tmp_path / "live").mkdir()
    (tmp_path / "micro.html").write_text('<h2 id="gelu">GELU</h2>')
    script = 'a("micro.html#gelu"); b("micro.html#relu", "no.html")'
    (tmp_path / "live/panels.js").write_text(script)
    assert docs.broken_links(tmp_path) == ["live/panels.js: micro.html#relu",
                                           "live/panels.js: no.html"]


def test_workflows_pass_the_linter():
    linter = Path(sys.executable).parent / "zizmor"
    if not linter.exists(): pytest.skip("zizmor is not installed: make .venv again")
    workflows = ROOT / ".github" / "workflows"
    done = subprocess.run([linter, "--offline", "--no-progress", workflows], text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    commands = {step.get("run") for path in workflows.glob("*.yml")
                for job in yaml.safe_load(path.read_text())["jobs"].values()
                for step in job["steps"]}
    assert {"make test", "make docs"} <= commands


def test_citation_agrees_with_settings():
    ini = ConfigParser(delimiters="=")
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    cfg = ini["DEFAULT"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert {"cff-version", "message", "title", "authors"} <= set(citation)  # what the format wants
    assert citation["version"] == cfg["version"]
    assert citation["license"] == cfg["license"]
    assert citation["repository-code"] == cfg["git_url"]
    assert citation["url"] == f"{cfg['doc_host']}{cfg['doc_baseurl']}/"


def test_every_chapter_installs_itself_in_colab():
    done = subprocess.run([sys.executable, ROOT / "tools" / "colab.py", "--check"], text=True,
                          capture_output=True)
    assert done.returncode == 0, done.stdout
