"""Run nbs/20_final.ipynb from start to end and keep the executed copy (make train)."""
import argparse
import os
import sys
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent


class LiveClient(NotebookClient):
    "Executes a notebook and repeats what its cells print, progress bars included, in the terminal."

    def process_message(self, msg, cell, cell_index):
        if msg["msg_type"] == "stream":
            stream = sys.stderr if msg["content"]["name"] == "stderr" else sys.stdout
            stream.write(msg["content"]["text"])
            stream.flush()
        return super().process_message(msg, cell, cell_index)


def run(source: Path, target: Path) -> int:
    "Execute `source` as it stands, write the result to `target`; returns the exit code."
    nb = nbformat.read(source, as_version=4)
    local = Config({"KernelManager": {"transport": "ipc"}})
    client = LiveClient(nb, timeout=None, kernel_name="python3", config=local,
                        resources={"metadata": {"path": str(source.parent)}})
    code = 0
    try:
        client.execute()
    except KeyboardInterrupt:
        print("\nInterrupted; what has run so far is kept.", file=sys.stderr)
        code = 130
    except CellExecutionError as err:
        print(f"\nThe notebook stopped: {err.ename}: {err.evalue}", file=sys.stderr)
        code = 1
    except DeadKernelError:
        print("\nThe notebook's kernel died; too little memory is the usual reason.", file=sys.stderr)
        code = 1
    nbformat.write(nb, target)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="auto", help="auto, tiny, shapes, or a folder of images")
    parser.add_argument("--out", default="out", help="folder for notebook, run and curve")
    args = parser.parse_args()
    if args.data not in ("auto", "tiny", "shapes"):
        if not Path(args.data).is_dir():
            parser.error(f"DATA={args.data}: no such folder; use auto, tiny, shapes or an ImageFolder's path")
        args.data = str(Path(args.data).resolve())
    out = Path(args.out).resolve()
    if out in (ROOT, ROOT / "nbs", ROOT / "image"):
        parser.error(f"OUT={args.out}: choose a folder of its own, such as out")
    out.mkdir(parents=True, exist_ok=True)
    os.environ |= {"DATA": args.data, "OUT": str(out)}
    source, target = ROOT / "nbs" / "20_final.ipynb", out / "20_final.ipynb"
    print(f"== Training: {source.relative_to(ROOT)} with DATA={args.data}, results in {out}", flush=True)
    start = time.time()
    code = run(source, target)
    print(f"== {'Done' if code == 0 else 'Stopped'} after {time.time() - start:.0f} s. Notebook: {target}")
    return code


if __name__ == "__main__":
    sys.exit(main())
