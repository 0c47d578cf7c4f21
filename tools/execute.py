"""Run notebooks and keep their outputs, minus what changes on every run (make outputs)."""
import io
import sys
import time
from base64 import b64decode, b64encode
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from PIL import Image
from places import set_places

from convnext_nb import runs

ROOT = Path(__file__).resolve().parent.parent
NBS = ROOT / "nbs"
WIDGET = "application/vnd.jupyter.widget-view+json"
FIGURES = """
from matplotlib.figure import Figure
from matplotlib_inline.backend_inline import set_matplotlib_formats
from convnext_nb.explore import in_words
set_matplotlib_formats("retina")
get_ipython().display_formatter.formatters["text/plain"].for_type(
    Figure, lambda figure, printer, cycle: printer.text(in_words(figure)))
"""  # figures with twice as many pixels, and words for those who do not see them


def lighter(output) -> None:
    "A picture that weighs much, as photographs and noise do, gets the pixels that are shown."
    data = output.get("data", {})
    raw = b64decode(data.get("image/png", ""))
    width = output.get("metadata", {}).get("image/png", {}).get("width")
    if not width or len(raw) < 60_000: return
    picture = Image.open(io.BytesIO(raw))
    if picture.width <= width: return
    file = io.BytesIO()
    picture.resize((width, round(picture.height * width / picture.width))).save(file, "png")
    data["image/png"] = b64encode(file.getvalue()).decode()


def steady(nb) -> None:
    "Drop run counts, times, widgets' random names and what goes to stderr (progress bars)."
    nb.metadata.pop("widgets", None)
    for cell in nb.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type != "code":
            continue
        cell.execution_count = None
        cell.outputs = [o for o in cell.outputs if o.get("name") != "stderr"]
        for output in cell.outputs:
            output.get("data", {}).pop(WIDGET, None)
            lighter(output)
            if "execution_count" in output:
                output["execution_count"] = None


def execute(path: Path) -> None:
    "Run one notebook in its folder and write it back. If a cell fails, nothing is written."
    before = path.read_bytes()
    nb = nbformat.reads(before.decode(), as_version=4)
    nb.cells.insert(0, nbformat.v4.new_code_cell(FIGURES))
    where = {"metadata": {"path": str(path.parent)}}
    NotebookClient(nb, timeout=None, kernel_name="python3", extra_arguments=["--log-level=40"],
                   coalesce_streams=True, resources=where).execute()
    del nb.cells[0]
    steady(nb)
    if path.read_bytes() != before:
        raise SystemExit(f"{path.name} was changed while it ran and is not written: run it again")
    with runs.atomic_write(path) as f: f.write(f"{nbformat.writes(nb)}\n".encode())


def main(names: list[str]) -> None:
    set_places()
    for path in [Path(n) for n in names] or sorted(NBS.glob("[0-9i]*.ipynb")):
        start = time.time()
        execute(path)
        print(f"{path.name:24} {time.time() - start:5.0f} s", flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
