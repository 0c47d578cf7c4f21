"""Write README.md from nbs/index.ipynb. With --check, only say whether they agree."""
import os
import re
import sys
from pathlib import Path

import nbformat
from project import address, settings

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
LINK = re.compile(r"""(\]\(|\b(?:src|href)=["'])(?![a-z]+:|\#|/)([^)\s"']+)""")


def from_root(match) -> str:
    "Rewrite a link relative to nbs/ as one relative to the repository's root."
    path, hash_, anchor = match[2].partition("#")
    path = os.path.normpath(NBS / path)
    if not os.path.exists(path):
        raise SystemExit(f"nbs/index.ipynb links to {match[2]}, which does not exist")
    return match[1] + Path(path).relative_to(ROOT).as_posix() + hash_ + anchor


def output_text(output) -> str:
    "One cell output as GitHub markdown."
    if output.output_type == "stream":
        return f"```text\n{output.text.strip()}\n```"
    if output.output_type == "error":
        raise SystemExit(f"nbs/index.ipynb holds an error: {output.ename}: {output.evalue}")
    data = output.data
    for kind in ("text/markdown", "text/html"):
        if kind in data:
            return LINK.sub(from_root, data[kind].strip())
    if any(kind.startswith("image/") for kind in data):
        raise SystemExit("nbs/index.ipynb: save the picture in image/, show it by a markdown cell")
    return f"```text\n{data['text/plain'].strip()}\n```"


def cell_text(cell) -> list[str]:
    "What one cell adds to README.md."
    flags = set(re.findall(r"^#\|\s*([\w-]+(?::\s*\w+)?)", cell.source, re.M))
    if cell.cell_type == "raw" or flags & {"hide", "export", "exporti", "default_exp"}:
        return []
    if cell.cell_type == "markdown":
        return [LINK.sub(from_root, cell.source.strip())]
    source = re.sub(r"^#\|.*\n?", "", cell.source, flags=re.M).strip()
    parts = [output_text(output) for output in cell.outputs]
    if source and not flags & {"echo: false", "hide_input"}:
        parts.insert(0, f"```python\n{source}\n```")
    return parts


def badges() -> str:
    "Badges for GitHub; the site, which asks no other host, has none."
    tests = f"{settings()['git_url']}/actions/workflows/test.yml"
    site = address()
    shields = "https://img.shields.io/badge"
    return (f"[![tests]({tests}/badge.svg)]({tests}) "
            f"[![site]({shields}/site-read_and_play-0a5a9c)]({site}) "
            f"[![license]({shields}/license-Apache_2.0-555)](LICENSE)")


def moving() -> str:
    "The block's way from ResNet to ConvNeXt; on the site's front page, `docs.py` draws it."
    return "![A block of ResNet-50 becomes a block of ConvNeXt, step by step](image/block.svg)"


def build() -> str:
    nb = nbformat.read(NBS / "index.ipynb", as_version=4)
    parts = [part for cell in nb.cells for part in cell_text(cell)]
    head = "<!-- Made from nbs/index.ipynb by tools/readme.py: edit the notebook. -->"
    title, *rest = filter(None, parts)
    return "\n\n".join([head, title, badges(), moving(), *rest]) + "\n"


if __name__ == "__main__":
    if set(sys.argv[1:]) - {"--check"}: sys.exit(__doc__)
    text = build()
    readme = ROOT / "README.md"
    if "--check" not in sys.argv:
        readme.write_text(text, encoding="utf-8")
        print(f"README.md written, {len(text.splitlines())} lines")
    elif not readme.exists() or readme.read_text(encoding="utf-8") != text:
        sys.exit("README.md differs from what nbs/index.ipynb makes: run python tools/readme.py")
