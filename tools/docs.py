"""Build the site: nbs/ -> processed notebooks in _proc/ -> Sphinx -> _docs/. Runs no lesson."""
import ast
import html
import io
import json
import re
import sys
import tempfile
from base64 import b64decode, b64encode
from html.parser import HTMLParser
from importlib import import_module
from inspect import getdoc, signature
from pathlib import Path
from shutil import rmtree
from urllib.parse import unquote, urlsplit

import live
import nbformat
import yaml
from bs4 import BeautifulSoup
from card import social_card, touch_icon
from nbdev.config import get_config
from nbdev.serve import proc_nbs
from nbformat.v4 import new_markdown_cell
from PIL import Image
from project import address
from sphinx.cmd.build import main as sphinx
from symbols import exported_module, meanings, symbols

from convnext_nb import draw

ROOT = Path(__file__).resolve().parent.parent
NBS, PROC, DOCS = ROOT / "nbs", ROOT / "_proc", ROOT / "_docs"
WIDGET = "application/vnd.jupyter.widget-view+json"
LIVE = "*This control moves in JupyterLab: `make lab`.*"
OPTION = re.compile(r"^#\|\s*([\w-]+)(?::\s*(.*?))?\s*$\n?", re.M)
TAGS = {("echo", "false"): "remove-input", ("output", "false"): "remove-output",
        ("code-fold", "true"): "hide-input"}
NUMBER = re.compile(r"([+\-\u2212\u00b1]?\d[\d,. \u00b1%*]*( ?(G|M|k|%|MB|ms|s|px))?|\u2013|-)?")
LABELS = re.compile(r"set_title|suptitle|set_xlabel|set_ylabel|set_label|title|label|text")


def page(name: str) -> str:
    "The page of a notebook, as nbdev's own links name it: `110_cost.ipynb` -> `cost`."
    return re.sub(r"^\d+[a-zA-Z0-9]*_", "", Path(name).stem.lower())


def process() -> None:
    "Let nbdev process copies of the notebooks in which exported code stays visible."
    with tempfile.TemporaryDirectory() as folder:
        copies = Path(folder, "nbs")
        copies.mkdir()
        for name in ("site", "image"): Path(folder, name).symlink_to(ROOT / name)  # nbdev runs
        (copies / "runs").symlink_to(NBS / "runs")  # cells that import: some read these
        for source in NBS.glob("*.ipynb"):
            nb = nbformat.read(source, as_version=4)
            for cell in nb.cells:
                cell.source = re.sub(r"^#\|\s*export\s*$", "#| exports", cell.source, flags=re.M)
            nbformat.write(nb, copies / source.name)
        rmtree(PROC, ignore_errors=True)
        proc_nbs(path=copies, n_workers=2, force=True)


def markdown(text: str, meant: dict[str, str]) -> str:
    "Rewrite nbdev's links to names, links to chapters and Quarto's callouts for Sphinx."
    def symbol(match):
        name = match[1].removesuffix("()")
        if name.startswith("_") or name not in meant: return f"`{match[1]}`"
        target, _, anchor = meant[name].partition(".html#")
        return f"[`{match[1]}`]({target}.ipynb#{anchor.partition('.')[0]})"  # a method: its class

    site = address()
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


def statements_of(source: str) -> list[ast.stmt]:
    try: return ast.parse(source).body
    except SyntaxError: return []  # a line for IPython


def is_check(statement: ast.stmt) -> bool:
    "Whether a statement only checks something: an assert, or a call of fastcore's `test_...`."
    if isinstance(statement, ast.Assert): return True
    call = statement.value if isinstance(statement, ast.Expr) else None
    return isinstance(call, ast.Call) and ast.unparse(call.func).startswith("test_")


def folded(cell, after_exercises: bool) -> str | None:
    "What a cell holds that a reader can do without at first, or None if it is the lesson."
    body = statements_of(cell.source)
    if not body: return None
    if all(isinstance(s, (ast.Import, ast.ImportFrom)) for s in body): return "imports"
    if re.search(r"^check = checker\(", cell.source, re.M): return "code that knows the answers"
    if all(map(is_check, body)): return "checks"
    guess = re.match(r"my_guess|check\(", cell.source)
    if after_exercises and not guess: return "solutions in code"
    pictures = any(kind.startswith("image/") for o in cell.outputs for kind in o.get("data", {}))
    drawing = re.findall(r"\b(?:plt|ax|axes|fig)\b", cell.source)
    if pictures and len(drawing) > 3: return "code that draws this"
    return None


def seen_in(source: str) -> str:
    "What a figure shows, from the words that its code writes on it."
    words = []
    for node in ast.walk(ast.Module(statements_of(source), [])):
        if not isinstance(node, ast.Call): continue
        name = ast.unparse(node.func).rpartition(".")[2]
        values = [a for a in node.args if LABELS.fullmatch(name)]
        values += [k.value for k in node.keywords if k.arg and LABELS.fullmatch(k.arg)]
        constants = [v.value for v in values if isinstance(v, ast.Constant)]
        words += [value for value in constants if isinstance(value, str)]
    words = [" ".join(w.split()) for w in dict.fromkeys(words) if len(w.strip()) > 1]
    return ", ".join(words)


WORDLESS = "a drawing without words"  # of `explore.in_words`


def alt_text(cell, heading: str) -> str:
    "The alternative text of a cell's figure: its own (`#| fig-alt:`, or what `in_words` said)."
    for output in cell.outputs:
        said = output.get("data", {}).get("text/plain", "")
        if said and not said.startswith(("<", "[", "(", "{", WORDLESS)): return said
    seen = seen_in(cell.source)
    return f"Figure on {heading}: {seen}" if seen else f"Figure on {heading}"


def code_cell(cell, name: str, meant: dict[str, str], heading="", after_exercises=False) -> None:
    "Turn nbdev's and Quarto's directives into tags; replace widgets, which need Python, by a hint."
    options = {k: v.strip("\"'") for k, v in OPTION.findall(cell.source)}
    cell.source = OPTION.sub("", cell.source)
    tags = [tag for option, tag in TAGS.items() if option in options.items()]
    what = folded(cell, after_exercises)
    if what and not tags: tags = ["hide-input"]
    cell.metadata.tags = tags
    what = what or "code"
    cell.metadata.mystnb = {"code_prompt_show": f"Show the {what}",
                            "code_prompt_hide": f"Hide the {what}",
                            "image": {"alt": options.get("fig-alt") or alt_text(cell, heading)}}
    for output in cell.outputs:  # a figure of twice as many pixels says how wide it is
        width = output.get("metadata", {}).get("image/png", {}).get("width")
        if width: cell.metadata.mystnb["image"]["width"] = f"{width}px"
    for i, output in enumerate(cell.outputs):
        data = output.get("data", {})
        if WIDGET in data or re.match(r"\w*(Box|interactive)\(", data.get("text/plain", "")):
            cell.outputs[i] = nbformat.v4.new_output("display_data", {"text/markdown": LIVE})
        elif output.output_type == "error":
            raise SystemExit(f"{name} holds an error: {output.ename}: {output.evalue}")
        elif "text/markdown" in data:
            data["text/markdown"] = markdown(data["text/markdown"], meant)
        else:  # what `in_words` could not say, or was made before it
            alt = html.escape(cell.metadata.mystnb["image"]["alt"])
            text = data.get("text/html", "")
            for bad in ("figure", WORDLESS): text = text.replace(f'alt="{bad}"', f'alt="{alt}"')
            if text: data["text/html"] = text


def chapter_links(name: str) -> str:
    "The line below a chapter's question: the notebook itself, here and there."
    cfg = get_config()
    where = f"{cfg.user}/{cfg.repo}/blob/{cfg.branch}/nbs/{name}"
    return ('<p class="chapter-links">'
            f'<a href="https://colab.research.google.com/github/{where}">Open in Colab</a>'
            f'<a href="https://github.com/{where}">This notebook on GitHub</a></p>')


def without_entry(module_name: str, documented: set[str]) -> list[str]:
    "Reference entries for public names that nbdev's index leaves out: constants, made functions."
    module = import_module(f"convnext_nb.{module_name}")
    entries = []
    for name in getattr(module, "__all__", []):
        if name in documented: continue
        value = getattr(module, name)
        if callable(value): about = f"`{name}{signature(value)}`\n\n{getdoc(value) or ''}"
        else: about = f"A{about_constant(value)[1:]}."
        entries.append(f"### {name}\n\n{about}")
    return entries


def convert(path: Path, meant: dict[str, str]) -> None:
    "Rewrite one processed notebook for Sphinx; its API entries move to the end of the page."
    nb = nbformat.read(path, as_version=4)
    nb.metadata.pop("widgets", None)
    cells, entries = [], []
    heading, in_exercises, asked = "", False, False
    for cell in nb.cells:
        if cell.cell_type == "raw":
            front = yaml.safe_load(cell.source.strip().strip("-"))
            opening = f"# {front['title']}\n\n> {front.get('description', '')}"
            cell = new_markdown_cell(opening.strip("\n >"))
            if path.name != "index.ipynb": cell.source += f"\n\n{chapter_links(path.name)}"
        if cell.cell_type == "markdown":
            heads = re.findall(r"^#+ (.+)$", cell.source, re.M)
            if heads:
                heading = re.sub(r"[`*]", "", heads[-1])
                in_exercises, asked = "## Exercises" in cell.source, False
            cell.source = markdown(cell.source, meant)
            cells.append(cell)
        elif re.search(r"^show_doc\(", cell.source, re.M):
            data = [output.get("data", {}) for output in cell.outputs]
            text = [d["text/markdown"] for d in data if "text/markdown" in d]
            if not text:
                raise SystemExit(f"{path.name}: no API entry from {cell.source.splitlines()[-1]}")
            entries += [api_entry(entry, meant) for entry in text]
        elif cell.source.strip():
            is_guess = re.search(r"^check\(", cell.source, re.M)
            code_cell(cell, path.name, meant, heading, in_exercises and asked)
            asked = asked or bool(in_exercises and is_guess)
            cells.append(cell)
    if own := exported_module(nbformat.read(NBS / path.name, 4)):
        known = {name for name, places in symbols().items() if own in places}
        entries += without_entry(own, known)
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
    blocks.insert(0, "```{toctree}\n:hidden:\n:caption: Play\n\nlive\n```")
    blocks.append("```{toctree}\n:hidden:\n:caption: Reference\n\napi\n```")
    return "\n\n".join(blocks)


def live_page() -> str:
    "A page for the sidebar and the search; `tools/live.py` puts the real one in its place."
    return """# Live: look through a ConvNeXt

Play with a ConvNeXt that runs in your browser, on your own picture: a photograph, the camera, a
sketch. See its top five answers, hide a part of the picture, open any block, look at its depthwise
convolution, layer norm, GELU, layer scale and residual connection, measure a receptive field, and
switch parts off. An explorer of the roadmap shows any two steps side by side.
"""


def about_constant(value) -> str:
    "What a constant is: its value where that is short, else its type and length."
    if isinstance(value, str | int | float): return f"a constant: `{value!r}`"
    return f"a constant: {type(value).__name__} of {len(value)}"


def api_page(homes: dict[str, str]) -> str:
    "One index of all public names by letter: name, module, what it is for; {module: page}."
    every, rows = symbols(), []
    for module_name, home in homes.items():
        module = import_module(f"convnext_nb.{module_name}")
        for name in getattr(module, "__all__", []):
            value = getattr(module, name)
            target = every.get(name, {}).get(module_name) or f"{home}.html#{anchor(name)}"
            first = (getdoc(value) or "").partition("\n")[0] if callable(value) else (
                about_constant(value))
            rows.append((name, module_name, target.replace(".html#", ".ipynb#"), first))
    by_letter = {}
    for name, module, target, first in sorted(rows, key=lambda r: r[0].lower()):
        line = f"| [`{name}`]({target}) | {module} | {first.replace('|', '/')} |"
        by_letter.setdefault(name[0].upper(), []).append(line)
    text = ["# All names", "", "> Where is the function or class that I need?", "",
            " ".join(f"[{letter}](#{letter.lower()})" for letter in by_letter), ""]
    for letter, lines in by_letter.items():
        text += [f"## {letter}", "", "| name | module | what it is |", "|---|---|---|", *lines, ""]
    return "\n".join(text)


def scorer() -> str:
    "The script that orders what a search finds; it knows where the glossary's terms are taught."
    terms = {entry["term"].lower(): page(entry["chapter"])
             for entry in json.loads((NBS / "glossary.json").read_text(encoding="utf-8"))}
    source = (ROOT / "tools" / "sphinx" / "scorer.js").read_text(encoding="utf-8")
    return f"const TAUGHT = {json.dumps(terms)};\n{source}"


def anchor(heading: str) -> str:
    "The anchor that Sphinx gives to a heading which is a name."
    return heading.lower()


def align_numbers(page: str) -> str:
    "A page whose tables have columns of numbers: these get the class `number`, heads included."
    def aligned(match):
        soup = BeautifulSoup(match[0], "html.parser")
        rows = [row.find_all(["td", "th"]) for row in soup.find_all("tr")]
        for i in range(max(map(len, rows), default=0)):
            column = [row[i] for row in rows if i < len(row)]
            body = [cell for cell in column if cell.name == "td"]
            texts = [cell.get_text().strip() for cell in body]
            if not any(re.search(r"\d", t) for t in texts): continue
            if not all(NUMBER.fullmatch(t) for t in texts): continue
            for cell in column: cell["class"] = [*cell.get("class", []), "number"]
        return str(soup)

    innermost = r"<table\b(?:(?!<table\b).)*?</table>"  # a table of tables stays as it is
    return re.sub(innermost, aligned, page, flags=re.S)


def without_plain_tokens(page: str) -> str:
    "A page whose code marks no names, punctuation and blanks: they have the color of all text."
    def plain(match): return re.sub(r'<span class="(?:n|p|w)">([^<]*)</span>', r"\1", match[0])
    return re.sub(r"<pre>.*?</pre>", plain, page, flags=re.S)


def as_webp(png: bytes) -> bytes | None:
    "A PNG picture as WebP, without loss; None where that is not smaller."
    file = io.BytesIO()
    Image.open(io.BytesIO(png)).save(file, "webp", lossless=True)
    return file.getvalue() if file.tell() < len(png) else None


def lighter(page: str) -> str:
    "A page whose embedded PNG pictures are WebP, without loss, where that is smaller."
    def smaller(match):
        found = as_webp(b64decode(match[1]))
        return f"data:image/webp;base64,{b64encode(found).decode()}" if found else match[0]

    return re.sub(r"data:image/png;base64,([\w+/=]+)", smaller, page)


def lighter_files(site: Path) -> None:
    "The same for the pictures in files; the pages then show the new ones."
    pages = {path: path.read_text(encoding="utf-8") for path in site.glob("*.html")}
    for path in (site / "_images").glob("*.png"):
        found = as_webp(path.read_bytes())
        if not found: continue
        new = path.with_suffix(".webp")
        new.write_bytes(found)
        path.unlink()
        pages = {page: text.replace(f"_images/{path.name}", f"_images/{new.name}")
                 for page, text in pages.items()}
    for page, text in pages.items(): page.write_text(text, encoding="utf-8")


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
    for script in sorted((site / "live").glob("*.js")):
        if script.name == "weights.js": continue
        for link in re.findall(r'"(\w+\.html(?:#[\w-]+)?)"', script.read_text(encoding="utf-8")):
            name, _, anchor = link.partition("#")
            page = pages.get(site / name)
            if not page or anchor not in page.ids: broken.append(f"live/{script.name}: {link}")
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


def homes(chapters: list[str]) -> dict[str, str]:
    "The page of each module's chapter: {module: page}."
    modules = {name: exported_module(nbformat.read(NBS / name, 4)) for name in chapters}
    return {module: page(name) for name, module in modules.items() if module}


def front() -> str:
    "What the site's front page has and README does not: the moving block and three doors."
    doors = [("cost.html", "Walk", "Sixteen networks from ResNet-50 to ConvNeXt, one change at a "
              "time: see it, run it, check it against the paper."),
             ("live.html", "Play", "A real ConvNeXt runs right in this browser, on your own "
              "picture. Open it layer by layer; nothing to install."),
             ("#as-a-library", "Use the library", "The networks, their published weights, training "
              "and fine-tuning, in a package that you install with pip.")]
    cards = "".join(f'<a href="{target}"><b>{html.escape(title)}</b>{html.escape(text)}</a>'
                    for target, title, text in doors)
    moving = f'<div class="front-morph">{draw.morph()._repr_html_()}</div>'
    nav = f'<nav class="doors" aria-label="Three ways in">{cards}</nav>'
    return f"```{{raw}} html\n{moving}\n{nav}\n```"


ICON = '<link rel="apple-touch-icon" href="_static/icon.png">'
LOST = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>No such page</title>
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="description" content="This page is not in the book.">
<style>body {{ font: 1.1rem/1.5 system-ui, sans-serif; margin: 12vh auto; padding: 0 1rem;
max-width: 30rem }} :root {{ color-scheme: light dark }}</style></head>
<body><main><h1>No such page</h1><p>The book has no page at this address; it may have been renamed.
<a href="{0}index.html">All chapters</a>, or <a href="{0}search.html">search</a>.</p></main></body>
</html>
"""


def sitemap(site: Path) -> str:
    "The addresses of all pages, for search engines."
    pages = sorted(path.name for path in site.glob("*.html") if path.name != "search.html")
    places = "".join(f"<url><loc>{address()}{name}</loc></url>\n" for name in pages)
    return ('<?xml version="1.0" encoding="UTF-8"?>\n<urlset '
            f'xmlns="http://www.sitemaps.org/schemas/sitemap/0.9">\n{places}</urlset>\n')


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
    what, _, rest = index.cells[2].source.partition("\n\n")  # what a ConvNeXt is comes first;
    index.cells[1:3] = [new_markdown_cell(text) for text in (what, front(), rest)]  # [1]: a comment
    index.cells.append(new_markdown_cell(contents(order[1:])))
    nbformat.write(index, PROC / "index.ipynb")
    (PROC / "api.md").write_text(api_page(homes(order[1:])), encoding="utf-8")
    (PROC / "live.md").write_text(live_page(), encoding="utf-8")
    (PROC / "scorer.js").write_text(scorer(), encoding="utf-8")
    print("== Rendering the pages (Sphinx)", flush=True)
    site = PROC / "html"  # inside _proc, where myst-nb may leave its jupyter_execute/
    code = sphinx(["-q", "-W", "-n", "--keep-going", "-c", str(ROOT / "tools" / "sphinx"),
                   "-d", str(PROC / ".doctrees"), str(PROC), str(site)])
    for path in site.glob("*.html"):
        text = lighter(align_numbers(path.read_text(encoding="utf-8")))
        text = without_plain_tokens(text)
        text = text.replace('role="heading">', 'role="heading" aria-level="2">')  # the parts
        text = text.replace("</head>", f"{ICON}</head>", 1)
        path.write_text(text, encoding="utf-8")
    lighter_files(site)
    live.build(site)
    social_card(site / "_static" / "card.png")
    touch_icon(site / "_static" / "icon.png")
    for path in (site / "_static").rglob("*.map"): path.unlink()  # the theme's, for debuggers
    (site / "sitemap.xml").write_text(sitemap(site), encoding="utf-8")
    (site / "404.html").write_text(LOST.format(address()), encoding="utf-8")
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
