"""Own pictures, one word for all data, and the real Tiny-ImageNet where it is."""
import io
import json
import os
import random
import shutil
import time
from functools import partial
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from archives import (
    SMALL,
    assert_whole,
    leftovers,
    picture,
    toy_files,
    write_folder,
    write_zip,
)
from PIL import Image, features

from convnext_nb import archive, data, packing
from convnext_nb.data import Preprocessing

try:
    REAL = data.find_tiny_imagenet()  # before the tests below hide it
except FileNotFoundError:
    REAL = None


pytestmark = pytest.mark.usefixtures("home")

# own pictures

def own_files(ext="png", **more):
    kind = {"jpg": "JPEG"}.get(ext, ext.upper())
    return {f"{c}/{i}.{ext}": picture(10 * k + i, kind=kind)
            for k, c in enumerate(("cat", "dog")) for i in range(5)} | more


def test_own_pictures(tmp_path):
    extra = {"cat/notes.txt": b"x", "README.md": b"y", "cat/.DS_Store": b"z"}
    folder = write_folder(tmp_path / "own", own_files() | extra)
    own = data.ImageFolder(folder)
    assert own.classes == ("cat", "dog") and (len(own.train), len(own.val)) == (8, 2)
    assert own.train.labels.bincount().tolist() == [4, 4]
    assert own.val.labels.bincount().tolist() == [1, 1]
    seen = {i.numpy().tobytes() for s in (own.train, own.val) for i in s.images}
    assert seen == {np.array(Image.open(p)).tobytes() for p in folder.glob("*/*.png")}
    again = data.ImageFolder(folder)
    assert torch.equal(own.val.images, again.val.images)  # a fixed fifth


def test_own_pictures_with_val(tmp_path):
    files = own_files()
    parted = {f"{'val' if '4.' in n else 'train'}/{n}": f for n, f in files.items()}
    own = data.ImageFolder(write_folder(tmp_path / "own", parted))
    assert own.train.labels.tolist() == [0] * 4 + [1] * 4 and own.val.labels.tolist() == [0, 1]
    assert np.array_equal(own.val.images[1], np.array(Image.open(io.BytesIO(files["dog/4.png"]))))


@pytest.mark.parametrize("mode, kind", [("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("1", "PNG"),
                                        ("RGBA", "PNG"), ("CMYK", "JPEG"), ("L", "JPEG"),
                                        ("P", "GIF"), ("RGB", "WEBP"), ("RGB", "BMP")])
def test_any_eight_bit_mode_becomes_rgb(mode, kind, tmp_path):
    ext = {"JPEG": "jpg"}.get(kind, kind.lower())
    odd = picture(0, mode, side=40, kind=kind)
    files = own_files() | {f"{c}/odd.{ext}": odd for c in ("cat", "dog")}
    own = data.ImageFolder(write_folder(tmp_path / "own", files), size=32)
    rgb = Image.open(io.BytesIO(odd)).convert("RGB")
    expected = data.resize_and_crop(rgb, Preprocessing(size=32))
    assert expected.size == (32, 32)
    whole = torch.cat([own.train.images, own.val.images])
    assert ((whole == torch.from_numpy(np.array(expected))).flatten(1).all(1)).sum() == 2


def deep(mode="I;16"):
    file = io.BytesIO()
    Image.new(mode, (64, 64), 30_000).save(file, "PNG")
    return file.getvalue()


OWN_FAULTS = {
    "broken picture": (own_files() | {"dog/2.png": picture(2, kind="PNG")[:-400]},
                       "dog/2.png is not a readable image .*; replace or remove the file"),
    "no picture": (own_files() | {"dog/2.png": b"GIF"}, "dog/2.png is not a readable image"),
    "16 bits": (own_files() | {"dog/2.png": deep()}, "dog/2.png .*more than 8 bits a channel"),
    "one class": ({k: v for k, v in own_files().items() if "cat" in k},
                  r"pictures of 1 classes \['cat'\]; expected at least 2 folders like cat/one"),
    "no class": ({"a.png": picture(0, kind="PNG")}, "pictures of 0 classes"),
    "empty folder": ({"a.txt": b""}, "pictures of 0 classes"),
    "only val/": ({f"val/{k}": v for k, v in own_files().items()}, "has val/, but no train/"),
    "two of val": ({f"{s}/{k}": v for k, v in own_files().items()
                    for s in ("train", "val", "Valid")}, "2 folders for val: Valid, val; keep one"),
    "class of unknown files": (own_files() | {"emu/1.heic": b"x", "emu/2.heic": b"y"},
                               r"emu has no pictures that can be read, only .heic \(2\): add some"),
    "class only in train/": ({f"{s}/{k}": v for k, v in own_files().items()
                              for s in ("train", "val")} | {"train/emu/notes.txt": b"x"},
                             r"train/emu has no pictures .*\.txt \(1\)"),
    "several": (own_files() | {"cat/1.png": b"", "dog/2.png": b"GIF", "dog/3.png": deep()},
                r"3 images are not readable: cat/1.png .*, dog/2.png .*, dog/3.png .*8 bits"),
    "very many": (own_files() | {f"cat/a{i:02}.png": b"" for i in range(20)},
                  r"at least 12 images are not readable: cat/a00.png .*cat/a11.png \([^(]*\); "),
    "one class in val": ({f"train/{k}": v for k, v in own_files().items()}
                         | {"val/cat/9.png": picture(9)}, "expected at least 2 folders like val/"),
    "class only in val": ({f"{s}/{k}": v for k, v in own_files().items() for s in ("train", "val")}
                          | {"val/emu/1.png": picture(9)}, r"train/ lacks: \['emu'\]"),
    "one picture": (own_files() | {"emu/1.png": picture(9)}, "emu has one picture; two are needed"),
    "one below train": ({f"train/{k}": v for k, v in own_files().items()}
                        | {"train/emu/1.png": picture(9)}, "/train/emu has one picture"),
}


@pytest.mark.parametrize("fault", OWN_FAULTS)
def test_faults_of_own_pictures(fault, tmp_path, home):
    files, words = OWN_FAULTS[fault]
    folder = write_folder(tmp_path / "own", files)
    with pytest.raises(ValueError, match=words) as e:
        data.ImageFolder(folder)
    assert str(folder) in str(e.value) and leftovers(home) == []
    shutil.rmtree(folder)
    assert len(data.ImageFolder(write_folder(folder, own_files())).train) == 8


@pytest.mark.parametrize("train, val", [
    ("train", "valid"), ("Train", "Validation"), ("TRAIN", "Val"), ("training", "test"),
    ("train", "Testing"), ("training_set", "test_set"), ("Trainset", "dev"), ("train", "Eval")])
def test_split_folders_have_usual_names(train, val, tmp_path):
    parted = {f"{val if '4.' in n else train}/{n}": f for n, f in own_files().items()}
    own = data.ImageFolder(write_folder(tmp_path / "own", parted))
    assert own.classes == ("cat", "dog") and (len(own.train), len(own.val)) == (8, 2)


def test_test_is_kept_apart_where_there_is_val(tmp_path, capsys):
    parted = {f"{s}/{n}": f for s, n_s in dict(train="01", val="23", test="4").items()
              for n, f in own_files().items() if n[4] in n_s}
    own = data.ImageFolder(write_folder(tmp_path / "own", parted))
    assert (len(own.train), len(own.val)) == (4, 4) and "skipped" not in capsys.readouterr().err
    alone = {k: v for k, v in parted.items() if k.startswith("train")}
    own = data.ImageFolder(write_folder(tmp_path / "alone", alone))
    assert own.classes == ("cat", "dog") and (len(own.train), len(own.val)) == (2, 2)


def test_says_if_classes_look_like_splits(tmp_path, capsys):
    seg = {f"{s}/{k}": v for k, v in own_files().items() for s in ("seg_a", "seg_b")}
    assert data.ImageFolder(write_folder(tmp_path / "own", seg)).classes == ("seg_a", "seg_b")
    said = "seg_a, seg_b are taken for classes, though each holds cat, dog; if they are splits"
    assert said in capsys.readouterr().err
    data.ImageFolder(write_folder(tmp_path / "other", seg | {"seg_b/emu/1.png": picture(99)}))
    data.ImageFolder(write_folder(tmp_path / "flat", own_files()))
    assert "splits" not in capsys.readouterr().err


def test_many_classes_are_looked_through_once(capsys):
    names = [f"n{i:08d}" for i in range(8000)]
    archive = SimpleNamespace(path="many", folders=[*names, *(f"{n}/{c}" for n in names[:-1]
                                                              for c in "xy")], names=[])
    start = time.process_time()
    data._say_if_splits(archive, names)
    assert time.process_time() - start < 2 and not capsys.readouterr().err
    archive.folders += [f"{names[-1]}/x", f"{names[-1]}/y"]
    data._say_if_splits(archive, names)
    assert "though each holds x, y;" in capsys.readouterr().err


def test_a_class_may_be_called_train(tmp_path):
    files = {n.replace("dog", "train"): f for n, f in own_files().items()}
    assert data.ImageFolder(write_folder(tmp_path / "own", files)).classes == ("cat", "train")


LEFT_BEHIND = [".ipynb_checkpoints/1-checkpoint.png", "@eaDir/1.png", "__MACOSX/cat/._1.png",
               "cat/._1.png", "cat/Thumbs.db", "dog/.DS_Store", "cat/.ipynb_checkpoints/1.png",
               "dog/@eaDir/2.png/SYNOPHOTO_THUMB_M.jpg", ".git/x.png", "cat/desktop.ini"]


@pytest.mark.parametrize("parted", [False, True])
def test_what_systems_leave_behind_is_ignored(parted, tmp_path, capsys):
    splits = ("train/", "val/") if parted else ("",)
    extra = {name: picture(99, kind="PNG") if "checkpoint" in name else b"\x00\x05\x16\x07"
             for name in LEFT_BEHIND}
    def of(files): return {s + n: f for n, f in files.items() for s in splits}
    own = data.ImageFolder(write_folder(tmp_path / "own", of(own_files() | extra)))
    assert own.classes == ("cat", "dog") and "skipped" not in capsys.readouterr().err
    clean = data.ImageFolder(write_folder(tmp_path / "clean", of(own_files())))
    assert torch.equal(own.train.images, clean.train.images)


@pytest.mark.parametrize("ext, kind", [("jfif", "JPEG"), ("jpe", "JPEG"), ("avif", "AVIF"),
                                       ("jp2", "JPEG2000"), ("ppm", "PPM"), ("tga", "TGA"),
                                       ("JPG", "JPEG")])
def test_reads_what_pillow_reads(ext, kind, tmp_path):
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    files = own_files() | {f"{c}/more.{ext}": picture(50, kind=kind) for c in ("cat", "dog")}
    own = data.ImageFolder(write_folder(tmp_path / "own", files))
    assert len(own.train) + len(own.val) == 12


def test_says_what_it_skips(tmp_path, capsys):
    extra = {"cat/1.heic": b"x", "dog/2.HEIC": b"x", "README.md": b"y", "loose.png": picture(1)}
    folder = write_folder(tmp_path / "own", own_files() | extra)
    (folder / "puppy").symlink_to("dog")
    own = data.ImageFolder(folder)
    said, = (line for line in capsys.readouterr().err.splitlines() if "skipped" in line)
    for words in (str(folder), "1 pictures outside the class folders, such as loose.png",
                  "3 files that Pillow does not read, .heic (2), .md (1)", "['puppy']"):
        assert words in said
    assert own.classes == ("cat", "dog") and len(own.train) + len(own.val) == 10
    parted = {f"{s}/{k}": v for k, v in own_files().items() for s in ("train", "val", "extra")}
    data.ImageFolder(write_folder(tmp_path / "parted", parted))
    assert "10 pictures outside the class folders, such as extra/" in capsys.readouterr().err


def test_links(tmp_path):
    folder = write_folder(tmp_path / "own", own_files())
    other = write_folder(tmp_path / "other", {"a.png": picture(77, kind="PNG")})
    (folder / "cat" / "more").symlink_to(other)  # followed
    (folder / "cat" / "up").symlink_to("..")
    (folder / "cat" / "out").symlink_to(tmp_path)
    (folder / "all").symlink_to(folder)
    (folder / "dog" / "self").symlink_to("self")
    (folder / "dog" / "notes").symlink_to("nowhere.txt")
    own = data.ImageFolder(folder)
    assert own.classes == ("cat", "dog") and len(own.train) + len(own.val) == 11
    (folder / "dog" / "gone.png").symlink_to("nowhere.png")
    with pytest.raises(ValueError, match=r"dog/gone.png is not a readable image \(.*No such file"):
        data.ImageFolder(folder)


@pytest.mark.parametrize("parted", [False, True])
def test_a_run_and_packed_images_beside_the_pictures_are_no_class(parted, tmp_path, monkeypatch):
    "So the same command resumes after `cd pictures; cnx_train --data .`"
    files = {f"{'train/' * parted}{name}": content for name, content in own_files().items()}
    folder = write_folder(tmp_path / "own", files)
    monkeypatch.setenv("CONVNEXT_NB_DATA", str(folder / "packed"))
    first = data.ImageFolder(folder)
    run = {"recipe.json": b"{}", "metrics.jsonl": b"", "tensorboard/loss.png": picture(9)}
    for place in ("out/run", "cat/run"):
        write_folder(folder / place, run)
    packed = leftovers(folder / "packed")
    again = data.ImageFolder(folder)
    assert again.classes == first.classes == ("cat", "dog")
    assert torch.equal(again.train.images, first.train.images)
    assert packed and leftovers(folder / "packed") == packed


def test_folders_once_packed_as_classes_are_packed_anew(tmp_path):
    parted = {f"{'valid' if '4.' in n else 'train'}/{n}": f for n, f in own_files().items()}
    folder = write_folder(tmp_path / "own", parted)
    files = archive.Archive(folder)
    splits = {"train": (files.names, [n.startswith("valid") + 0 for n in files.names])}
    packing.pack(packing.packed_at(files, 64), files, splits, Image.Image.copy, 64, name="own",
                 classes=["train", "valid"], source="pictures in the folder own")
    assert data.ImageFolder(folder).classes == ("cat", "dog")


def test_pictures_of_a_kind_learned_later_are_packed(tmp_path, monkeypatch):
    files = {f"{c}/{i}.{ext}": picture(i, kind="PNG") for c in ("cat", "dog")
             for i, ext in enumerate(["png"] * 5 + ["heic"] * 5)}
    own = write_folder(tmp_path / "own", files)
    assert len(data.ImageFolder(own).train) == 8
    endings = data.picture_endings() | {".heic"}
    with monkeypatch.context() as later:
        later.setitem(Image.EXTENSION, ".heic", "PNG")  # as register_extension does
        data.picture_endings.cache_clear()
        try:
            assert data.picture_endings() == endings
            whole = data.ImageFolder(own)
            assert len(whole.train) == 16 and len(whole.val) == 4
            later.delattr(data, "pack")  # not a third time
            assert torch.equal(data.ImageFolder(own).train.images, whole.train.images)
        finally: data.picture_endings.cache_clear()


def test_load_packs_own_pictures_at_a_size(tmp_path, capsys):
    folder = write_folder(tmp_path / "own", own_files())
    assert data.load(str(folder), 24).preprocessing.size == 24
    assert data.load(str(folder)).preprocessing.size == 64
    assert data.is_own_folder(str(folder)) and not data.is_own_folder("tiny")


@pytest.mark.parametrize("text", [b'{"author": "me"}', b"[1, 2]"])
def test_own_pictures_may_come_with_a_meta_json(text, tmp_path):
    folder = write_folder(tmp_path / "own", own_files() | {"meta.json": text})
    assert data.load(str(folder), 32).classes == ("cat", "dog")
    assert data.is_own_folder(str(folder))


@pytest.mark.parametrize("name, content", [("cat.jpg", picture(0)),
                                           ("pets.tar.gz", b"\x1f\x8bxyz")])
def test_a_file_that_is_no_archive_is_not_to_be_deleted(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match="neither a folder nor a zip file: give a folder") as e:
        data.load(str(path))
    assert str(path) in str(e.value) and "delete" not in str(e.value)


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*gone"):
        data.ImageFolder(tmp_path / "gone")


def test_folders_packed_before_kind_was_stored(tmp_path, home):
    tiny = write_zip(tmp_path / "toy.zip", toy_files())
    own = write_folder(tmp_path / "own", own_files())
    def kinds():
        return data.TinyImageNet(tiny, SMALL).kind, data.ImageFolder(own).kind
    assert kinds() == ("tiny-imagenet", "folder")
    for file in home.glob("*/meta.json"):
        meta = json.loads(file.read_text())
        assert meta.pop("kind") in kinds()
        file.write_text(json.dumps(meta))
    written = {file: file.stat().st_mtime_ns for file in home.glob("*/*.u8")}
    assert kinds() == ("tiny-imagenet", "folder")
    assert written == {file: file.stat().st_mtime_ns for file in home.glob("*/*.u8")}  # not again



# one word for all of it

@pytest.fixture
def small_shapes(monkeypatch):
    monkeypatch.setattr(data, "Shapes", partial(data.Shapes, 100, 50))
    monkeypatch.setattr(data, "Layout", lambda: SMALL)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(data, "fetch", refuse_to_fetch)


def refuse_to_fetch():
    raise ConnectionError("no network today")


def test_auto_without_data_gives_shapes_and_says_why(small_shapes, capsys, monkeypatch):
    assert data.load().name == "Shapes"
    said = capsys.readouterr().out
    assert "Shapes: 10 classes" in said
    assert "Tiny-ImageNet was not found, and without a CUDA GPU it is not fetched" in said
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert data.load("auto").name == "Shapes"
    assert "Tiny-ImageNet was not found: no network today" in capsys.readouterr().out
    assert data.load("shapes").name == "Shapes"
    assert "(asked for)" in capsys.readouterr().out


def test_auto_without_room_gives_shapes_and_says_why(small_shapes, capsys, monkeypatch):
    def full(): raise OSError(28, "no room in /disk: 250 MB are needed")
    monkeypatch.setattr(data, "fetch", full)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert data.load("auto").name == "Shapes"
    assert "not found: [Errno 28] no room in /disk" in capsys.readouterr().out


def test_auto_with_a_gpu_fetches(small_shapes, capsys, tmp_path, monkeypatch):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    monkeypatch.setattr(data, "fetch", lambda: path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert_whole(data.load("auto"))
    assert "(fetched, because there is a GPU)" in capsys.readouterr().out


def test_tiny_is_found_fetched_or_refused(small_shapes, capsys, tmp_path, home, monkeypatch):
    with pytest.raises(ConnectionError, match="no network today"):
        data.load("tiny")
    path = write_zip(tmp_path / "toy.zip", toy_files())
    monkeypatch.setenv("TINY_IMAGENET", str(path))
    for word in ("tiny", "auto"):
        assert_whole(data.load(word))
        assert "(from TINY_IMAGENET)" in capsys.readouterr().out
    monkeypatch.delenv("TINY_IMAGENET")
    shutil.copy(path, home / "tiny-imagenet-200.zip")
    assert_whole(data.load("auto"))
    assert "(found)" in capsys.readouterr().out
    (home / "tiny-imagenet-200.zip").unlink()
    assert_whole(data.load("auto"))  # the packed copy is enough
    assert "(found)" in capsys.readouterr().out


@pytest.mark.parametrize("word", ["auto", "tiny"])
def test_tiny_imagenet_variable_that_leads_nowhere(word, small_shapes, tmp_path, monkeypatch):
    monkeypatch.setenv("TINY_IMAGENET", str(tmp_path / "gone.zip"))
    with pytest.raises(FileNotFoundError, match="TINY_IMAGENET is set to .*, and nothing") as e:
        data.load(word)
    assert "gone.zip" in str(e.value) and "correct it, or unset it" in str(e.value)
    assert data.load("shapes").name == "Shapes"


def test_a_path_is_recognised(small_shapes, tmp_path):
    path = write_zip(tmp_path / "tiny-imagenet-200.zip", toy_files())
    assert_whole(data.load(str(path)))
    assert_whole(data.load(str(tmp_path)))  # the folder that the zip is in
    assert_whole(data.load(str(write_folder(tmp_path / "extracted", toy_files()))))
    (tmp_path / "extracted/meta.json").write_text("{}")  # a stranger's
    assert_whole(data.load(str(tmp_path / "extracted")))
    (packed,) = (tmp_path / "home").glob("tiny-*")
    path.unlink()
    assert_whole(data.load(str(packed)))
    assert data.load(str(write_folder(tmp_path / "own", own_files()))).name == "own"
    with pytest.raises(FileNotFoundError, match="gone'.*give auto, tiny, shapes, or the path"):
        data.load(str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="not Tiny-ImageNet.*your own pictures: a folder"):
        data.load(str(write_zip(tmp_path / "holiday.zip", {"a/b.jpg": picture(0)})))


# the real one, where it is

@pytest.fixture
def tiny(monkeypatch):
    if REAL is None:
        pytest.skip("no Tiny-ImageNet here")
    monkeypatch.undo()  # the packed copy stays in its usual place
    return data.TinyImageNet(REAL)


def test_real_tiny_imagenet(tiny):
    assert (len(tiny.train), len(tiny.val), len(tiny.classes)) == (100_000, 10_000, 200)
    assert tiny.train.store.shape == (100_000, 64, 64, 3)
    assert tiny.train.labels.bincount().tolist() == [500] * 200
    assert tiny.val.labels.bincount().tolist() == [50] * 200
    assert list(tiny.classes) == sorted(tiny.classes)
    assert tiny.classes[0] == "n01443537 goldfish"


def test_real_images_and_labels_agree_with_the_files(tiny):
    if (REAL / "meta.json").is_file():
        pytest.skip("only the packed copy is here")
    files = archive.Archive(REAL)
    files.root = next(n for n in files.names if n.endswith("wnids.txt")).removesuffix("wnids.txt")
    wnid = [c.split()[0] for c in tiny.classes]
    notes = dict(line.split("\t")[:2] for line in
                 files.read("val/val_annotations.txt").decode().splitlines())
    order, rng = sorted(notes), random.Random(0)
    rows = [(tiny.val, i, f"val/images/{order[i]}", notes[order[i]])
            for i in rng.sample(range(10_000), 20)]
    for i in rng.sample(range(100_000), 20):
        k = wnid[i // 500]
        names = sorted(f"{k}_{j}.JPEG" for j in range(500))
        rows.append((tiny.train, i, f"train/{k}/images/{names[i % 500]}", k))
    for part, i, name, k in rows:
        assert wnid[part.labels[i]] == k, name
        expected = Image.open(io.BytesIO(files.read(name))).convert("RGB")
        assert np.array_equal(part.store[i], np.array(expected)), name


def test_a_folder_called_like_tiny_imagenet_is_not_taken_for_it(tmp_path, home, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data.ImageFolder(write_folder(tmp_path / "tiny-imagenet-200-mine", own_files()))
    packed = list(home.glob("tiny-imagenet-200-*-*/meta.json"))
    assert len(packed) == 1 and data.find_tiny_imagenet() is None
    meta = json.loads(packed[0].read_text())
    packed[0].write_text(json.dumps(meta | dict(name="Tiny-ImageNet")))
    assert data.find_tiny_imagenet() == packed[0].parent
    packed[0].write_text("{damaged")
    assert data.find_tiny_imagenet() is None


@pytest.mark.parametrize("name", [os.fsdecode(b"b\xe4ume"), "\u8a9e" * 80, "x" * 250, "a.b"],
                         ids=["not UTF-8", "wide", "long", "dot"])
def test_folders_of_any_name(name, tmp_path):
    own = data.ImageFolder(write_folder(tmp_path / name, own_files()))
    assert len(own.train) == 8 and data.ImageFolder(tmp_path / name).train.images.any()
