"""What leads through the book: glossary, paths, the table of the paper, slides, and every Next."""
import json
import re
from pathlib import Path

import nbformat
import pytest
import slides
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"


def prose(chapter: Path) -> str:
    "All Markdown of a notebook."
    cells = json.loads(chapter.read_text(encoding="utf-8"))["cells"]
    return "\n".join("".join(c["source"]) for c in cells if c["cell_type"] == "markdown")


def headings(text: str) -> set[str]:
    return set(re.findall(r"^#+ (.+?)\s*$", text, re.M))


def bold(text: str, term: str) -> bool:
    "Whether the term, without what stands in parentheses, is in bold somewhere."
    words = r"[ -]".join(map(re.escape, re.split("[ -]", term.partition(" (")[0])))
    return bool(re.search(rf"\*\*[^*]*?\b{words}(?:s|es)?\b[^*]*\*\*", text, re.I))


def wrong_terms(entries: list[dict], folder: Path) -> list[str]:
    "What is wrong with a glossary: no chapter, a term not in bold there, too long, twice."
    wrong = []
    for entry in entries:
        term, path = entry["term"], folder / entry["chapter"]
        if not path.exists(): wrong.append(f"{term}: no chapter {path.name}")
        elif not bold(prose(path), term): wrong.append(f"{term}: not in bold in {path.name}")
        sentences = len(re.findall(r"[.!?](?: |$)", entry["meaning"]))
        if sentences > 2: wrong.append(f"{term}: too long")
    terms = [entry["term"] for entry in entries]
    return wrong + [f"{term}: twice" for term in set(terms) if terms.count(term) > 1]


def wrong_places(rows: list[dict], folder: Path, key: str) -> list[str]:
    "Every row of a table that names a chapter, or a heading in it, that does not exist."
    wrong = []
    for row in rows:
        path = folder / row["chapter"]
        if not path.exists(): wrong.append(f"no chapter {row['chapter']}")
        elif row[key] and row[key] not in headings(prose(path)):
            wrong.append(f"{row['chapter']} has no heading {row[key]!r}")
    return wrong


def read(name: str):
    return json.loads((NBS / name).read_text(encoding="utf-8"))


def test_glossary():
    assert not wrong_terms(read("glossary.json"), NBS)


def test_glossary_notices_faults(tmp_path):
    nb = new_notebook(cells=[new_markdown_cell("# A\n\nA **stem** and stages."),
                             new_code_cell("# **stage**")])
    nbformat.write(nb, tmp_path / "a.ipynb")
    entry = dict(term="stem", chapter="a.ipynb", meaning="The layers before the first block.")
    assert not wrong_terms([entry], tmp_path)
    assert wrong_terms([entry, entry], tmp_path) == ["stem: twice"]
    assert wrong_terms([entry | dict(term="stage")], tmp_path) == ["stage: not in bold in a.ipynb"]
    assert wrong_terms([entry | dict(chapter="b.ipynb")], tmp_path) == ["stem: no chapter b.ipynb"]
    assert wrong_terms([entry | dict(meaning="One. Two. Three. Four.")], tmp_path)


def test_paper_table():
    rows = read("paper.json")
    assert not wrong_places(rows, NBS, "heading")
    sections = {row["section"] for row in rows}
    assert sections >= {f"V2 {n}" for n in range(1, 8)} | {"V2 A.1"}
    assert sections >= {"1", "2.1", "2.2", "2.3", "2.4", "2.5", "2.6", "3.1", "3.2", "3.3",
                        "4", "5", "6", "A.1", "A.2", "A.3", "B", "C", "D", "E", "F"}
    assert wrong_places([rows[0] | dict(heading="Nowhere")], NBS, "heading")
    assert wrong_places([rows[0] | dict(chapter="999_nothing.ipynb")], NBS, "heading")


def test_next_leads_through_all_chapters_in_order():
    chapters = sorted(NBS.glob("[0-9]*.ipynb"))
    for path, after in zip(chapters, chapters[1:]):
        last = prose(path).rpartition("**Next:**")[2]
        assert re.findall(r"\]\((\w+\.ipynb)\)", last)[:1] == [after.name], path.name


def test_paths_name_chapters_and_their_headings():
    for stop in [stop for stops in read("paths.json").values() for stop in stops]:
        if not stop["chapter"]: continue
        found = headings(prose(NBS / stop["chapter"]))
        for name in re.findall(r"(?<!\*)\*([^*]+)\*(?!\*)", stop["do"]):
            if name[0].isupper(): assert name in found, (stop["chapter"], name)


def test_slides(tmp_path):
    shown = new_code_cell("1 + 1", outputs=[new_output("execute_result", {"text/plain": "2"})])
    hidden = new_code_cell("#| hide\nsecret()")
    folded = new_code_cell("#| echo: false\npicture()", outputs=[new_output(
        "display_data", {"text/html": "<b>drawn</b>", slides.WIDGET: {}})])
    cells = [new_markdown_cell("# Title\n\n> Question?"), new_markdown_cell("Text.\n\n## Part"),
             shown, hidden, folded, new_markdown_cell("See [it](b.ipynb).\n\n### Next part")]
    nbformat.write(new_notebook(cells=cells), tmp_path / "a.ipynb")
    page = slides.build([dict(chapter="a.ipynb", section="Part")], tmp_path)
    assert page.count("<section") == 2 and "drawn" in page and "picture" not in page
    assert "secret" not in page and "Next part" not in page and "Question" not in page
    assert "b.ipynb" not in page and "See it." in page
    assert not re.search(r"""<(script|link|img)[^>]*(src|href)=["']?(https?:)?//""", page)
    page = slides.build([dict(chapter="a.ipynb", section="", most=1)], tmp_path)
    assert page.count("<section") == 1 and "Question" in page


@pytest.mark.parametrize("entry, said", [
    (dict(chapter="b.ipynb", section=""), "no chapter b.ipynb"),
    (dict(chapter="a.ipynb", section="Gone"), "no heading 'Gone'")])
def test_slides_name_what_is_missing(entry, said, tmp_path):
    nbformat.write(new_notebook(cells=[new_markdown_cell("# Title")]), tmp_path / "a.ipynb")
    with pytest.raises(SystemExit, match=said):
        slides.build([entry], tmp_path)


@pytest.mark.parametrize("chapter, source, key", [
    ("650_paths", "paths.json", "do"), ("660_teaching", "slides.json", "section"),
    ("670_glossary", "glossary.json", "meaning")])
def test_stored_tables_are_those_of_the_files(chapter, source, key):
    "Sites and GitHub show the outputs: after a change of the file the page must run again."
    rows = read(source)
    if isinstance(rows, dict): rows = [row for group in rows.values() for row in group]
    notebook = nbformat.read(NBS / f"{chapter}.ipynb", 4)
    shown = "".join(output.get("data", {}).get("text/markdown", "") for cell in notebook.cells
                    for output in cell.get("outputs", []))
    missing = [row[key] for row in rows if row[key] not in shown]
    assert not missing, f"make outputs ARGS=nbs/{chapter}.ipynb"
