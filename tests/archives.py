"""Tiny-ImageNet in small, whole and damaged, for the tests of archive, packing and data."""
import io
import zipfile

import numpy as np
from PIL import Image

from convnext_nb import data

SMALL = data.Layout(classes=2, train=3, val=1)


def picture(seed, mode="RGB", side=64, kind="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


def toy_files():
    "A tiny Tiny-ImageNet: two classes, lists out of order, one gray image."
    files = {"wnids.txt": b"n02\nn01\n", "words.txt": b"n01\theart, ticker\nn02\tstar"}
    for i in range(3):
        files[f"train/n01/images/n01_{i}.JPEG"] = picture(i)
        files[f"train/n02/images/n02_{i}.JPEG"] = picture(10 + i, "L" if i == 0 else "RGB")
    files |= {f"val/images/val_{i}.JPEG": picture(20 + i) for i in range(2)}
    files["val/val_annotations.txt"] = b"val_1.JPEG\tn01\t0\t0\nval_0.JPEG\tn02\t0\t0\n"
    return files


def write_zip(path, files, root="tiny-imagenet-200/"):
    with zipfile.ZipFile(path, "w") as z:
        for name, content in files.items():
            z.writestr(name if name.startswith(("/", "..", "C:")) else root + name, content)
    return path


def write_folder(path, files):
    for name, content in files.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def without(start):
    return {k: v for k, v in toy_files().items() if not k.startswith(start)}


def leftovers(home):
    "What is in the folder for packed data, apart from the empty lock file."
    return sorted(p.name for p in home.glob("*") if p.name != ".lock") if home.exists() else []


def open_toy(path, **kwargs):
    return data.TinyImageNet(path, SMALL)


def assert_whole(dataset):
    assert dataset.classes == ("n01 heart", "n02 star")
    assert dataset.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert dataset.val.labels.tolist() == [1, 0]
    files = toy_files()
    names = [f"train/n0{k}/images/n0{k}_{i}.JPEG" for k in (1, 2) for i in range(3)]
    for split, some in ((dataset.train, names), (dataset.val, sorted(without("train")))):
        some = [n for n in some if n.endswith(".JPEG")]
        for image, name in zip(split.images, some, strict=True):
            expected = np.array(Image.open(io.BytesIO(files[name])).convert("RGB"))
            assert np.array_equal(image, expected), name
