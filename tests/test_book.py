"""The chapters as a book: their parts, their sizes, their spelling, their exercises."""

import book
import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

KNOWN_GAPS = {  # this set may only shrink
    ("110_cost", "shape assert"), ("120_layers", "shape assert"), ("120_layers", "cost assert"),
    ("430_cli", "exercises"),
}
each_chapter = pytest.mark.parametrize("path", book.CHAPTERS, ids=lambda path: path.stem)


def test_chapters_have_their_parts():
    found = {(path.stem, part) for path in book.CHAPTERS for part in book.missing(path)}
    assert not found - KNOWN_GAPS, "these chapters lack these parts (tools/book.py says which)"
    assert not KNOWN_GAPS - found, "these have come: take them out of KNOWN_GAPS"


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


def test_prose_and_pictures_are_counted(chapter):
    picture = new_code_cell("#| fig-alt: a curve\n\nplot()\n")
    plain = new_code_cell("plot()")
    for cell in (picture, plain):
        cell.outputs = [new_output("display_data", {"image/png": "iVBO"})]
    path = chapter(new_markdown_cell("Four words of prose, `x = 1`. ![](a.png)"), picture, plain)
    assert book.pictures(path) == [True, False, False]
    assert book.words_per_line(path) == pytest.approx(6 / 2)


def test_misspelled_words_are_seen(chapter, monkeypatch):
    path = chapter(new_markdown_cell("We recieve it, by a kernel."))
    monkeypatch.setattr(book, "CHAPTERS", [path])
    line, = {line for line in book.misspelled() if path.stem in line}
    assert "recieve ==> receive" in line
