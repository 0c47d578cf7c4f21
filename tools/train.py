"""Run nbs/320_final.ipynb from start to finish and keep the executed copy (make train)."""
import argparse
import asyncio
import os
import sys
import time
from concurrent.futures import ThreadPoolExecutor, wait
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, DeadKernelError
from places import absolute, set_places

ROOT = Path(__file__).resolve().parent.parent


class LiveClient(NotebookClient):
    "Executes a notebook and shows in the terminal what its cells print, progress bars included."

    works = False  # whether a cell is running, which can be interrupted

    def process_message(self, msg, cell, cell_index):
        self.works = True
        if msg["msg_type"] == "stream":
            stream = sys.stderr if msg["content"]["name"] == "stderr" else sys.stdout
            stream.write(msg["content"]["text"])
            stream.flush()
        return super().process_message(msg, cell, cell_index)


def run(source: Path, target: Path) -> int:
    "Execute `source` unchanged and write the result to `target`; returns the exit code."
    nb = nbformat.read(source, as_version=4)
    client = LiveClient(nb, timeout=None, kernel_name="python3", extra_arguments=["--log-level=40"],
                        coalesce_streams=True, resources={"metadata": {"path": str(source.parent)}})
    code = 0
    error = ""
    # In a thread, so that Ctrl-C interrupts the cell (and the notebook is kept), not the client.
    with ThreadPoolExecutor(1) as pool:
        job = pool.submit(client.execute)
        asked = False
        while not job.done():
            try:
                wait([job], timeout=0.2)
            except KeyboardInterrupt:
                asked = True
            if asked and client.works:  # not before: the kernel would not hear it
                asyncio.run(client.km.interrupt_kernel())
                asked = False
    try:
        job.result()
    except CellExecutionError as err:
        interrupted = err.ename in ("KeyboardInterrupt", "Interrupted")
        code = 130 if interrupted else 1
        error = "interrupted" if interrupted else f"{err.ename}: {err.evalue}"
    except DeadKernelError:
        code = 1
        error = "its kernel died; the usual reason is too little memory"
    if error:
        print(f"\nThe notebook stopped: {error}", file=sys.stderr)
    if target.exists(): target.replace(target.with_stem(f"{target.stem}-before"))
    nbformat.write(nb, target)
    return code


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", default="auto", help="auto, tiny, shapes, or a folder")
    parser.add_argument("--out", default="out", help="folder for notebook, run and curve")
    args = parser.parse_args()
    args.data = args.data or "auto"
    if args.data not in ("auto", "tiny", "shapes"):
        if not Path(args.data).expanduser().exists():
            parser.error(f"DATA={args.data} does not exist; use auto, tiny, shapes or a folder")
        args.data = absolute(args.data)
    set_places()
    out = Path(absolute(args.out))
    if out in (ROOT, ROOT / "nbs", ROOT / "image"):
        parser.error(f"OUT={args.out}: choose another folder, such as out")
    try: out.mkdir(parents=True, exist_ok=True)
    except OSError as e: parser.error(f"OUT={args.out}: {e.strerror}")
    os.environ |= {"DATA": args.data, "OUT": str(out)}
    source = ROOT / "nbs" / "320_final.ipynb"
    target = out / source.name
    print(f"== Running {source.name} with DATA={args.data}; results go to {out}", flush=True)
    start = time.time()
    code = run(source, target)
    print(f"== {'Stopped' if code else 'Done'} after {time.time() - start:.0f} s: {target}")
    return code


if __name__ == "__main__":
    sys.exit(main())
