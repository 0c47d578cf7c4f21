"""The chapters as a book: their parts, their sizes, their spelling, their exercises."""

import ast
import re

import book
import fold
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

each_chapter = pytest.mark.parametrize("path", book.CHAPTERS, ids=lambda path: path.stem)


def test_chapters_have_their_parts():
    found = {path.stem: book.missing(path) for path in book.CHAPTERS}
    lacking = {stem: parts for stem, parts in found.items() if parts}
    assert not lacking, "these chapters lack these parts (tools/book.py says which)"


@each_chapter
def test_no_cell_is_long_and_no_output_large(path):
    assert not book.long_cells(path)
    assert book.output_bytes(path) < book.MOST_BYTES


def test_spelling():
    found = book.misspelled()
    assert not found, "mend it, or name it in [tool.codespell] of pyproject.toml"


@pytest.fixture
def chapter(tmp_path):
    "Writes a chapter of the walk from cells and says where it is."
    def write(*cells):
        path = tmp_path / "165_toy.ipynb"
        nbformat.write(new_notebook(cells=list(cells)), path)
        return path
    return write


WHOLE = [new_markdown_cell("# A\n\n> Why?"), new_markdown_cell("As in Table 10."),
         new_code_cell("maps = shapes(net)\ntest_eq(maps['a'], 3)"),
         new_code_cell("check_cost('k7')"), new_code_cell("play(f, a=(1, 2))"),
         new_markdown_cell("## Exercises\n\n1. How many?"),
         new_markdown_cell("## Recap\n\n| a | b |")]


@pytest.mark.parametrize("gone, part", list(enumerate(
    ["question", "source", "shape assert", "cost assert", "widget", "exercises", "recap"])))
def test_each_missing_part_is_seen(gone, part, chapter):
    assert book.missing(chapter(*WHOLE)) == set()
    path = chapter(*(cell for i, cell in enumerate(WHOLE) if i != gone))
    assert book.missing(path) == {part}
    elsewhere = path.rename(path.with_name("230_toy.ipynb"))
    assert book.missing(elsewhere) == {part} & set(book.EVERYWHERE)


def test_long_cells_and_large_outputs_are_seen(chapter):
    long, short = new_code_cell("a = 1\n" * 41), new_code_cell("b = 1\n" * 40)
    short.outputs = [new_output("stream", text="x" * 2_000_000)]
    path = chapter(long, short)
    assert book.long_cells(path) == ["a = 1"] and book.output_bytes(path) > book.MOST_BYTES


@pytest.mark.parametrize("path", sorted(fold.NBS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_solutions_and_setup_are_folded_in_jupyterlab(path):
    notebook = nbformat.read(path, 4)
    assert notebook == fold.with_folds(notebook), "run tools/fold.py"


def test_what_is_folded_and_what_is_not():
    folded = ["#| hide\nx = 1", "#| echo: false\ndraw()", "#| code-fold: true\nassert x",
              "#| eval: false\n#| echo: false\ndraw()", "#| default_exp cost"]
    shown = ["x = 1  # we hide nothing", "#| export\nx = 1", "#| fig-alt: hide\ndraw()"]
    cells = [new_code_cell(text) for text in folded + shown] + [new_markdown_cell(folded[0])]
    cells[-2].metadata["jupyter"] = {"source_hidden": True, "outputs_hidden": True}
    found = fold.with_folds(new_notebook(cells=cells))["cells"]
    assert [cell["metadata"] for cell in found[:len(folded)]] == [
        {"jupyter": {"source_hidden": True}}] * len(folded)
    assert [cell["metadata"] for cell in found[len(folded):]] == [
        {}, {}, {"jupyter": {"outputs_hidden": True}}, {}]


def test_prose_and_pictures_are_counted(chapter):
    picture = new_code_cell("#| fig-alt: a curve\n\nplot()\n")
    plain = new_code_cell("plot()")
    for cell in (picture, plain):
        cell.outputs = [new_output("display_data", {"image/png": "iVBO"})]
    path = chapter(new_markdown_cell("Four words of prose, `x = 1`. ![](a.png)"), picture, plain)
    assert book.pictures(path) == [True, False, False]
    assert book.words_per_line(path) == pytest.approx(6 / 2)


def test_misspelled_words_are_seen(chapter, monkeypatch):
    typo = "rec" + "ieve"
    path = chapter(new_markdown_cell(f"We {typo} it, by a kernel."))
    monkeypatch.setattr(book, "CHAPTERS", [path])
    line, = {line for line in book.misspelled() if path.stem in line}
    assert f"{typo} ==> receive" in line


# exercises: each has a name that the text says, an answer that is checked, and hints

NOT_MARKED = {"320_final"}  # its exercises are trainings of one's own
marked = pytest.mark.parametrize(
    "path", [path for path in book.CHAPTERS if path.stem not in NOT_MARKED],
    ids=lambda path: path.stem)


def exercises(path):
    "The text of the exercises, and the cells after it."
    cells = nbformat.read(path, 4).cells
    start = next(i for i, cell in enumerate(cells) if "## Exercises\n" in cell.source)
    return cells[start].source.split("## Exercises\n")[1], cells[start + 1:]


def checker_of(cells):
    "The names of the exercises that are checked, and the hints to each."
    for cell in cells:
        if "checker(" not in cell.source: continue
        call = next(node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, ast.Call)
                    and getattr(node.func, "id", "") == "checker")
        hints = {word.arg: word.value for word in call.keywords}.get("hints")
        names = [key.value for key in call.args[0].keys]
        return names, ast.literal_eval(hints) if hints else {}
    return [], {}


def words(code):
    "The strings and the names of keyword arguments in a cell."
    nodes = list(ast.walk(ast.parse(code)))
    return ({node.value for node in nodes if isinstance(node, ast.Constant)}
            | {node.arg for node in nodes if isinstance(node, ast.keyword)})


def test_each_chapter_has_exercises():
    for path in book.CHAPTERS:
        numbers = re.findall(r"^(\d)\. ", exercises(path)[0], re.M)
        assert 3 <= len(numbers) <= 5 and numbers == list("12345")[:len(numbers)], path.stem


@marked
def test_exercises_are_named_and_checked_both_ways(path):
    text, cells = exercises(path)
    names, hints = checker_of(cells)
    assert names
    told = [name.rstrip(".") for name in re.findall(r"\*\*(.+?)\*\*", text)]
    assert set(names) <= set(told), "the text has to say the names"
    code = [cell for cell in cells if cell.cell_type == "code"]
    right = [cell for cell in code if "Yes" in cell.source]
    for name in names:
        assert any(name in words(cell.source) for cell in right), f"no right answer to {name!r}"
    assert all("#| code-fold: true" in cell.source for cell in right), "solutions are folded"
    guesses = [cell for cell in code if "check(" in cell.source and cell not in right
               and "code-fold" not in cell.source]
    assert any("Not yet: " in str(cell.outputs) for cell in guesses), "no wrong answer is shown"
    if path.stem < "3":
        assert set(hints) == set(names) and all(hints.values())
