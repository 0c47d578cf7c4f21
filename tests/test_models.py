"""Trained networks read back: from run folders, from files, and the one in the package."""
import json
import math
import re
from functools import partial
from itertools import product
from pathlib import Path

import pytest
import torch
from children import python
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from convnext_nb import convnext, data, models, runs, weights
from convnext_nb.data import Preprocessing

ROOT = Path(__file__).resolve().parent.parent
SMALL = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), layer_scale=1.0)
CLASSES = ("ant", "bee", "cat")
PRE = Preprocessing(size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def network(k=3, drop_path=0.5):
    torch.manual_seed(0)
    return weights.randomize(convnext.ConvNeXt(num_classes=k, drop_path=drop_path, **SMALL))


def run_folder(folder, net, model_args=SMALL, classes=CLASSES, epochs=2, **files):
    "A run's folder as `train.fit` leaves it."
    run = runs.Run(folder)
    folder.mkdir(parents=True)
    runs.write_json(folder / "recipe.json", dict(
        recipe=dict(model="convnext", model_args=dict(model_args), epochs=epochs),
        data=dict(classes=list(classes), preprocessing=PRE.to_dict(), source="drawn")))
    for i in range(epochs):
        run.append(dict(epoch=i + 1))
    about = dict(network="convnext", network_args=json.dumps(model_args),
                 preprocessing=json.dumps(PRE.to_dict()), classes=json.dumps(classes))
    weights.save(net, folder / "model", **about)
    runs.write_json(folder / "evidence.json", dict(val_top1=50.0))
    return folder


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(
        a.state_dict().values(), b.state_dict().values(), strict=True))


def test_restore_a_run_and_its_file(tmp_path):
    net = network()
    folder = run_folder(tmp_path / "run", net)
    for source in (folder, str(folder), folder / "model.safetensors"):
        found, pre, classes = models.restore(source)
        assert same(net, found) and not found.training and (pre, classes) == (PRE, CLASSES)
    average = network()
    with torch.no_grad():
        average.head.bias += 1
    weights.save(average, folder / "ema")
    assert same(average, models.restore(folder, ema=True)[0])
    assert same(net, models.restore(folder)[0])


def test_restore_says_what_is_wrong(tmp_path):
    net = network()
    good = run_folder(tmp_path / "run", net) / "model.safetensors"

    def refused(source, match, error=ValueError, **kw):
        with pytest.raises(error, match=match):
            models.restore(source, **kw)
    refused(tmp_path / "none", "no run .*atto_tiny200", FileNotFoundError)
    refused(tmp_path / "none.safetensors", "there is no file", FileNotFoundError)
    refused(good.parent, "trained without EMA", ema=True)
    bare = weights.save(net, tmp_path / "bare")
    refused(bare, "does not say what it holds .no network, network_args, preprocessing, classes")
    refused(good.parent / "metrics.jsonl", "neither a run folder nor a .safetensors file")
    (tmp_path / "text.safetensors").write_text("no tensors")
    refused(tmp_path / "text.safetensors", "no safetensors file")
    with safe_open(good, "pt") as f:
        about, tensors = f.metadata(), load_file(good)
    odd = tmp_path / "odd.safetensors"
    for change, match in [
            (dict(classes="[1, 2"), "bad metadata"),
            (dict(network="convnext_gigantic"), "unknown model"),
            (dict(network_args='{"width": 3}'), "convnext cannot be built with"),
            (dict(classes='["ant", "bee"]'), "another network .* with 2 classes"),
            (dict(network="convnext_atto", network_args="{}"), "do not fit|shapes differ")]:
        save_file(tensors, odd, about | change)
        refused(odd, match)
    good.unlink()
    refused(good.parent, "weights are not committed")
    (good.parent / "evidence.json").unlink()
    refused(good.parent, r"unfinished \(2 of 2 epochs\)")


# The networks in the package

NAME = "atto_tiny200"
SHIPPED = {NAME: ("hour/mixed", partial(convnext.convnext_atto, num_classes=200), 8e6),
           "half_tiny200": ("evening/third", partial(
               convnext.ConvNeXt, (3, 3, 9, 3), (48, 96, 192, 384), num_classes=200,
               stem_stride=2), 15e6)}
each_shipped = pytest.mark.parametrize("name", SHIPPED)


def test_these_are_shipped():
    assert list(models.shipped()) == sorted(SHIPPED)


@each_shipped
def test_the_shipped_network_is_small_and_says_what_it_is(name):
    run, make, most = SHIPPED[name]
    path = models.shipped()[name]
    assert path.stat().st_size < most
    with safe_open(path, "pt") as f:
        about = f.metadata()
        assert {f.get_tensor(k).dtype for k in f.keys()} == {torch.float16}
    assert {"network", "network_args", "preprocessing", "classes", "run", "terms"} <= set(about)
    assert "non-commercial" in about["terms"] and about["run"] == run
    net, pre, classes = models.restore(name)
    assert (len(classes), pre.size) == (200, 64)
    other = make()
    weights.load(other, path)
    assert same(net, other)


@each_shipped
def test_the_shipped_network_answers(name):
    net, pre, classes = models.restore(name)
    pictures = [Image.fromarray(im.numpy()) for im in data.Shapes(0, 3).val.images]
    pictures[1] = pictures[1].resize((300, 200)).convert("L")
    found = models.classify(net, pictures, pre, classes, top=200)
    for best in found:
        assert sum(p for _, p in best) == pytest.approx(1, abs=1e-4)
        assert {c for c, _ in best} == set(classes)
        assert [p for _, p in best] == sorted((p for _, p in best), reverse=True)
    alone = models.classify(net, pictures[2:], pre, classes, top=1)
    assert alone[0][0][0] == found[2][0][0]
    for top in (0, 201):
        with pytest.raises(ValueError, match="1 to 200"):
            models.classify(net, pictures, pre, classes, top)


def test_as_many_classes_as_there_are():
    for n, expected in ((2, 2), (4, 4), (8, 5)):
        net = convnext.ConvNeXt((1, 1, 1, 1), (8, 8, 8, 8), num_classes=n).eval()
        pictures = [Image.new("RGB", (32, 32))]
        best, = models.classify(net, pictures, Preprocessing(size=32), tuple(map(str, range(n))))
        assert len(best) == expected


@each_shipped
def test_its_card_says_what_was_measured(name):
    card = models.shipped()[name].with_suffix(".md").read_text()
    run = ROOT / "nbs/runs" / SHIPPED[name][0]
    found = json.loads((run / "eval.json").read_text())
    row = found["results"][0]
    train = row.get("train_top1") or json.loads((run / "evidence.json").read_text())["train_top1"]
    flip = row["flip"]
    for value in (row["top1"], row["top5"], train, flip["top1"], flip["top5"], found["ece"]):
        assert re.search(rf"\b{value:.2f}\b", card), value
    assert found["run"] == name and found["images"] == 10_000 and found["split"] == "val"
    mean = sum(found["top1_by_class"].values()) / 200  # 50 images a class
    assert math.isclose(mean, row["top1"], rel_tol=1e-6)
    for word in ("non-commercial", "64 x 64", "200 classes"):
        assert word in card
    code, = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    shown = {}
    exec(code, shown)
    assert len(shown["classes"]) == 200


def test_the_package_contains_it():
    code = ("import setuptools; from distutils.core import run_setup;"
            "build = run_setup('setup.py', stop_after='init').get_command_obj('build_py');"
            "build.ensure_finalized(); print([n for *_, names in build.data_files for n in names])")
    listed = python(code)
    for name, kind in product(SHIPPED, ("safetensors", "md")):
        assert f"'pretrained/{name}.{kind}'" in listed


@pytest.mark.parametrize("model, args", [
    ("convnext", dict(depths=3)), ("convnext", dict(depths="abc", dims=[8, 16, 32])),
    ("convnext_atto", dict(layer_scale="a")), ("convnext_atto", dict(drop_path=[0.1])),
    ("convnext_atto", dict(colour=1)),
    ("convnext", dict(depths=[1, 1], dims=[8, -1])), ("resnet18", dict(stem_stride="a")),
    ("resnet18", dict(drop_path_rate=0.1)), ("swin_t", dict(window={})),
    ("roadmap/k7", dict(kernel="a")), ("roadmap/k7", dict(width_mult="a"))])
def test_arguments_that_a_network_cannot_use(model, args):
    with pytest.raises(ValueError) as error:
        models.create(model, 3, **args)(torch.zeros(1, 3, 64, 64))
    assert str(error.value).startswith(f"{model} cannot be built with {args}: ")


def test_a_warning_of_another_library_is_no_fault_of_the_weights():
    """torchvision warns like that where its picture decoders do not load."""
    code = """
import sys, warnings
class Finder:
    def find_spec(self, name, path, target=None):
        if name == "torchvision.io": warnings.warn("Failed to load image Python extension")
sys.meta_path.insert(0, Finder())
from convnext_nb import models
print(len(models.restore("atto_tiny200")[2]))"""
    assert python(code) == "200"


def test_a_file_has_no_average():
    with pytest.raises(ValueError, match="leave out ema"): models.restore(NAME, ema=True)


def test_another_programs_recipe(tmp_path):
    (tmp_path / "recipe.json").write_text("{}")
    with pytest.raises(ValueError, match="another program's"): models.restore(tmp_path)


def test_no_pictures():
    assert models.classify(network(), [], PRE, CLASSES) == []


def test_as_many_names_as_logits():
    picture = Image.new("RGB", (40, 40))
    with pytest.raises(ValueError, match="2 class names for 3 logits"):
        models.classify(network(), [picture], Preprocessing(size=32), ("a", "b"))


@pytest.mark.parametrize("key, value, said", [
    ("classes", "3", "classes is no list"), ("network_args", "null", "network_args is no dict"),
    ("preprocessing", '{"sise": 3}', "no preprocessing called sise; there are: size")])
def test_metadata_of_another_kind_are_told_with_the_file(key, value, said, tmp_path):
    about = dict(network="convnext_atto", network_args="{}", classes='["a", "b"]',
                 preprocessing=json.dumps(PRE.to_dict())) | {key: value}
    path = weights.save(convnext.convnext_atto(num_classes=2), tmp_path / "net", **about)
    with pytest.raises(ValueError, match=f"{path.name}: {said}"): models.restore(path)
