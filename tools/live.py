"""Write the live page: a ConvNeXt in the reader's browser. `tools/docs.py` puts it into the site;
`python tools/live.py [FOLDER]` writes it alone, in seconds, into FOLDER (default: _docs)."""
import base64
import html
import io
import json
import re
import sys
import zlib
from pathlib import Path
from urllib.parse import quote

import torch
from card import STATIC
from PIL import Image
from project import address, settings
from safetensors import safe_open

from convnext_nb import anatomy, convnext, data, draw, models, shapes

ROOT = Path(__file__).resolve().parent.parent
SOURCE = ROOT / "site" / "live"
IN_WORKER = ("safetensors.js", "network.js", "picture.js", "worker.js")
SCRIPTS = ("numbers.js", "drawing.js", "network.js", "picture.js", "data.js", "steps.js", "page.js",
           "hide.js", "reasons.js", "road.js", "way.js", "panels.js", "block.js", "slide.js",
           "input.js", "weights.js")  # last: the page is there before them
PHOTOS = {  # file: (what it shows, right names, whose it is, as scikit-image's `skimage.data` says)
    "coffee.jpg": ("a cup of espresso", ("espresso",), "the coffee cup by Rachel Michetti, "
                   "courtesy of Pikolo Espresso Bar (CC0)"),
    "rocket.jpg": ("a rocket at night", ("projectile",),
                   "the launch of a Falcon 9 by SpaceX (public domain)"),
    "cat.jpg": ("a cat", ("tabby", "Persian cat", "Egyptian cat"),
                "the cat Chelsea by Stefan van der Walt (CC0)"),
}
DRAWN = ("disc", "star", "ring")


def card(path: Path) -> str:
    "The model card beside a file of weights, or nothing."
    beside = path.with_suffix(".md")
    return beside.read_text(encoding="utf-8") if beside.exists() else ""


def accuracy(path: Path) -> float:
    "Top-1 on the validation images in percent, as the model card says; 0 if it does not."
    found = re.search(r"^\| validation \| ([\d.]+) %", card(path), re.M)
    return float(found[1]) if found else 0.0


def smallest_shipped() -> Path:
    "The shipped network that arrives and answers soonest."
    return min(models.shipped().values(), key=lambda path: path.stat().st_size)


def metadata(path: Path) -> dict[str, str]:
    "What a file of weights says about itself."
    with safe_open(path, "pt") as f: return f.metadata()


def describe(net: convnext.ConvNeXt, preprocessing: data.Preprocessing, classes,
             layer_scale: float | None) -> dict:
    "Everything that the page must know about a network besides its weights."
    if not isinstance(net, convnext.ConvNeXt) or "stages.0.0.grn.gamma" in net.state_dict():
        raise SystemExit(f"the live page runs ConvNeXt V1, not {type(net).__name__} with GRN")
    state = net.state_dict()
    return {
        "depths": [len(stage) for stage in net.stages],
        "dims": [state[f"stages.{s}.0.norm.weight"].numel() for s in range(len(net.stages))],
        "kernel": state["stages.0.0.dwconv.weight"].shape[-1],
        "stem": net.stem_stride,
        "layer_scale": layer_scale,  # the initial value
        "classes": list(classes),
        **preprocessing.to_dict(),
    }


def road() -> dict:
    "The steps of the roadmap for ResNet-50, as the page's second part shows them."
    found = json.loads(anatomy.as_json(("resnet50",)))
    steps = found["regimes"]["resnet50"]
    for step in steps:
        for stage in step["stages"]: stage.pop("first")
    return {"families": found["families"], "steps": steps, "colors": draw.COLORS}


def data_url(image: Image.Image, kind: str) -> str:
    buffer = io.BytesIO()
    image.save(buffer, kind)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def examples() -> list[tuple[str, tuple[str, ...], str, Image.Image, str]]:
    "Pictures to try: what it shows, right names, its address, the picture, whose it is."
    found = []
    for name, (shows, right, source) in PHOTOS.items():
        path = SOURCE / "photos" / name
        url = "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()
        found.append((shows, right, url, Image.open(path), source))
    drawn = data.Shapes(n_train=10, n_val=100).val
    for name in DRAWN:
        first = int((drawn.labels == shapes.SHAPES.index(name)).nonzero()[0])
        image = Image.fromarray(drawn.images[first].numpy())
        found.append((f"a drawn {name}", (name,), data_url(image, "png"), image, ""))
    return found


def signed(values: torch.Tensor) -> torch.Tensor:
    "Numbers (h, w) as colors (h, w, 3): blue below zero, red above, white at zero."
    share = (values / values.abs().max().clamp(min=1e-12)).unsqueeze(2)
    red, blue = torch.tensor([190.0, 45, 45]), torch.tensor([33.0, 102, 172])
    white = torch.tensor([247.0, 247, 245])
    return (white + (torch.where(share < 0, blue, red) - white) * share.abs()).byte()


def still(net, image: Image.Image, preprocessing) -> Image.Image:
    "For browsers without scripts: what the network sees, and nine channels of each stage."
    seen = data.resize_and_crop(image, preprocessing)
    side = 192
    tiles = [seen.resize((side, side), Image.Resampling.NEAREST)]
    x = torch.frombuffer(bytearray(seen.tobytes()), dtype=torch.uint8)
    x = x.view(1, seen.height, seen.width, 3).permute(0, 3, 1, 2)
    x = data.to_float(x, preprocessing)
    for downsample, stage in zip(net.downsample_layers, net.stages):
        x = stage(downsample(x))
        strongest = x[0].var((1, 2)).argsort(descending=True)[:9]
        rows = [torch.cat([signed(m) for m in x[0, strongest[i:i + 3]]], 1) for i in (0, 3, 6)]
        tile = Image.fromarray(torch.cat(rows).numpy())
        tiles.append(tile.resize((side, side), Image.Resampling.NEAREST))
    strip = Image.new("RGB", (len(tiles) * (side + 8) - 8, side), "white")
    for i, tile in enumerate(tiles): strip.paste(tile, (i * (side + 8), 0))
    return strip.quantize(128)


def buttons(pictures, known: list[str]) -> str:
    "A button for each picture to try, with the names for it that are right and known."
    found = []
    for shows, right, url, *_ in pictures:
        names = "|".join(name for name in right if name in known)
        found.append(f'<button data-shows="{shows}" data-right="{names}">'
                     f'<img src="{url}" alt="Try {shows}" title="{shows}"></button>')
    return "\n".join(found)


def plain_names(classes) -> list[str]:
    "The names of the classes without ImageNet's numbers."
    return [re.sub(r"^n\d{8} ", "", name) for name in classes]


def knowledge(path: Path, classes) -> dict[str, str]:
    "How good the network is and what it knows, in words, from its card and its class names."
    names = sorted(plain_names(classes), key=str.lower)
    measured = accuracy(path)
    known = any(name in DRAWN for name in names)
    return {
        "accuracy_words": f"It is right first time on {measured:.0f} of 100 pictures that it was "
                          "tested on." if measured else "",
        "class_count": str(len(names)),
        "class_list": "".join(f"<li>{html.escape(name)}</li>" for name in names),
        "shapes_words": "" if known else " (none of its things: to look inside)",
    }


def fill(template: str, **values: str) -> str:
    "The template with every {{name}} replaced; KeyError for a name that is not given."
    return re.sub(r"\{\{(\w+)\}\}", lambda m: values[m[1]], template)


def versioned(file: Path) -> str:
    "A file's address; it changes with the file, so that no browser mixes two versions of the page."
    return f"live/{file.name}?v={zlib.crc32(file.read_bytes()):08x}"


def script(file: Path) -> str:
    "The tag of a script; the weights, which are large, let all others go first."
    last = ' fetchpriority="low"' if file.name == SCRIPTS[-1] else ""
    return f'<script src="{versioned(file)}"{last}></script>'


def page(net, preprocessing, classes, path: Path, folder: Path) -> str:
    "The text of live.html; the files that it names lie in `folder`."
    about = metadata(path)
    pictures = examples()
    known = plain_names(classes)
    with torch.no_grad(): strip = still(net, pictures[0][3], preprocessing)
    (guess, chance), = models.classify(net, [pictures[0][3]], preprocessing, classes, top=1)[0]
    icon = (STATIC / "favicon.svg").read_text(encoding="utf-8")
    sources = "; ".join(source for *_, source in pictures if source)
    return fill(
        (SOURCE / "index.html").read_text(encoding="utf-8"),
        site=address(), site_name=settings()["title"],
        icon=f"data:image/svg+xml,{quote(icon.strip())}", style=versioned(folder / "live.css"),
        millions=f"{sum(p.numel() for p in net.parameters()) / 1e6:.1f}",
        megabytes=f"{path.stat().st_size * 4 / 3 / 1e6:.0f}",
        shows=pictures[0][0], guess=html.escape(f"{guess.partition(' ')[2]} ({chance:.0%})"),
        strip=data_url(strip, "png"), strip_width=str(strip.width),
        photos=buttons(pictures[:len(PHOTOS)], known),
        figures=buttons(pictures[len(PHOTOS):], known),
        name=path.name, data=html.escape(about.get("data", "")),
        input_words=f"{preprocessing.size} x {preprocessing.size} pixels go in.",
        **knowledge(path, classes),
        terms=html.escape(about.get("terms", "")) + ".",
        credits=f"Photographs, cropped, from scikit-image's data: {sources}. "
                "The figures are drawn by this project.",
        scripts="\n".join(script(folder / name) for name in SCRIPTS))


def build(site: Path) -> None:
    "Write live.html and live/ into a folder."
    path = smallest_shipped()
    net, preprocessing, classes = models.restore(path)
    folder = site / "live"
    folder.mkdir(parents=True, exist_ok=True)
    for source in [*SOURCE.glob("*.js"), SOURCE / "live.css"]:
        (folder / source.name).write_bytes(source.read_bytes())
    worker = "\n".join((SOURCE / name).read_text(encoding="utf-8") for name in IN_WORKER)
    network_args = json.loads(metadata(path)["network_args"])
    start = network_args.get("layer_scale", 1e-6) or None
    about = {"config": describe(net, preprocessing, classes, start), "worker": worker}
    (folder / "data.js").write_text(
        '"use strict";\n// Made by tools/live.py: the network\'s sizes, the text of the worker.\n'
        f"const LIVE = {json.dumps(about)};\n", encoding="utf-8")
    (folder / "steps.js").write_text(
        '"use strict";\n// Made by tools/live.py: the steps of the roadmap.\n'
        f"const ROAD = {json.dumps(road(), ensure_ascii=False)};\n", encoding="utf-8")
    weights = base64.b64encode(path.read_bytes()).decode()
    (folder / "weights.js").write_text(f'weightsArrived("{weights}");\n', encoding="utf-8")
    text = page(net, preprocessing, classes, path, folder)
    (site / "live.html").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    target = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "_docs"
    if target.name.startswith("-"): sys.exit(__doc__)
    build(target)
    print(f"open {target / 'live.html'}")
