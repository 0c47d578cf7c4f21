"""Build the site: nbs/ -> processed notebooks in _proc/ -> Sphinx -> _docs/. Runs no lesson."""
import ast
import json
import re
import sys
import tempfile
from html.parser import HTMLParser
from pathlib import Path
from shutil import rmtree
from urllib.parse import unquote, urlsplit

import live
import nbformat
import yaml
from nbdev.config import get_config
from nbdev.serve import proc_nbs
from nbformat.v4 import new_markdown_cell
from sphinx.cmd.build import main as sphinx
from symbols import meanings, symbols

ROOT = Path(__file__).resolve().parent.parent
NBS, PROC, DOCS = ROOT / "nbs", ROOT / "_proc", ROOT / "_docs"
WIDGET = "application/vnd.jupyter.widget-view+json"
LIVE = "*This control moves in JupyterLab: `make lab`.*"
OPTION = re.compile(r"^#\|\s*([\w-]+)(?::\s*(.*?))?\s*$\n?", re.M)
TAGS = {("echo", "false"): "remove-input", ("output", "false"): "remove-output",
        ("code-fold", "true"): "hide-input"}


def page(name: str) -> str:
    "The page of a notebook, as nbdev's own links name it: `110_cost.ipynb` -> `cost`."
    return re.sub(r"^\d+[a-zA-Z0-9]*_", "", Path(name).stem.lower())


def process() -> None:
    "Let nbdev process copies of the notebooks in which exported code stays visible."
    with tempfile.TemporaryDirectory() as copies:
        for source in NBS.glob("*.ipynb"):
            nb = nbformat.read(source, as_version=4)
            for cell in nb.cells:
                cell.source = re.sub(r"^#\|\s*export\s*$", "#| exports", cell.source, flags=re.M)
            nbformat.write(nb, Path(copies) / source.name)
        rmtree(PROC, ignore_errors=True)
        proc_nbs(path=copies, n_workers=2, force=True)


def markdown(text: str, meant: dict[str, str]) -> str:
    "Rewrite nbdev's links to names, links to chapters and Quarto's callouts for Sphinx."
    def symbol(match):
        name = match[1].removesuffix("()")
        if name.startswith("_") or name not in meant: return f"`{match[1]}`"
        target, _, anchor = meant[name].partition(".html#")
        return f"[`{match[1]}`]({target}.ipynb#{anchor.partition('.')[0]})"  # a method: its class

    site = "{doc_host}{doc_baseurl}/".format(**get_config().d)
    text = re.sub(rf"\[`([^`]+)`\]\({re.escape(site)}\w+\.html#[^)]+\)", symbol, text)
    text = re.sub(r"\[([^]]+)\]\(\.\./site/live\)", r'<a href="live.html">\1</a>', text)
    text = re.sub(r"\]\((\w+\.ipynb)", lambda m: f"]({page(m[1])}.ipynb", text)
    text = re.sub(r"^:::\s*\{\.callout-(\w+)[^}]*\}", r":::{\1}", text, flags=re.M)
    return text


def api_entry(text: str, meant: dict[str, str]) -> str:
    "What show_doc wrote, with its link to the source moved below the heading."
    text = text.lstrip("- \n")
    text = re.sub(r"^(\[source\]\(.*?\))\{.*?\}\n+(#+ .*)", r"\2\n\n\1{.source}", text)
    return markdown(text, meant)


def only_imports(source: str) -> bool:
    try: statements = ast.parse(source).body
    except SyntaxError: return False  # a line for IPython
    return all(isinstance(s, (ast.Import, ast.ImportFrom)) for s in statements)


def code_cell(cell, name: str, meant: dict[str, str]) -> None:
    "Turn nbdev's and Quarto's directives into tags; replace widgets, which need Python, by a hint."
    options = {(k, v.strip("\"'")) for k, v in OPTION.findall(cell.source)}
    cell.source = OPTION.sub("", cell.source)
    tags = [tag for option, tag in TAGS.items() if option in options]
    if only_imports(cell.source) and not tags: tags = ["hide-input"]
    cell.metadata.tags = tags
    cell.metadata.mystnb = {"code_prompt_show": "Show the code",
                            "code_prompt_hide": "Hide the code"}
    for i, output in enumerate(cell.outputs):
        data = output.get("data", {})
        if WIDGET in data or re.match(r"\w*(Box|interactive)\(", data.get("text/plain", "")):
            cell.outputs[i] = nbformat.v4.new_output("display_data", {"text/markdown": LIVE})
        elif output.output_type == "error":
            raise SystemExit(f"{name} holds an error: {output.ename}: {output.evalue}")
        elif "text/markdown" in data:
            data["text/markdown"] = markdown(data["text/markdown"], meant)


def convert(path: Path, meant: dict[str, str]) -> None:
    "Rewrite one processed notebook for Sphinx; its API entries move to the end of the page."
    nb = nbformat.read(path, as_version=4)
    nb.metadata.pop("widgets", None)
    cells, entries = [], []
    for cell in nb.cells:
        if cell.cell_type == "raw":
            front = yaml.safe_load(cell.source.strip().strip("-"))
            opening = f"# {front['title']}\n\n> {front.get('description', '')}"
            cell = new_markdown_cell(opening.strip("\n >"))
        if cell.cell_type == "markdown":
            cell.source = markdown(cell.source, meant)
            cells.append(cell)
        elif re.search(r"^show_doc\(", cell.source, re.M):
            data = [output.get("data", {}) for output in cell.outputs]
            text = [d["text/markdown"] for d in data if "text/markdown" in d]
            if not text:
                raise SystemExit(f"{path.name}: no API entry from {cell.source.splitlines()[-1]}")
            entries += [api_entry(entry, meant) for entry in text]
        elif cell.source.strip():
            code_cell(cell, path.name, meant)
            cells.append(cell)
    if entries:
        cells += [new_markdown_cell("## Reference"), *map(new_markdown_cell, entries)]
    nb.cells = cells
    nbformat.write(nb, path.with_name(page(path.name) + ".ipynb"))
    if path.stem != page(path.name):
        path.unlink()


def contents(chapters: list[str]) -> str:
    "The site's sidebar: the chapters of each part under its number and title."
    blocks = []
    for part in json.loads((NBS / "parts.json").read_text(encoding="utf-8")):
        pages = [page(name) for name in chapters if name.startswith(str(part["number"]))]
        caption = f":caption: {part['number']}. {part['title']}"
        blocks.append("\n".join(["```{toctree}", ":hidden:", caption, "", *pages, "```"]))
    return "\n\n".join(blocks)


class Links(HTMLParser):
    "The link targets and anchors of a page, and its links in code font as (target, text)."

    def __init__(self, path: Path):
        super().__init__()
        self.links, self.ids, self.names = set(), {""}, set()
        self.target = self.in_code = None
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.ids |= {attrs.get("id"), attrs.get("name") if tag == "a" else None}
        self.links |= {attrs[k] for k in ("href", "src") if attrs.get(k)}
        if tag == "a": self.target = attrs.get("href")
        if tag == "code": self.in_code = True

    def handle_endtag(self, tag):
        if tag == "a": self.target = None
        if tag == "code": self.in_code = False

    def handle_data(self, text):
        if self.in_code and self.target: self.names.add((self.target, text))


def broken_links(site: Path) -> list[str]:
    "Every relative link of the built pages that leads nowhere."
    pages = {p: Links(p) for p in site.rglob("*.html")}
    broken = []
    for path, links in pages.items():
        for link in sorted(links.links):
            url = urlsplit(link)
            if url.scheme or url.netloc:
                continue
            target = (path.parent / unquote(url.path)).resolve() if url.path else path
            known = pages[target].ids if target in pages else {url.fragment}
            if not target.is_file() or unquote(url.fragment) not in known:
                broken.append(f"{path.relative_to(site)}: {link}")
    return broken


def wrong_names(site: Path) -> list[str]:
    "Every link from a name of the library to a page that does not define this name."
    every, wrong = symbols(), []
    for path in sorted(site.glob("*.html")):
        for target, text in sorted(Links(path).names):
            url, name = urlsplit(target), text.removesuffix("()")
            if url.netloc or not url.path or name not in every: continue  # own page: its contents
            pages = {link.partition("#")[0] for link in every[name].values()}
            if url.path not in pages:
                meant = " or ".join(sorted(pages))
                wrong.append(f"{path.name}: `{text}` leads to {target}, not to {meant}")
    return wrong


def main() -> int:
    print("== Processing the notebooks (nbdev)", flush=True)
    process()
    order = sorted((p.name for p in NBS.glob("*.ipynb")), key=lambda n: (n != "index.ipynb", n))
    missing = [name for name in order if not (PROC / name).exists()]
    if missing:
        sys.exit(f"nbdev could not process {', '.join(missing)}: see above")
    for name in order:
        convert(PROC / name, meanings(nbformat.read(NBS / name, as_version=4)))
    index = nbformat.read(PROC / "index.ipynb", as_version=4)
    index.cells.append(new_markdown_cell(contents(order[1:])))
    nbformat.write(index, PROC / "index.ipynb")
    print("== Rendering the pages (Sphinx)", flush=True)
    site = PROC / "html"  # inside _proc, where myst-nb may leave its jupyter_execute/
    code = sphinx(["-q", "-W", "-n", "--keep-going", "-c", str(ROOT / "tools" / "sphinx"),
                   "-d", str(PROC / ".doctrees"), str(PROC), str(site)])
    live.build(site)
    broken = [] if code else broken_links(site) + wrong_names(site)
    for line in broken:
        print(f"broken link: {line}")
    if code or broken:
        return 1
    rmtree(DOCS, ignore_errors=True)
    site.rename(DOCS)
    print(f"== {len(order)} pages, no broken link: open {DOCS / 'index.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
