"""The picture that other sites show beside a link to the book; `tools/docs.py` puts it into the
site. `python tools/card.py FILE` draws it alone."""
import sys
from pathlib import Path

from bs4 import BeautifulSoup
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

from convnext_nb import draw
from convnext_nb.anatomy import parts

STATIC = Path(__file__).resolve().parent / "sphinx" / "static"
SIDES = (("base", "ResNet-50"), ("sep_ds", "ConvNeXt-T"))
STAGE = 3
DARK = ("across", "act", "scale")  # boxes that need white words
MOST = 1700  # channels across one half


def half(ax, step: str, title: str) -> None:
    "One block: a box per layer, as wide as its channels, the first layer on top."
    boxes = parts(step, stage=STAGE)
    for row, box in enumerate(boxes):
        color, width = draw.COLORS[box["kind"]], box["channels"]
        outline = "#30343b" if color == "none" else "none"
        ax.barh(-row, width, left=-width / 2, height=0.72, color=color, edgecolor=outline)
        inside = width > 600  # else the words stand beside the box
        ink = "white" if inside and box["kind"] in DARK else "#1b1e24"
        ax.text(0 if inside else width / 2 + 30, -row, box["label"], color=ink, fontsize=15,
                va="center_baseline", ha="center" if inside else "left")
    ax.set(xlim=(-MOST / 2, MOST / 2), ylim=(-9.6, 0.6))
    ax.set_title(title, fontsize=26, color="#1b1e24", pad=10)
    ax.axis("off")


def social_card(path: Path) -> None:
    "Write the card, 1200 x 630 pixels."
    figure = Figure(figsize=(12, 6.3), dpi=100, facecolor="#f7f7f5")
    for ax, (step, title) in zip(figure.subplots(1, 2), SIDES): half(ax, step, title)
    figure.subplots_adjust(left=0.02, right=0.98, top=0.75, bottom=0.03, wspace=0.02)
    figure.text(0.5, 0.9, "From ResNet to ConvNeXt, one change at a time", fontsize=27,
                ha="center", color="#0a5a9c", weight="bold")
    figure.savefig(path, metadata={"Software": None})


def touch_icon(path: Path) -> None:
    "Write the favicon for phones, 180 x 180 pixels."
    page = BeautifulSoup((STATIC / "favicon.svg").read_text(encoding="utf-8"), "html.parser")
    scale = 720 / 32  # four times too large, for smooth edges
    icon = Image.new("RGB", (720, 720), page.rect["fill"])
    pen = ImageDraw.Draw(icon)
    for rect in page.g("rect"):
        x, y, width, height, radius = (scale * float(rect[name])
                                       for name in ("x", "y", "width", "height", "rx"))
        pen.rounded_rectangle((x, y, x + width, y + height), radius, page.g["fill"])
    icon.resize((180, 180), Image.Resampling.LANCZOS).quantize(64).save(path)


if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"): sys.exit("tools/card.py FILE.png")
    social_card(Path(sys.argv[1]))
