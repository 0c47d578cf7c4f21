"""The scripts in tools/: what they make, and that they notice faults."""
import json
import os
import re
import sys
from argparse import Namespace
from concurrent.futures import wait
from dataclasses import replace

import answers
import check
import docs
import headline
import kills
import nbformat
import places
import plain_install
import pytest
import results
import seen
import torch
import train as train_tool
from docs import broken_links, code_cell, contents, convert, markdown, wrong_names
from execute import execute
from nbdev.config import get_config
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output, new_raw_cell
from readme import NBS, build, cell_text
from symbols import meanings
from train import run

from convnext_nb import cost, data, models, runs, train
from convnext_nb import seen as measures

TINY = train.Recipe(model="roadmap/sep_ds", epochs=1, batch_size=8, warmup_epochs=0,
                    model_args=dict(width_mult=0.25, depths=(1, 1, 1, 1), layer_scale=1.0))


def test_train_keeps_the_notebook_of_the_run_before(tmp_path):
    source, target = tmp_path / "a.ipynb", tmp_path / "b.ipynb"
    for said in ("first", "second"):
        nbformat.write(new_notebook(cells=[new_code_cell(f"print('{said}')")]), source)
        assert run(source, target) == 0
    assert "first" in (tmp_path / "b-before.ipynb").read_text()
    assert "second" in target.read_text()


def test_a_notebook_that_was_changed_while_it_ran_is_not_written(tmp_path):
    path = tmp_path / "a.ipynb"
    edit = "from pathlib import Path; Path('a.ipynb').write_text('saved meanwhile')"
    nbformat.write(new_notebook(cells=[new_code_cell(edit)]), path)
    with pytest.raises(SystemExit, match="a.ipynb was changed while it ran"): execute(path)
    assert path.read_text() == "saved meanwhile"


def test_a_rehearsal_stays_out_of_the_results(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["headline.py", "--images", "8", "convnext_tiny"])
    with pytest.raises(SystemExit): headline.main()
    assert "needs an --out of its own" in capsys.readouterr().err


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
    chapter = sorted(NBS.glob("[0-9]*.ipynb"))[0].name
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
    assert markdown("[a](110_cost.ipynb#b)", {}) == "[a](cost.ipynb#b)"
    assert markdown("::: {.callout-tip}\nx\n:::", {}) == ":::{tip}\nx\n:::"
    site = "{doc_host}{doc_baseurl}".format(**get_config().d)
    meant = {"C.f": "cost.html#c.f", "fit": "train.html#fit", "_f": "cost.html#_f"}
    assert markdown(f"[`C.f`]({site}/cost.html#c.f)", meant) == "[`C.f`](cost.ipynb#c)"
    assert markdown(f"[`fit()`]({site}/data.html#fit)", meant) == "[`fit()`](train.ipynb#fit)"
    assert markdown(f"[`_f`]({site}/cost.html#_f)", meant) == "`_f`"
    assert markdown(f"[`step`]({site}/roadmap.html#step)", meant) == "`step`"


@pytest.mark.parametrize("code, name, page", [
    ("", "load", None),  # data's, runs' or weights'?
    ("#| default_exp weights", "load", "weights"),
    ("#| default_exp weights\nfrom convnext_nb import data", "load", "weights"),
    ("from convnext_nb.runs import load", "load", "runs"),
    ("from convnext_nb.runs import (load,\n    machine)\nfrom convnext_nb import data",
     "load", "runs"),
    ("from convnext_nb import data, cost", "load", "data"),
    ("from convnext_nb import data, runs", "load", None),
    ("", "LayerNorm2d", "layers"),
    ("", "step", None),  # a plain word, or roadmap's?
    ("from convnext_nb import roadmap", "step", "roadmap"),
])
def test_a_name_means_what_its_chapter_imports(code, name, page):
    chapter = new_notebook(cells=[new_markdown_cell(f"`{name}`"), new_code_cell(code)])
    found = meanings(chapter).get(name)
    assert found == (page and f"{page}.html#{name.lower()}")


def test_site_reports_names_that_lead_to_another_page(tmp_path):
    links = ["cost.html#count", "layers.html#count", "https://pytorch.org/count"]
    body = "".join(f'<p><a href="{link}"><code><span>count</span></code></a></p>' for link in links)
    (tmp_path / "a.html").write_text(body + '<a href="layers.html">count</a> <code>count</code>')
    wrong, = wrong_names(tmp_path)
    assert wrong.startswith("a.html: `count` leads to layers.html#count, not to ")
    assert "cost.html" in wrong


def test_site_has_every_chapter_in_a_part():
    chapters = [path.name for path in NBS.glob("[0-9]*.ipynb")]
    shown = contents(chapters)
    assert ":caption: 1. The walk" in shown
    pages = [line for block in shown.split("\n\n") for line in block.splitlines()]
    assert all(pages.count(name.partition("_")[2].removesuffix(".ipynb")) == 1
               for name in chapters)


def test_site_needs_every_api_entry(tmp_path, monkeypatch):
    monkeypatch.setattr(docs, "NBS", tmp_path)
    path = tmp_path / "00_a.ipynb"
    front = new_raw_cell("---\ntitle: A\ndescription: Why?\n---")
    entry = new_code_cell("#| echo: false\nshow_doc(f)")
    nbformat.write(new_notebook(cells=[front, entry]), path)
    with pytest.raises(SystemExit, match="no API entry from show_doc"):
        convert(path, {})
    entry.outputs = [new_output("display_data", {"text/markdown": "---\n\n### f\n\nDoes it."})]
    nbformat.write(new_notebook(cells=[front, entry]), path)
    convert(path, {})
    sources = [c.source for c in nbformat.read(tmp_path / "a.ipynb", 4).cells]
    assert sources[0].startswith("# A\n\n> Why?") and "Open in Colab" in sources[0]
    assert sources[1:] == ["## Reference", "### f\n\nDoes it."]


@pytest.mark.parametrize("code, tags", [
    ("import torch\nfrom convnext_nb import cost", ["hide-input"]),
    ("#| echo: false\nimport torch", ["remove-input"]),
    ("import torch\ntorch.manual_seed(0)", []), ("%matplotlib inline\nimport torch", [])])
def test_site_folds_imports(code, tags):
    cell = new_code_cell(code)
    code_cell(cell, "a", {})
    assert cell.metadata.tags == tags


def test_site_replaces_widgets_and_refuses_errors():
    cell = new_code_cell("#| code-fold: true\nplay(f)")
    view = {"application/vnd.jupyter.widget-view+json": {}, "text/plain": "Play(children=())"}
    cell.outputs = [new_output("display_data", view)]
    code_cell(cell, "a", {})
    assert cell.source == "play(f)" and cell.metadata.tags == ["hide-input"]
    assert "JupyterLab" in cell.outputs[0].data["text/markdown"]
    cell.outputs = [new_output("error", ename="ValueError", evalue="no", traceback=[])]
    with pytest.raises(SystemExit, match="ValueError: no"):
        code_cell(cell, "a", {})


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


@pytest.fixture
def out(tmp_path, monkeypatch):
    "A folder of its own for what tools/check.py writes."
    monkeypatch.setattr(check, "OUT", tmp_path / "out")
    check.OUT.mkdir()
    return check.OUT


def test_check_counts_what_pytest_passed_failed_and_skipped(out, tmp_path, capfd):
    (tmp_path / "test_some.py").write_text("""import pytest
@pytest.fixture
def broken(): raise OSError
def test_good(): pass
def test_bad(): assert False
def test_error(broken): pass
@pytest.mark.skipif(True, reason="needs a GPU")
@pytest.mark.parametrize("i", [1, 2])
def test_left_out(i): pass
""")
    found = check.pytest(str(tmp_path))
    assert str(found) == "1 passed, 2 failed, 2 skipped"
    assert found.skipped == {"needs a GPU": 2}


@pytest.mark.parametrize("text", [None, "", "import no_such_module", "raise SystemExit(3)"])
def test_check_fails_if_pytest_finds_no_test(text, out, tmp_path, capfd):
    if text is not None: (tmp_path / "test_none.py").write_text(text)
    assert str(check.pytest(str(tmp_path))) == "0 passed, 1 failed, 0 skipped"


@pytest.mark.parametrize("results, code, said", [
    ([True, True], 0, ["3 passed, 0 failed, 0 skipped"]),
    ([True, False], 1, ["FAILED: b", "2 passed, 1 failed, 0 skipped"]),
    ([True, check.Count(4, 1, check.Counter({"no GPU": 2, "no data": 1}))], 1,
     ["2 skipped: no GPU", "1 skipped: no data", "FAILED: b", "6 passed, 1 failed, 3 skipped"]),
])
def test_check_ends_with_the_count(results, code, said, out, monkeypatch, capsys):
    checks = {name: (lambda found=found: found) for name, found in zip("ab", results)}
    monkeypatch.setattr(check, "CHECKS", checks)
    monkeypatch.setattr(check, "files", dict)
    assert check.main() == code
    assert capsys.readouterr().out.splitlines()[-len(said):] == said
    assert (out / "checks.txt").read_text() == f"{said[-1]}\n"


def test_plain_install_borrows_torch_alone(tmp_path):
    borrowed = plain_install.borrow(tmp_path / "borrowed")
    assert "torch" in borrowed and not {"fastcore", "timm", "pillow"} & set(borrowed)
    assert (tmp_path / "borrowed" / "torch" / "__init__.py").exists()
    assert list((tmp_path / "borrowed").glob("torch-*.dist-info"))


def test_plain_install_says_what_failed(tmp_path, capfd):
    assert plain_install.works(sys.executable, "-c", "print('quiet')", cwd=tmp_path)
    assert not plain_install.works(sys.executable, "-c", "print('loud'); 1 / 0", cwd=tmp_path)
    said = capfd.readouterr().out
    assert "ok    " in said and "FAILED" in said
    assert "ZeroDivisionError" in said and "\nloud" in said and "\nquiet" not in said
    assert "cnx_predict" in plain_install.commands()


@pytest.fixture(scope="module")
def small_run(tmp_path_factory):
    "One epoch of a small network of the roadmap on few drawn images."
    return train.fit(TINY, data.Shapes(40, 20), tmp_path_factory.mktemp("run"), "cpu", False)[1]


def test_what_networks_see_is_measured_on_any_run(small_run):
    shapes = data.Shapes(10, 20)
    x, y, _ = seen.sample(shapes, 12)
    field = seen.fields(small_run.folder.parent, [small_run.folder.name], x)
    assert field["runs"] == [small_run.folder.name]
    assert all(0 < part["half"] <= 1 and 0 <= part["outside"] <= 1
               for part in (*field["trained"], field["fresh"]))
    net = seen.network(small_run.folder.parent, small_run.folder.name)
    masks = torch.zeros(len(x), 64, 64, dtype=torch.bool)
    masks[:, 16:48, 16:48] = True
    everywhere = measures.cam_in_boxes(net, x, y, torch.ones_like(masks))
    assert all(row["inside"] == pytest.approx(1) for row in everywhere.values())
    assert all(0 < row["inside"] < 1 for row in measures.cam_in_boxes(net, x, y, masks).values())
    rows = measures.without_each_block(net, x, y)["blocks"]
    assert [row["block"] for row in rows] == ["1.1", "2.1", "3.1", "4.1"]
    assert all(row["loudness"] > 0 and row["low"] <= row["middle"] <= row["high"] for row in rows)
    maps = measures.true_and_rival(net, shapes)["maps"]
    assert json.loads(seen.compact(seen.rounded(dict(maps=maps))))


def test_answers_of_two_networks_are_compared(small_run, tmp_path, monkeypatch):
    shapes = data.Shapes(40, 20)
    other = train.fit(replace(TINY, seed=1), shapes, tmp_path / "other", "cpu", False)[1]
    monkeypatch.setattr(answers.data, "load", lambda word: shapes)
    monkeypatch.setattr(answers, "SIZES", (48, 64))
    monkeypatch.setattr(sys, "argv", ["answers.py", "--out", str(tmp_path / "found.json"),
                                      str(small_run.folder), str(other.folder)])
    answers.main()
    found = json.loads((tmp_path / "found.json").read_text())
    ours, theirs = small_run.folder.name, "other"
    top1 = {name: found["networks"][name]["top1_by_size"]["64"] for name in (ours, theirs)}
    assert top1 == {run.folder.name: run.evidence["val_top1"] for run in (small_run, other)}
    only = found["alone"][f"{ours}, {theirs}"]
    assert (only[ours] - only[theirs]) / len(shapes.val) == pytest.approx(
        (top1[ours] - top1[theirs]) / 100)


def test_seen_says_at_once_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["seen.py", "no/data", str(tmp_path)])
    with pytest.raises((FileNotFoundError, ValueError), match="steps_holdout/ln"):
        seen.main()


def test_seen_names_runs_by_family_wherever_they_lie(tmp_path):
    for name in ("k7", "k7-s2"):
        (tmp_path / "steps_tiny20" / name).mkdir(parents=True)
        (tmp_path / "steps_tiny20" / name / "evidence.json").write_text("{}")
    assert seen.seeds_of(tmp_path, "k7") == ["steps_tiny20/k7", "steps_tiny20/k7-s2"]


def test_the_headline_is_one_command(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(headline, "NETWORKS", {TINY.model: (TINY.model, TINY.model_args)})
    monkeypatch.setattr(headline.data, "load", lambda word: data.Shapes(40, 20))
    monkeypatch.setattr(sys, "argv", ["headline.py", "--recipe", "pocket", "--epochs", "1",
                                      "--out", str(tmp_path), TINY.model])
    for _ in range(2):  # the second time it is finished
        headline.main()
        assert f"{TINY.model}: val top-1 " in capsys.readouterr().out
    assert (tmp_path / f"{TINY.model}-e1" / "evidence.json").exists()
    assert headline.FAMILY.parent == NBS / "runs"


@pytest.mark.parametrize("half, swin", [(False, 1.43), (True, 0.362)])
def test_the_headline_compares_networks_of_equal_cost(half, swin):
    "Also Swin: windows of 7 would pad its maps, and cost 40 % more."
    nets = {name: cost.on_meta(models.create, model, 200, **args)
            for name, (model, args) in headline.NETWORKS.items()
            if (name in headline.HALF) == half}
    gmacs = {name: cost.count(net, 64).gmacs for name, net in nets.items()}
    assert len(gmacs) == 3 and max(gmacs.values()) < 1.15 * min(gmacs.values())
    assert list(gmacs.values())[2] == pytest.approx(swin, abs=0.005)
    for net in nets.values(): cost.count(net, 48)  # images may grow


def test_the_headline_stops_in_time_and_goes_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(headline, "NETWORKS", {TINY.model: (TINY.model, TINY.model_args)})
    monkeypatch.setattr(headline.data, "load", lambda word: data.Shapes(40, 20))
    line = ["headline.py", "--epochs", "3", "--images", "32", "--out", str(tmp_path), TINY.model]
    class Timer(headline.threading.Timer):
        def start(self): timers.append(self)
    timers, end_epoch = [], headline.train.end_epoch
    def ended(*args):  # the time is up after the first epoch
        end_epoch(*args)
        timers[0].function()
    with monkeypatch.context() as m:
        m.setattr(headline.threading, "Timer", Timer)
        m.setattr(headline.train, "end_epoch", ended)
        m.setattr(sys, "argv", [*line, "--minutes", "9"])
        with pytest.raises(SystemExit, match="stopped .* and saved; the same call goes on"):
            headline.main()
    folder = tmp_path / f"{TINY.model}-e3"
    assert timers[0].interval == 540 and len(runs.Run(folder).metrics) == 1
    monkeypatch.setattr(sys, "argv", line)
    headline.main()
    assert "val top-1" in capsys.readouterr().out
    asked = runs.Run(folder).recipe
    assert asked["data"]["train_images"] == 32 and not asked["recipe"]["compile"]


def test_kills_ends_with_the_same_bits(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["kills.py", "--kills", "2"])
    assert kills.main() == 0
    said = capsys.readouterr().out
    assert "2 kills, the end is bit for bit the same" in said
    counts = said.split("kills in each epoch: ")[1].splitlines()[0]
    found = [int(n) for n in counts.split(", ")]
    assert len(found) == 4 and sum(found[:2]) == sum(found[2:]) == 1  # one in each half


def test_results_lists_runs_and_their_readers(capsys, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["results.py", "--readers"])
    results.main()
    found = set(capsys.readouterr().out.split())
    for name in ("160_macro", "340_measured", "350_seen", "index"):
        assert f"nbs/{name}.ipynb" in found
    assert "nbs/110_cost.ipynb" not in found
    monkeypatch.setattr(sys, "argv", ["results.py"])
    monkeypatch.chdir(NBS)
    results.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == f"{len(lines) - 1} runs" and len(lines) > 100
    assert any(line.startswith("hour/tuned ") and "top-1 38.5 %" in line for line in lines)


def test_results_tells_an_unfinished_run(small_run):
    assert "top-1" in results.line(small_run)
    (small_run.folder / "evidence.json").rename(small_run.folder / "kept.json")
    said = results.line(small_run)
    (small_run.folder / "kept.json").rename(small_run.folder / "evidence.json")
    assert said.endswith("unfinished, 1 epochs done")


FAMILIES = sorted({path.parent.parent for path in NBS.glob("runs/*/*/recipe.json")})


@pytest.mark.parametrize("family", FAMILIES, ids=lambda path: path.name)
def test_each_family_says_what_its_files_say(family):
    said = (family / "README.md").read_text().splitlines()
    missing = [line for line in results.facts(family) if line not in said]
    assert not missing, f"{family}/README.md lacks {missing} (python tools/results.py --families)"


def test_the_measurements_say_what_their_files_say():
    said = (NBS / "runs/measured/README.md").read_text()
    for path in NBS.glob("runs/measured/*.json"):
        section = said.split(f"## {path.name}\n")[1].split("\n## ")[0].splitlines()
        assert set(results.file_facts(path)) <= set(section), path.name


def test_readmes_of_runs_link_to_what_there_is():
    for path in NBS.glob("runs/**/README.md"):
        for target in re.findall(r"\]\(([^)#]+)", path.read_text()):
            assert (path.parent / target).exists(), f"{path}: {target}"


def test_readme_lists_every_chapter_and_module():
    text = build()
    for path in NBS.glob("[0-9]*.ipynb"):
        assert f"](nbs/{path.name}) | " in text, f"make outputs ARGS=nbs/index.ipynb: {path.name}"
    for path in (NBS.parent / "convnext_nb").glob("[a-z]*.py"):
        assert f"| `{path.stem}` | " in text, f"make outputs ARGS=nbs/index.ipynb: {path.stem}"


def test_facts_of_a_family_with_an_unfinished_run_and_without_git(tmp_path, small_run):
    assert results.distinct(["b", None, "a"]) == "None, a, b"
    for name in ("whole", "begun"):
        run = runs.Run(tmp_path / name)
        run.make()
        runs.write_json(run.folder / "recipe.json", small_run.recipe)
    runs.write_json(tmp_path / "whole/evidence.json", small_run.evidence)
    assert results.facts(tmp_path)[0].startswith("- Runs: 1 (")


def test_places_are_meant_from_where_the_user_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TINY_IMAGENET", "data/tiny.zip")
    monkeypatch.setenv("CONVNEXT_NB_DATA", "~/packed")
    places.set_places()
    assert os.environ["TINY_IMAGENET"] == str(tmp_path / "data/tiny.zip")
    assert os.environ["CONVNEXT_NB_DATA"] == str(tmp_path / "home/packed")
    monkeypatch.setenv("TINY_IMAGENET", "")
    places.set_places()
    assert os.environ["TINY_IMAGENET"] == ""


def test_make_train_takes_places_from_home_and_no_data_as_auto(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pets").mkdir()
    asked = []
    monkeypatch.setattr(train_tool, "run", lambda source, target: asked.append(
        (os.environ["DATA"], target)) or 0)
    for words, found in (("~/pets", str(tmp_path / "pets")), ("", "auto")):
        monkeypatch.setattr(sys, "argv", ["train.py", "--data", words, "--out", "~/results"])
        assert train_tool.main() == 0
        assert asked.pop() == (found, tmp_path / "results" / "320_final.ipynb")


def test_an_interrupt_before_the_kernel_works_is_not_lost(tmp_path, capsys, monkeypatch):
    cells = [new_code_cell("import time\nprint('begun')\ntime.sleep(60)\nprint('ended')")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "a.ipynb")
    calls = []
    def interrupted(jobs, timeout=None):
        calls.append(timeout)
        if len(calls) == 1: raise KeyboardInterrupt  # before there is a kernel
        return wait(jobs, timeout)
    monkeypatch.setattr(train_tool, "wait", interrupted)
    assert run(tmp_path / "a.ipynb", tmp_path / "b.ipynb") == 130
    assert "ended" not in capsys.readouterr().out


def test_without_git_nothing_passes(monkeypatch):
    monkeypatch.setattr(check, "call", lambda *args, **kwargs: Namespace(returncode=128, stdout=""))
    with pytest.raises(SystemExit, match="git does not say"): check.files()
