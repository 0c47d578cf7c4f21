"""What the chapters have to have (tests/test_book.py), and a report in numbers (make test)."""
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CHAPTERS = sorted((ROOT / "nbs").glob("[0-9]*.ipynb"))
MOST_LINES = 40  # of a code cell
MOST_BYTES = 1_000_000  # of a notebook's outputs
LINK = re.compile(r"\[[^\]]*\]\([^)]*\)|`[^`]*`|<[^>]*>|\$[^$]*\$")  # what is no prose

PARTS = {  # a pattern in the markdown (md) or in a code cell (code)
    "question": ("md", r"\A# .+\n+> .+\?"),
    "exercises": ("md", r"^## Exercises\n+1\. "),
    "recap": ("md", r"^## Recap$"),
    "source": ("md", r"(Tables?|Sections?|Figures?|Appendix) [A-Z]?\.?\d|arxiv\.org"),
    "shape assert": ("code", r"(?s)\A(?=.*\b(assert|test_eq|test_close)\b).*shape"),
    "cost assert": ("code", r"(?s)\A(?=.*\b(assert|test_eq|test_close)\b).*(macs|params|numel)"
                            r"|check_cost\("),
    "widget": ("code", r"\b(play|flipbook)\("),
}
EVERYWHERE = ("question", "exercises", "recap")


def cells(path: Path, kind: str) -> list[dict]:
    notebook = json.loads(path.read_text(encoding="utf-8"))
    return [cell for cell in notebook["cells"] if cell["cell_type"] == kind]


def texts(path: Path, kind: str) -> list[str]:
    return ["".join(cell["source"]) for cell in cells(path, kind)]


def is_walk(path: Path) -> bool:
    return "110" <= path.stem[:3] < "191"


def missing(path: Path) -> set[str]:
    "The parts that the chapter has to have and has not."
    where = {"md": texts(path, "markdown"), "code": texts(path, "code")}
    wanted = PARTS if is_walk(path) else EVERYWHERE
    return {part for part in wanted
            if not any(re.search(PARTS[part][1], text, re.M) for text in where[PARTS[part][0]])}


def long_cells(path: Path) -> list[str]:
    "The first lines of code cells that are too long."
    return [text.splitlines()[0] for text in texts(path, "code")
            if len(text.splitlines()) > MOST_LINES]


def output_bytes(path: Path) -> int:
    return sum(len(json.dumps(cell["outputs"])) for cell in cells(path, "code"))


def words_per_line(path: Path) -> float:
    "Words of prose for each line of code; blank lines and directives do not count."
    words = sum(len(LINK.sub(" ", text).split()) for text in texts(path, "markdown"))
    lines = [line for text in texts(path, "code") for line in text.splitlines()
             if line.strip() and not line.startswith("#|")]
    return words / max(1, len(lines))


def pictures(path: Path) -> list[bool]:
    "For each picture among the outputs and in the text: has it a text for who cannot see it?"
    found = []
    for cell in cells(path, "code"):
        described = any("fig-alt" in line for line in cell["source"])
        for output in cell["outputs"]:
            data = output.get("data", {})
            if "image/png" in data or "image/svg+xml" in data:
                found.append(described or "alt" in str(output.get("metadata", {})))
    for text in texts(path, "markdown"):
        found += [bool(alt.strip()) for alt in re.findall(r"!\[([^\]]*)\]\(", text)]
    return found


def misspelled() -> list[str]:
    "What codespell finds in the chapters' prose and code, in tests, tools and pages."
    names = subprocess.run(["git", "ls-files", "*.py", "*.md", "site/live/*"], cwd=ROOT,
                           capture_output=True, text=True, check=True).stdout.split()
    with tempfile.TemporaryDirectory() as folder:
        for path in CHAPTERS:
            text = "\n".join(texts(path, "markdown") + texts(path, "code"))
            (Path(folder) / f"{path.stem}.md").write_text(text, encoding="utf-8")
        done = subprocess.run([sys.executable, "-m", "codespell_lib", "--toml",
                               str(ROOT / "pyproject.toml"), folder, *names], cwd=ROOT,
                              capture_output=True, text=True)
    if done.returncode not in (0, 65): raise OSError(f"codespell failed: {done.stderr}")
    return done.stdout.splitlines()


def main() -> None:
    print(f"{'chapter':20} {'words/line':>10} {'kB out':>7} {'pictures':>8} {'no alt':>6}  lacks")
    for path in CHAPTERS:
        described = pictures(path)
        print(f"{path.stem:20} {words_per_line(path):10.1f} {output_bytes(path) / 1e3:7.0f} "
              f"{len(described):8} {described.count(False):6}  {', '.join(sorted(missing(path)))}")


if __name__ == "__main__":
    main()
