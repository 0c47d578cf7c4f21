"""Rewriting notebooks in place, for the tools that keep them in step."""
import json
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from convnext_nb import runs

NBS = Path(__file__).resolve().parent.parent / "nbs"


def rewrite(paths: Iterable[Path], change: Callable[[dict], dict], lack: str, done: str) -> int:
    """Writes what `change` makes of each notebook; with --check, only says which differ.

    `lack` and `done` are the words before their names. The exit status is 1 if a check finds any.
    """
    if set(sys.argv[1:]) - {"--check"}: raise SystemExit("options: --check, only say which differ")
    check = "--check" in sys.argv
    differ = []
    for path in sorted(paths):
        text = path.read_text(encoding="utf-8")
        wanted = json.dumps(change(json.loads(text)), indent=1, ensure_ascii=False) + "\n"
        if text == wanted: continue
        differ.append(path.name)
        if check: continue
        with runs.atomic_write(path) as f: f.write(wanted.encode())
    if differ: print(f"{lack if check else done}: {', '.join(differ)}")
    return int(bool(differ) and check)
