"""Make slides for a class from the chapters: nbs/slides.json -> out/slides.html. Runs no lesson.

    python tools/slides.py                    the sections of nbs/slides.json
    python tools/slides.py plan.json a.html   sections of your own choice

The file is one HTML page that needs no network: a slide a screen, turned by Page Down. A plan is
a list of {"chapter": file in nbs/, "section": one of its headings, or "" for its opening}, and
"most" says how many slides of a section to take at most.
"""
import html
import json
import re
import sys
from pathlib import Path

import nbformat
from nbconvert import HTMLExporter
from nbformat.v4 import new_markdown_cell, new_notebook
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
WIDGET = "application/vnd.jupyter.widget-view+json"
HEADING = re.compile(r"#+ (.+)")
HIDDEN = re.compile(r"^#\|\s*(hide|export|exports|default_exp|slow|gpu)\b", re.M)
ONLY_OUTPUT = re.compile(r"^#\|\s*(echo: *false|code-fold: *true|hide_input)", re.M)
STYLE = """
html { scroll-snap-type: y mandatory; font: 1.35rem/1.45 system-ui, sans-serif; color: #222 }
body { margin: 0 }
section { box-sizing: border-box; height: 100vh; padding: 4vh 8vw; overflow: auto;
          scroll-snap-align: start; border-bottom: 1px solid #ddd }
section > footer { color: #888; font-size: 0.8rem; margin-top: 1em }
h1, h2, h3 { color: #335588; line-height: 1.15 } blockquote { font-size: 1.6rem; color: #555 }
pre { font-size: 1rem; background: #f6f7f9; padding: 0.6em; overflow: auto; margin: 0.3em 0 }
img { max-width: 100%; max-height: 62vh } table { border-collapse: collapse; font-size: 1.1rem }
th, td { padding: 0.2em 0.8em; border-bottom: 1px solid #ddd; text-align: left }
"""


def heading(cell) -> str | None:
    "The text of the heading that a Markdown cell begins with; None without one."
    found = HEADING.match(cell.source) if cell.cell_type == "markdown" else None
    return found and found[1]


def at_headings(cells: list) -> list:
    "The same cells, with Markdown cells cut so that a heading always comes first."
    parts = []
    for cell in cells:
        if cell.cell_type != "markdown":
            parts.append(cell)
            continue
        texts = re.split(r"^(?=#+ )", cell.source, flags=re.M)
        parts += [new_markdown_cell(text.strip()) for text in texts if text.strip()]
    return parts


def section(nb, name: str) -> list:
    "The cells under a heading, up to the next heading; '' is the chapter's opening."
    inside = []
    for cell in at_headings(nb.cells):
        found = heading(cell)
        if found and inside:
            break
        if inside or found and name in ("", found):
            inside.append(cell)
    return inside


def slides(cells: list) -> list[list]:
    "Cells in groups: each Markdown cell opens a slide, and the code after it goes on it."
    groups = []
    for cell in cells:
        if cell.cell_type == "code":
            if HIDDEN.search(cell.source): continue
            if ONLY_OUTPUT.search(cell.source): cell.source = ""
            cell.source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M)
            for output in cell.outputs: output.get("data", {}).pop(WIDGET, None)
            if not cell.source and not cell.outputs: continue
        if cell.cell_type == "markdown" or not groups: groups.append([])
        groups[-1].append(cell)
    return groups


def render(cells: list, exporter: HTMLExporter) -> str:
    "Some cells as HTML; links to chapters, which are not beside the slides, become plain text."
    body, _ = exporter.from_notebook_node(new_notebook(cells=cells))
    return re.sub(r'<a href="(?!https?:)[^"]*"[^>]*>(.*?)</a>', r"\1", body, flags=re.S)


def build(plan: list[dict], folder: Path = NBS) -> str:
    "The page. SystemExit if a chapter, or a heading in it, does not exist."
    exporter = HTMLExporter(template_name="basic", exclude_input_prompt=True,
                            exclude_output_prompt=True, exclude_anchor_links=True)
    pages = []
    for entry in plan:
        path = folder / entry["chapter"]
        if not path.exists():
            raise SystemExit(f"slides: there is no chapter {entry['chapter']} in {folder}")
        nb = nbformat.read(path, as_version=4)
        cells = section(nb, entry["section"])
        if not cells:
            raise SystemExit(f"slides: {path.name} has no heading {entry['section']!r}; "
                             "see its headings, and correct the plan")
        title = html.escape(heading(nb.cells[0]))
        for group in slides(cells)[:entry.get("most")]:
            body = render(group, exporter)
            footer = f"<footer>{title}, {len(pages) + 1}</footer>"
            pages.append(f'<section id="{len(pages) + 1}">{body}{footer}</section>')
    style = STYLE + HtmlFormatter(style="friendly").get_style_defs(".highlight")
    return (f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Slides</title>'
            f"<style>{style}</style><body>{''.join(pages)}</body></html>")


def main(plan: str = str(NBS / "slides.json"), target: str = str(ROOT / "out" / "slides.html")):
    page = build(json.loads(Path(plan).read_text(encoding="utf-8")))
    Path(target).parent.mkdir(parents=True, exist_ok=True)
    Path(target).write_text(page, encoding="utf-8")
    print(f"{page.count('<section')} slides: open {target}")


if __name__ == "__main__":
    main(*sys.argv[1:])
