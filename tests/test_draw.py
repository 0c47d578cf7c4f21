"""Pictures are sound SVG, README's is up to date, and chapters show each step that they teach."""
import json
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import torch
from torch.nn import functional

from convnext_nb import draw
from convnext_nb.anatomy import CHAPTERS, parts, total
from convnext_nb.convnext import Block, ConvNeXt
from convnext_nb.roadmap import steps
from convnext_nb.swin import Swin

ROOT = Path(__file__).resolve().parent.parent
SVG = "{http://www.w3.org/2000/svg}"
TAUGHT = [s for s in steps() if s.parent and s.name not in ("k5", "k9", "k11")]


@pytest.fixture(scope="module")
def pictures():
    return [draw.morph(), draw.where("invert"), draw.difference("ln", "sep_ds")]


def test_pictures_are_sound(pictures):
    "Well-formed, named for screen readers, without ids that clash when a page has two of them."
    for picture in pictures:
        root = ElementTree.fromstring(picture.svg())
        assert [child.tag for child in root[:2]] == [SVG + "title", SVG + "desc"]
        assert root[0].text and root[1].text and root.get("role") == "img"
        assert not [e for e in root.iter() if e.get("id")]
        texts = [e for e in root.iter(SVG + "text")]
        assert texts and all(e.get("fill") in (None, "white") for e in texts)  # the page's ink
        for e in texts:
            assert 0 <= float(e.get("x")) <= picture.width


def test_labels_fit(pictures):
    "Labels of two blocks side by side stay in their columns; a letter takes 0.6 of its size."
    root = ElementTree.fromstring(pictures[2].svg())
    for group in root.iter(SVG + "g"):
        for e in group.findall(SVG + "text"):
            end = float(e.get("x")) + 0.6 * float(e.get("font-size")) * len(e.text)
            assert end <= (184 if float(e.get("x")) < 190 else 380) + 6, e.text


def test_rows_of_numbers_have_names():
    for picture, times in ((draw.network("base"), 1), (draw.difference("base", "stage_ratio"), 2)):
        said = [e.text for e in ElementTree.fromstring(picture.svg()).iter(SVG + "text")]
        assert said.count("parameters") == said.count("multiply-adds") == times


def test_one_block_is_no_plural():
    net = ConvNeXt((1, 2), (8, 16), 10)
    said = [e.text for e in ElementTree.fromstring(draw.network(net).svg()).iter(SVG + "text")]
    assert "1 block" in said and "2 blocks" in said and "1 blocks" not in said


@pytest.mark.parametrize("stage", [0, 5, -1])
def test_a_stage_that_is_not_there(stage):
    with pytest.raises(ValueError, match=f"stage {stage}: stage must be 1 to 4"):
        draw.difference("base", "stage_ratio", stage=stage)


def test_file_for_readme(pictures, tmp_path):
    pictures[0].save(tmp_path / "block.svg")
    made = (tmp_path / "block.svg").read_text(encoding="utf-8")
    assert (ROOT / "image/block.svg").read_text(encoding="utf-8") == made, (
        "image/block.svg is old: make outputs ARGS=nbs/640_draw.ipynb")


def section(step):
    "Heading and code of the part of a chapter that teaches a step, and the chapter's headings."
    path = ROOT / "nbs" / f"{CHAPTERS[step]}.ipynb"
    found, headings, inside = [], [], False
    for cell in json.loads(path.read_text(encoding="utf-8"))["cells"]:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            lines = re.findall(r"^#+ .*", source, re.M)
            headings += lines
            named = [line for line in lines if "The step `" in line]
            if named: inside = f"`{step}`" in named[0]
            if inside and named: found.append(source)
        elif inside: found.append(source)
    return found, headings


@pytest.mark.parametrize("step", TAUGHT, ids=lambda s: s.name)
def test_each_step_is_found_by_its_name(step):
    "Question, where you are, the difference as picture and as data, shapes, and the paper's cost."
    (heading, *code), headings = section(step.name)
    code = "\n".join(code)
    assert re.search(r"^> .+\?$", heading, re.M), "no question below the heading"
    assert f'draw.where("{step.name}")' in code
    assert f'draw.difference("{step.parent}", "{step.name}"' in code
    assert f'diff(step("{step.parent}"), step("{step.name}"))' in code
    assert re.search(r"maps|shapes", code) and "test_eq" in code
    assert re.search(r"check_cost\(|paper_table\(", code)
    for heading in ("## Does it train?", "## Exercises", "## Recap"): assert heading in headings


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_any_precision_is_drawn_alike(dtype):
    net = ConvNeXt((1, 1), (8, 16), 10)
    plain = draw.network(net).svg(), draw.block(net).svg()
    assert (draw.network(net.to(dtype)).svg(), draw.block(net).svg()) == plain


@pytest.mark.parametrize("stages", [1, 4, 5, 7])
@pytest.mark.parametrize("features", [False, True])
def test_networks_of_any_length_are_drawn_whole(stages, features):
    net = ConvNeXt((1,) * stages, (8,) * stages, 10, features=features)
    picture = draw.network(net, size=512)
    drawn = ElementTree.fromstring(picture.svg())
    points = [float(p.split(",")[0]) for e in drawn.iter(SVG + "polygon")
              for p in e.get("points").split()]
    assert max(points) <= picture.width
    assert ("head:" in picture.description) == (not features)


def test_a_network_for_another_size():
    net = Swin((2, 2), 16, (1, 2), num_classes=3, img_size=64)
    assert "16×16" in draw.network(net, size=64).svg()
    assert draw.block(net, size=64).svg()


def test_large_numbers_are_rounded_before_their_unit():
    assert [draw._large(n) for n in (999, 999_400, 999_700, 1e6, 999_999_999)] == [
        "999", "999 k", "1 M", "1 M", "1 G"]


class Squeezing(Block):
    "Multiplies each channel by its mean, and calls its activation as a function."
    def forward(self, x):
        y = self.norm(self.dwconv(x).permute(0, 2, 3, 1))
        y = self.pwconv2(functional.gelu(self.pwconv1(y)))
        y = y * y.mean((1, 2), keepdim=True)
        return x + y.permute(0, 3, 1, 2)


def test_only_layer_scale_is_called_so():
    net = ConvNeXt((2,), (8,), 10)
    plain = parts(net)
    squeezing = [Squeezing(8, layer_scale=None) for _ in range(2)]
    net.stages[0] = torch.nn.Sequential(*squeezing)
    found = parts(net)
    assert [box["label"] for box in plain[-2:]] == ["layer scale", "+"]
    assert [box["label"] for box in found[-2:]] == ["×", "+"]
    assert "GELU" in [box["label"] for box in found]
    assert total(plain, "params") - total(found, "params") == 8


def test_the_picture_at_rest_is_not_cut_off(pictures):
    "For readers who prefer no motion, `morph` shows two blocks and a legend."
    moving = pictures[0]
    root = ElementTree.fromstring(moving.svg())
    still, = (g for g in root.iter(SVG + "g") if g.get("class") == "cnx-still")
    lowest = max(float(e.get("y")) for e in still.iter(SVG + "text"))
    assert lowest < moving.height


@pytest.mark.parametrize("layer", [torch.nn.SiLU(), torch.nn.Softplus()])
def test_a_layer_that_is_not_known_is_not_left_out(layer):
    net = ConvNeXt((2,), (8,), 10)
    for block in net.stages[0]: block.act = layer
    with pytest.raises(ValueError, match=f"does not know {type(layer).__name__}"): parts(net)
