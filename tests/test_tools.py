"""The scripts in tools/: what they make, and that they notice faults."""
import json
import sys

import headline
import kills
import nbformat
import pytest
import results
import seen
import torch
from docs import broken_links, code_cell, convert, markdown
from execute import execute
from nbdev.config import get_config
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell
from readme import NBS, cell_text
from train import run

from convnext_nb import data, train

TINY = train.Recipe(model="roadmap/sep_ds", epochs=1, batch_size=8, warmup_epochs=0,
                    model_args=dict(width_mult=0.25, depths=(1, 1, 1, 1), layer_scale=1.0))


def test_train_keeps_the_notebook_of_a_failed_run(tmp_path, capsys):
    source, target = tmp_path / "a.ipynb", tmp_path / "b.ipynb"
    cells = map(new_code_cell, ["print('first')", "1 / 0", "print('last')"])
    nbformat.write(new_notebook(cells=list(cells)), source)
    before = source.read_bytes()
    assert run(source, target) == 1
    said = capsys.readouterr()
    assert "first" in said.out and "last" not in said.out
    assert "ZeroDivisionError" in said.err and "Traceback" not in said.err
    assert [len(c.outputs) for c in nbformat.read(target, 4).cells] == [1, 1, 0]
    assert source.read_bytes() == before


@pytest.mark.parametrize("error", ["KeyboardInterrupt", "Interrupted"])  # Python's and `fit`'s
def test_train_calls_an_interrupt_an_interrupt(error, tmp_path, capsys):
    cell = new_code_cell(f"from convnext_nb.train import Interrupted\nraise {error}")
    nbformat.write(new_notebook(cells=[cell]), tmp_path / "a.ipynb")
    assert run(tmp_path / "a.ipynb", tmp_path / "b.ipynb") == 130
    assert "The notebook stopped: interrupted" in capsys.readouterr().err


def test_readme_shows_what_github_can_show():
    shown = new_code_cell("#| slow\n1 + 1")
    shown.outputs = [new_output("execute_result", {"text/plain": "2"})]
    assert cell_text(shown) == ["```python\n1 + 1\n```", "```text\n2\n```"]
    hidden = new_code_cell("#| echo: false\ntable()")
    hidden.outputs = [new_output("execute_result", {"text/markdown": "| a |", "text/plain": "x"})]
    assert cell_text(hidden) == ["| a |"]
    assert cell_text(new_code_cell("#| hide\n1")) == []
    picture = new_code_cell("plot()")
    picture.outputs = [new_output("display_data", {"image/png": "iVBO", "text/plain": "<Figure>"})]
    with pytest.raises(SystemExit, match="save the picture in image/"):
        cell_text(picture)


def test_readme_links_start_at_the_root():
    chapter = sorted(NBS.glob("0*.ipynb"))[0].name
    text = f"[a]({chapter}#x) [b](../LICENSE) [c](https://pytorch.org) [d](#here)"
    expected = f"[a](nbs/{chapter}#x) [b](LICENSE) [c](https://pytorch.org) [d](#here)"
    assert cell_text(new_markdown_cell(text)) == [expected]
    with pytest.raises(SystemExit, match="missing.ipynb"):
        cell_text(new_markdown_cell("[a](missing.ipynb)"))


def test_site_reports_broken_links(tmp_path):
    (tmp_path / "b.html").write_text('<h2 id="there">b</h2>')
    good = ["b.html", "b.html#there", "#here", "https://pytorch.org"]
    bad = ["b.html#gone", "c.html", "#no"]
    body = "".join(f'<a href="{link}">x</a>' for link in good + bad)
    (tmp_path / "a.html").write_text(f'<p id="here">{body}<img src="c.png"></p>')
    broken = {line.split(": ")[1] for line in broken_links(tmp_path)}
    assert broken == {*bad, "c.png"}


def test_site_links_to_pages():
    assert markdown("[a](110_cost.ipynb#b)") == "[a](cost.ipynb#b)"
    site = "{doc_host}{doc_baseurl}".format(**get_config().d)
    assert markdown(f"[`C.f`]({site}/cost.html#c.f)") == "[`C.f`](cost.ipynb#c)"
    assert markdown(f"[`_f`]({site}/cost.html#_f)") == "`_f`"
    assert markdown("::: {.callout-tip}\nx\n:::") == ":::{tip}\nx\n:::"


def test_site_needs_every_api_entry(tmp_path):
    path = tmp_path / "00_a.ipynb"
    front = new_raw_cell("---\ntitle: A\ndescription: Why?\n---")
    entry = new_code_cell("#| echo: false\nshow_doc(f)")
    nbformat.write(new_notebook(cells=[front, entry]), path)
    with pytest.raises(SystemExit, match="no API entry from show_doc"):
        convert(path)
    entry.outputs = [new_output("display_data", {"text/markdown": "---\n\n### f\n\nDoes it."})]
    nbformat.write(new_notebook(cells=[front, entry]), path)
    convert(path)
    sources = [c.source for c in nbformat.read(tmp_path / "a.ipynb", 4).cells]
    assert sources == ["# A\n\n> Why?", "## Reference", "### f\n\nDoes it."]


def test_site_replaces_widgets_and_refuses_errors():
    cell = new_code_cell("#| code-fold: true\nplay(f)")
    view = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "Play(children=())"}
    cell.outputs = [new_output("display_data", view)]
    code_cell(cell, "a")
    assert cell.source == "play(f)" and cell.metadata.tags == ["hide-input"]
    assert "JupyterLab" in cell.outputs[0].data["text/markdown"]
    cell.outputs = [new_output("error", ename="ValueError", evalue="no", traceback=[])]
    with pytest.raises(SystemExit, match="ValueError: no"):
        code_cell(cell, "a")


def test_outputs_are_the_same_each_time(tmp_path):
    path = tmp_path / "a.ipynb"
    code = ("import sys, ipywidgets\nprint('said', file=sys.stderr)\nprint('shown')\n"
            "ipywidgets.IntSlider()")
    nbformat.write(new_notebook(cells=[new_code_cell(code)]), path)
    execute(path)
    first = path.read_text()
    execute(path)
    assert path.read_text() == first
    cell = nbformat.read(path, 4).cells[0]
    assert [o.output_type for o in cell.outputs] == ["stream", "execute_result"]
    assert cell.outputs[0].text == "shown\n" and cell.execution_count is None


def test_a_failed_notebook_is_not_written(tmp_path):
    path = tmp_path / "a.ipynb"
    nbformat.write(new_notebook(cells=[new_code_cell("1 / 0")]), path)
    before = path.read_bytes()
    with pytest.raises(Exception, match="ZeroDivisionError"):
        execute(path)
    assert path.read_bytes() == before


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    "One epoch of a small network of the roadmap on few drawn images."
    return train.fit(TINY, data.Shapes(40, 20), tmp_path_factory.mktemp("run"), "cpu", False)[1]


def test_what_networks_see_is_measured_on_any_run(small_run):
    shapes = data.Shapes(10, 20)
    x, y, at = seen.images(shapes, shapes.val, 12)
    field = seen.fields([small_run.folder], x)
    assert all(0 < part["half"] <= 1 and 0 <= part["outside"] <= 1
               for part in (*field["trained"], field["fresh"]))
    net = seen.models.restore(small_run.folder)[0]
    masks = torch.zeros(len(x), 64, 64, dtype=torch.bool)
    masks[:, 16:48, 16:48] = True
    everywhere = seen.localised(net, x, y, torch.ones_like(masks))
    assert all(row["inside"] == pytest.approx(1) for row in everywhere.values())
    assert all(0 < row["inside"] < 1 for row in seen.localised(net, x, y, masks).values())
    rows = seen.blocks(net, x, y)["blocks"]
    assert [row["block"] for row in rows] == ["1.1", "2.1", "3.1", "4.1"]
    assert all(row["loudness"] > 0 and row["low"] <= row["middle"] <= row["high"] for row in rows)
    maps = seen.shown(small_run.folder, shapes)["maps"]
    assert json.loads(seen.compact(seen.rounded(dict(maps=maps))))


def test_seen_tells_at_once_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["seen.py", "no/data", str(tmp_path)])
    with pytest.raises((FileNotFoundError, ValueError), match="steps_holdout/ln"):
        seen.main()


def test_the_headline_is_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(headline, "NETWORKS", {TINY.model: TINY.model_args})
    monkeypatch.setattr(headline.data, "load", lambda word: data.Shapes(40, 20))
    monkeypatch.setattr(sys, "argv", ["headline.py", "--recipe", "pocket", "--epochs", "1",
                                      "--out", str(tmp_path), TINY.model])
    for _ in range(2):  # the second time it is finished
        headline.main()
        assert f"{TINY.model}: val top-1 " in capsys.readouterr().out


def test_kills_ends_with_the_same_bits(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kills.py", "--kills", "2"])
    assert kills.main() == 0
    assert "2 kills, the end is bit for bit the same" in capsys.readouterr().out


def test_results_lists_runs_and_their_readers(small_run, capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["results.py", "--readers"])
    results.main()
    found = set(capsys.readouterr().out.split())
    words = ("seeded(", "trained(", "runs.load(")
    readers = {f"nbs/{path.name}" for path in NBS.glob("*.ipynb")
               for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"
               and "#| export" not in cell.source and any(w in cell.source for w in words)}
    assert readers - {"nbs/265_runs.ipynb"} <= found, readers - found
