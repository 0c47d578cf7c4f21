"""Data at fault: broken archives, full disks, killed and competing processes, odd pictures."""
import io
import multiprocessing
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections import Counter
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from convnext_nb import archive, data
from convnext_nb.data import Dataset, Layout, Preprocessing, Split

SMALL = Layout(classes=2, train=3, val=1)
try:
    REAL = data.find_tiny_imagenet()  # before the tests below hide it
except FileNotFoundError:
    REAL = None


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    "Nothing of this machine is seen; packed data go to a folder of their own."
    monkeypatch.delenv("TINY_IMAGENET", raising=False)
    monkeypatch.setenv("CONVNEXT_NB_DATA", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    "Small pictures need no more, and `make test` shares the cores."
    usual = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(usual)


def picture(seed, mode="RGB", side=64, kind="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind)
    return file.getvalue()


def toy_files():
    "Tiny-ImageNet in small: two classes; the lists are out of order; one image is grey."
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
    "What lies in the folder for packed data, the lock's empty file aside."
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


def in_child(function, *args):
    "A forked process (no second import of torch) and the end of a pipe where its answer arrives."
    def work(pipe):
        torch.set_num_threads(1)  # OpenMP's other threads do not survive a fork
        try:
            pipe.send(function(*args))
        except BaseException as e:
            pipe.send(e)
    fork = multiprocessing.get_context("fork")
    here, there = fork.Pipe(duplex=False)
    process = fork.Process(target=work, args=(there,))
    process.start()
    there.close()
    return process, here


def answer(process, pipe, seconds=30):
    "What the child returned or raised; it must not hang."
    if not pipe.poll(seconds):
        process.kill()
        pytest.fail("the child process hangs")
    process.join(seconds)
    return pipe.recv()


# an archive that is not what it should be

NOTES = "val/val_annotations.txt"
FAULTS = {  # what is in the zip, what the message must say
    "wrong zip": ({"holiday.txt": b"sun"}, "no wnids.txt"),
    "no class folder": (without("train/n02"), "train/n02/images is missing or empty"),
    "an image too few": (without("train/n01/images/n01_2"), "train/n01/images holds 2 images"),
    "a folder too much": (toy_files() | {"train/n03/images/n03_0.JPEG": picture(0)}, "n03"),
    "no words": (toy_files() | {"words.txt": b"n01\theart\n"}, "no line for n02"),
    "an id twice": (toy_files() | {"wnids.txt": b"n01\nn01\n"}, "wnids.txt lists 2 ids"),
    "ids in binary": (toy_files() | {"wnids.txt": b"\xff\xfe\nn01"}, "words.txt has no line"),
    "no annotations": (without(NOTES), f"{NOTES} is missing"),
    "unknown id": (toy_files() | {NOTES: b"val_0.JPEG\tn09\nval_1.JPEG\tn01\n"}, "id 'n09'"),
    "binary annotations": (toy_files() | {NOTES: b"\xff\xfe\x00"}, f"line 1 of {NOTES}"),
    "no such image": (toy_files() | {NOTES: b"val_7.JPEG\tn02\n"}, "no val/images/val_7.JPEG"),
    "annotated twice": (toy_files() | {NOTES: b"val_0.JPEG\tn02\nval_0.JPEG\tn01\n"}, "twice"),
    "not annotated": (toy_files() | {NOTES: b"val_0.JPEG\tn02\n"}, "val_1.JPEG has no line"),
    "unbalanced": (toy_files() | {NOTES: b"val_0.JPEG\tn02\nval_1.JPEG\tn02\n"}, "are of n01"),
    "half an image": (toy_files() | {"train/n01/images/n01_1.JPEG": picture(1)[:900]},
                      "train/n01/images/n01_1.JPEG is not a readable image"),
    "no image": (toy_files() | {"val/images/val_1.JPEG": b"boo"}, "val/images/val_1.JPEG is not"),
    "empty image": (toy_files() | {"val/images/val_1.JPEG": b""}, "val/images/val_1.JPEG is not"),
    "small image": (toy_files() | {"val/images/val_0.JPEG": picture(0, side=32)},
                    "val_0.JPEG is not a readable image (it has (32, 32) pixels, not 64 x 64)"),
    "climbs up": (toy_files() | {"../../.profile": b"boo"}, "'../../.profile' points outside"),
    "climbs up inside": (toy_files() | {"a/../../../b": b"boo"}, "points outside"),
    "climbs with \\": (toy_files() | {"..\\b": b"boo"}, "points outside"),
    "absolute": (toy_files() | {"/etc/cron.d/b": b"boo"}, "'/etc/cron.d/b' points outside"),
    "a drive": (toy_files() | {"C:/b": b"boo"}, "'C:/b' points outside"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_leaves_nothing(fault, tmp_path, home):
    files, words = FAULTS[fault]
    path = write_zip(tmp_path / "toy.zip", files)
    with pytest.raises(ValueError) as e:
        open_toy(path)
    assert str(path) in str(e.value) and words in str(e.value) and "fetch" in str(e.value)
    assert leftovers(home) == [] and not (tmp_path.parent / ".profile").exists()
    assert_whole(open_toy(write_zip(path, toy_files())))  # a second try, repaired


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.7, 0.999])
def test_a_truncated_zip_is_named(share, tmp_path, home):
    whole = write_zip(tmp_path / "toy.zip", toy_files()).read_bytes()
    path = tmp_path / "cut.zip"
    path.write_bytes(whole[:int(share * len(whole))])
    with pytest.raises(ValueError, match="not a complete zip file.*fetch") as e:
        open_toy(path)
    assert str(path) in str(e.value) and leftovers(home) == []
    path.write_bytes(whole)
    assert_whole(open_toy(path))


def test_damaged_bytes_never_surprise(tmp_path, home):
    "Any byte of the zip may change: the same data come out, or a ValueError that names the file."
    whole = write_zip(tmp_path / "toy.zip", toy_files()).read_bytes()
    directory, rng, raised = whole.index(b"PK\x01\x02"), random.Random(0), 0
    for i in range(30):
        damaged = bytearray(whole)
        at = rng.randrange(directory if i % 2 else 0, len(whole))
        damaged[at] ^= 1 << rng.randrange(8)
        path = tmp_path / f"{i}.zip"
        path.write_bytes(damaged)
        try:
            assert_whole(open_toy(path))
        except ValueError as e:
            raised += 1
            assert str(path) in str(e), f"byte {at}: {e}"
        assert not list(home.glob(".packing-*"))
    assert raised > 7


@pytest.mark.parametrize("seed", range(3))
def test_zip_and_folder_give_the_same(seed, tmp_path):
    names = list(toy_files().items())
    random.Random(seed).shuffle(names)  # an archive's order means nothing
    root = ["", "tiny-imagenet-200/", "some/where/"][seed]
    assert_whole(open_toy(write_zip(tmp_path / "toy.zip", dict(names), root)))
    assert_whole(open_toy(write_folder(tmp_path / "toy", dict(names))))


def test_a_missing_archive_says_where_it_was_sought(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Tiny-ImageNet at any known place: set TINY"):
        data.TinyImageNet()
    with pytest.raises(FileNotFoundError, match=r"no Tiny-ImageNet at .*gone\.zip: set TINY"):
        data.TinyImageNet(tmp_path / "gone.zip")


# a disk at fault

def limited(path):
    "Open the toy where no file may grow above 40 kB, and the disk is thus as good as full."
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    return open_toy(path)


def test_a_full_disk_while_packing(tmp_path, home):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    error = answer(*in_child(limited, path))
    assert isinstance(error, OSError)
    assert f"no room in {home}" in str(error) and "set CONVNEXT_NB_DATA" in str(error)
    assert leftovers(home) == []
    assert_whole(open_toy(path))


def test_a_full_disk_before_packing(tmp_path, home, monkeypatch):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    with monkeypatch.context() as m:
        usage = shutil.disk_usage(tmp_path)
        m.setattr(shutil, "disk_usage", lambda _: usage._replace(free=98_000))  # of 98,304 needed
        with pytest.raises(OSError, match="no room in .*0 MB are needed. Free some, or set"):
            open_toy(path)
        assert leftovers(home) == []
    assert_whole(open_toy(path))


def test_a_folder_that_may_not_be_written_to(tmp_path, home, monkeypatch):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    def refuse(*args, **kwargs):  # root may write anywhere, so chmod would test nothing
        raise PermissionError(13, "Permission denied")
    for module, name in ((archive.tempfile, "mkdtemp"), (Path, "mkdir")):
        with monkeypatch.context() as m:
            m.setattr(module, name, refuse)
            with pytest.raises(PermissionError, match="cannot write to .*: set CONVNEXT_NB_DATA"):
                open_toy(path)
        assert leftovers(home) == []
    assert_whole(open_toy(path))


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_a_file_where_the_folder_should_be(below, tmp_path, home, monkeypatch):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("CONVNEXT_NB_DATA", f"{tmp_path}/file{below}")
    with pytest.raises(OSError, match="cannot write to .*file.*: set CONVNEXT_NB_DATA"):
        open_toy(path)
    assert (tmp_path / "file").read_text() == "mine"
    monkeypatch.setenv("CONVNEXT_NB_DATA", str(home))
    assert_whole(open_toy(path))


# killed, and several at once

def slow_fit(image, preprocessing):
    time.sleep(0.8)  # what is to happen while they pack must not come too late
    return image.convert("RGB")


def open_slowly(path):
    data.fit = slow_fit  # in this child process only
    return open_toy(path).train.images.sum().item()


def test_a_killed_process_does_not_stand_in_the_way(tmp_path, home):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    process, pipe = in_child(open_slowly, path)
    end = time.monotonic() + 20
    while not list(home.glob(".packing-*/train.u8")) and time.monotonic() < end:
        time.sleep(0.01)
    time.sleep(0.5)  # the workers have started, and wait in `slow_fit`
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (left,) = home.glob(".packing-*")  # it had no chance to tidy up
    assert isinstance(answer(*in_child(open_slowly, path)), int)  # its workers hold no lock
    assert leftovers(home) == [archive.packed_at(archive.Archive(path), SMALL).name]
    assert_whole(open_toy(path))


def test_ctrl_c_leaves_nothing(tmp_path, home):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    process, pipe = in_child(open_slowly, path)
    while not list(home.glob(".packing-*/train.u8")):
        time.sleep(0.01)
    time.sleep(0.5)  # the workers have started, and wait in `slow_fit`
    os.kill(process.pid, signal.SIGINT)
    assert isinstance(answer(process, pipe), KeyboardInterrupt)
    assert leftovers(home) == []
    assert_whole(open_toy(path))


def test_a_killed_worker_is_explained(tmp_path, home):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    process, pipe = in_child(open_slowly, path)
    while not list(home.glob(".packing-*/train.u8")):
        time.sleep(0.01)
    time.sleep(0.5)  # the workers have started, and wait in `slow_fit`
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    os.kill(int(children[0]), signal.SIGKILL)
    error = answer(process, pipe)
    assert isinstance(error, ChildProcessError) and "a process that packs pictures" in str(error)
    assert leftovers(home) == []
    assert_whole(open_toy(path))


def test_two_processes_give_one_folder(tmp_path, home):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    both = [in_child(open_slowly, path) for _ in range(2)]
    first, second = [answer(*one) for one in both]
    assert first == second == open_toy(path).train.images.sum().item()
    assert leftovers(home) == [archive.packed_at(archive.Archive(path), SMALL).name]


# packed data

@pytest.mark.parametrize("file", ["train.u8", "val.u8", "meta.json"])
@pytest.mark.parametrize("fault", ["cut", "gone"])
def test_a_damaged_packed_file_is_named(file, fault, tmp_path, home):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    open_toy(path)
    (folder,) = home.glob("toy-*")
    if fault == "cut":
        os.truncate(folder / file, (folder / file).stat().st_size - 1)
    else:
        (folder / file).unlink()
    if (file, fault) != ("meta.json", "gone"):  # that one is packed anew
        with pytest.raises(ValueError, match=f"{file} is .*delete .* to pack it anew") as e:
            open_toy(path)
        assert str(folder) in str(e.value)
        shutil.rmtree(folder)
    assert_whole(open_toy(path))


def test_a_changed_archive_is_packed_anew(tmp_path, home):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    (home / "toy-photos").mkdir(parents=True)  # of somebody else
    open_toy(path)
    before = leftovers(home)
    assert_whole(open_toy(path))
    assert leftovers(home) == before
    write_zip(path, toy_files() | {"words.txt": b"n01\tclubs, ticker\nn02\tstar"})  # as long
    assert open_toy(path).classes == ("n01 clubs", "n02 star")
    after = leftovers(home)
    assert len(before) == len(after) == 2 and before != after and "toy-photos" in after


@pytest.mark.parametrize("mine, file, target", [
    ("my-photos", "meta.json", "my-pack"), ("20260101", "meta.json", "20260102"),
    ("trip-20260101", "meta.json", "trip-20260102"),
    ("trip-20260101-20260101", "a.png", "trip-20260101-20260102")])
def test_packing_touches_no_other_folder(mine, file, target, tmp_path):
    files = archive.Archive(write_folder(tmp_path / "in", {"a.png": picture(0, kind="PNG")}))
    write_folder(tmp_path / mine, {file: b"mine"})
    archive.pack(tmp_path / target, files, {"train": (["a.png"], [0])}, Image.Image.copy, 64)
    assert (tmp_path / mine).exists() and (tmp_path / target / "meta.json").exists()


def test_a_picture_moved_to_another_class_is_noticed(tmp_path):
    files = {f"{c}/{i}.png": picture(i, kind="PNG") for i, c in enumerate("aaabbb")}
    folder = write_folder(tmp_path / "own", files)
    before = archive.packed_at(archive.Archive(folder))
    (folder / "a/2.png").rename(folder / "b/2.png")  # same name, size, time and place in the list
    assert archive.packed_at(archive.Archive(folder)) != before


def test_fetching_from_nowhere_says_what_to_do(tmp_path):
    with pytest.raises(ConnectionError, match="cannot be fetched .* set TINY_IMAGENET"):
        data.fetch(tmp_path / "new", "http://127.0.0.1:9/toy.zip", tries=1)
    assert list((tmp_path / "new").iterdir()) == []


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
    expected = data.fit(Image.open(io.BytesIO(odd)).convert("RGB"), Preprocessing(size=32))
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
    "only train/": ({f"train/{k}": v for k, v in own_files().items()}, r"1 classes \['train'\]"),
    "one class in val": ({f"train/{k}": v for k, v in own_files().items()}
                         | {"val/cat/9.png": picture(9)}, "expected at least 2 folders like val/"),
    "class only in val": ({f"{s}/{k}": v for k, v in own_files().items() for s in ("train", "val")}
                          | {"val/emu/1.png": picture(9)}, r"train/ lacks: \['emu'\]"),
    "one picture": (own_files() | {"emu/1.png": picture(9)}, "emu has one picture; two are needed"),
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


def test_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder .*gone"):
        data.ImageFolder(tmp_path / "gone")


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
    assert "Tiny-ImageNet was not found, and without a GPU it is not fetched" in said
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert data.load("auto").name == "Shapes"
    assert "Tiny-ImageNet was not found: no network today" in capsys.readouterr().out
    assert data.load("shapes").name == "Shapes"
    assert "(asked for)" in capsys.readouterr().out


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
def test_tiny_imagenet_set_to_nowhere(word, small_shapes, tmp_path, monkeypatch):
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
    (packed,) = (tmp_path / "home").glob("tiny-*")
    path.unlink()
    assert_whole(data.load(str(packed)))
    assert data.load(str(write_folder(tmp_path / "own", own_files()))).name == "own"
    with pytest.raises(FileNotFoundError, match="gone'.*give auto, tiny, shapes, or the path"):
        data.load(str(tmp_path / "gone"))
    with pytest.raises(ValueError, match="not Tiny-ImageNet.*your own pictures: a folder"):
        data.load(str(write_zip(tmp_path / "holiday.zip", {"a/b.jpg": picture(0)})))


# splits, shapes, hold-out

def split(n, labels=None, side=8):
    g = torch.Generator().manual_seed(n)
    images = torch.randint(256, (n, side, side, 3), dtype=torch.uint8, generator=g)
    return Split(images, torch.arange(n) % 4 if labels is None else torch.tensor(labels))


@pytest.mark.parametrize("part", ["train", "val"])
@pytest.mark.parametrize("label", [-1, 4])
def test_a_label_without_a_class(part, label):
    parts = {"train": split(5), "val": split(5)} | {part: split(5, [0, 1, label, 3, 0])}
    words = f"toy: label {label} of image 2 in {part} is outside 0..3; there are 4 class names"
    with pytest.raises(ValueError, match=words):
        Dataset("toy", **parts, classes=tuple("abcd"), preprocessing=Preprocessing(8), source="-")


def test_shapes_do_not_depend_on_threads():
    usual = torch.get_num_threads()
    try:
        both = []
        for threads in (1, 2):
            torch.set_num_threads(threads)
            both.append(data.Shapes(40, 0, seed=3).train)
    finally:
        torch.set_num_threads(usual)
    a, b = both
    assert torch.equal(a.images, b.images) and torch.equal(a.labels, b.labels)


def test_shapes_do_not_depend_on_the_processor():
    code = ("import hashlib; from convnext_nb.data import Shapes; "
            "print(hashlib.sha256(Shapes(100, 0).train.images.numpy().tobytes()).hexdigest()[:16])")
    env = os.environ | {"ATEN_CPU_CAPABILITY": "default"}  # no vector instructions
    root = Path(data.__file__).resolve().parent.parent
    done = subprocess.run([sys.executable, "-c", code], env=env, cwd=root, capture_output=True,
                          text=True, check=True)
    assert done.stdout.strip() == "2e6f3fad519f21e6"  # as in the chapter


def test_shapes_are_balanced_and_differ():
    a, b = data.Shapes(500, 250), data.Shapes(250, 250, seed=1)
    assert a.train.labels.bincount().tolist() == [50] * 10
    assert a.val.labels.bincount().tolist() == [25] * 10
    assert torch.equal(a.train.images[:260], data.Shapes(260, 0).train.images)  # a beginning
    seen = torch.cat([s.images.flatten(1) for d in (a, b) for s in (d.train, d.val)])
    assert len({image.numpy().tobytes() for image in seen}) == 500 + 250 + 250 + 250
    assert (a.train.labels[:250] != a.train.labels[250:]).any()


@pytest.mark.parametrize("per_class", [1, 25])
def test_holdout_is_disjoint_and_fixed(per_class):
    whole = data.Shapes(500, 10)
    part = whole.holdout(per_class)
    assert part.val.labels.bincount().tolist() == [per_class] * 10
    held, rest = set(part.val.rows.tolist()), set(part.train.rows.tolist())
    assert not held & rest and held | rest == set(range(500))
    for s in (part.train, part.val):  # pictures keep their labels
        assert torch.equal(s.labels, whole.train.labels[s.rows])
        assert torch.equal(s.images, whole.train.images[s.rows])
    assert torch.equal(whole.holdout(per_class).val.rows, part.val.rows)
    assert not torch.equal(whole.holdout(per_class, seed=1).val.rows, part.val.rows)
    with pytest.raises(ValueError, match="cannot hold out 50 .* the smallest class has 50"):
        whole.holdout(50)


def test_select_renumbers():
    whole = data.Shapes(250, 250)
    few = whole.select(["star", "disc"])
    for s in (few.train, few.val):
        assert s.labels.bincount().tolist() == [25, 25]
    star = whole.val.labels[few.val.rows] == 9
    assert torch.equal(few.val.labels, (~star).long())  # in the order asked for
    small = few.holdout(5)  # a part of a part
    assert torch.equal(small.val.images, whole.train.images[small.val.rows])
    assert torch.equal(small.val.labels == 0, whole.train.labels[small.val.rows] == 9)


# batches

@pytest.mark.parametrize("n, size, drop_last", [(10, 3, False), (10, 3, True), (10, 5, True),
                                                (2, 5, False), (2, 5, True), (1, 1, False)])
def test_batches_hold_every_image_once(n, size, drop_last):
    s = split(n)
    for shuffle in (False, True):
        b = data.batches(s, size, shuffle, torch.Generator().manual_seed(0), drop_last=drop_last)
        passes = [list(b), list(b)]
        for found in passes:
            assert len(found) == len(b) == (n // size if drop_last else -(-n // size))
            seen = [(x.numpy().tobytes(), int(y)) for xs, ys in found for x, y in zip(xs, ys)]
            all_ = [(x.permute(2, 0, 1).numpy().tobytes(), int(y))
                    for x, y in zip(s.images, s.labels)]
            assert len(seen) == (n // size * size if drop_last else n)
            assert set(seen) <= set(all_) and len(set(seen)) == len(seen)
            if not shuffle:
                assert seen == all_[:len(seen)]
        if shuffle and n == 10:
            assert not torch.equal(passes[0][0][0], passes[1][0][0])  # a new order
    for x, _ in data.batches(s, size):
        x.zero_()
    assert torch.equal(s.images, split(n).images)  # a batch is a copy
    with pytest.raises(ValueError, match="batch_size 0: at least 1"):
        data.batches(s, 0)


@pytest.mark.parametrize("n, size, drop_last", [(23, 6, False), (23, 6, True), (4, 6, False)])
def test_batches_resume_and_share(n, size, drop_last):
    def order(**kw):
        b = data.batches(split(n), size, True, torch.Generator().manual_seed(0),
                         drop_last=drop_last, **kw)
        return [[x.numpy().tobytes() for x in xs] for xs, _ in b]
    whole = order()
    for start in range(len(whole) + 2):
        b = data.batches(split(n), size, drop_last=drop_last, start=start)
        assert order(start=start) == whole[start:] and len(b) == len(whole)
    for parts in (2, 3):
        shares = [order(share=(i, parts)) for i in range(parts)]
        assert [sum(same, []) for same in zip(*shares, strict=True)] == whole
        full = [{len(part) for part in same} for same, b in zip(zip(*shares), whole)
                if len(b) == size]
        assert all(lengths == {size // parts} for lengths in full)
    with pytest.raises(ValueError, match="batch_size 6 cannot be shared by 4 processes"):
        data.batches(split(n), size, share=(0, 4))


def test_order_of_batches_is_for_ever():
    b = data.batches(split(40), 7, True, torch.Generator().manual_seed(3))
    expected = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.cat([x.permute(0, 2, 3, 1) for x, _ in b]), split(40).images[expected])


def test_to_float_in_evaluation_serves_training():
    how, pixels = Preprocessing(mean=(0.1, 0.2, 0.3)), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    with torch.inference_mode():
        seen = data.to_float(pixels, how).clone()
    assert torch.equal(data.to_float(pixels, how), seen)
    kept = data._factors(how.mean, how.std, pixels.device)
    assert not any(t.is_inference() for t in kept)  # what a gradient could not pass
    with torch.device("meta"):
        assert data.to_float(pixels, Preprocessing(mean=(0.4, 0.2, 0.3))).device.type == "cpu"


@pytest.mark.parametrize("seed", range(4))
def test_to_float_is_the_formula(seed):
    g = np.random.default_rng(seed)
    how = Preprocessing(mean=tuple(g.uniform(0, 1, 3)), std=tuple(g.uniform(0.1, 1, 3)))
    pixels = g.integers(0, 256, (3, 9, 7, 3), dtype=np.uint8)
    expected = (pixels / 255 - np.array(how.mean)) / np.array(how.std)  # float64
    x = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2)
    found = data.to_float(x, how)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(found.permute(0, 2, 3, 1).numpy() - expected).max() < 1e-5
    rough = data.to_float(x, how, torch.bfloat16)
    assert rough.dtype == torch.bfloat16 and (rough.float() - found).abs().max() < 0.05
    assert np.array_equal(x.permute(0, 2, 3, 1).numpy(), pixels)  # the input stays
    with pytest.raises(ValueError, match="needs uint8 images, got torch.float32"):
        data.to_float(x.float(), how)


def views(image, padding):
    "All that may become of an image (H, W, C), by numpy: mirrored, padded, cut out."
    h, w, _ = image.shape
    for mirrored in (False, True):
        padded = np.pad(image[:, ::-1] if mirrored else image,
                        ((padding, padding), (padding, padding), (0, 0)), "reflect")
        for down in range(2 * padding + 1):
            for right in range(2 * padding + 1):
                yield padded[down:down + h, right:right + w].tobytes()


@pytest.mark.parametrize("h, w, padding", [(8, 8, 2), (7, 11, 3), (12, 5, 1), (5, 9, 4), (9, 9, 0),
                                           (1, 6, 0), (2, 3, 1), (64, 64, 8)])
@pytest.mark.parametrize("dtype", [np.uint8, np.float32])
def test_crop_flip_against_a_loop(h, w, padding, dtype):
    rng, n = np.random.default_rng(h * w), 12
    pixels = rng.integers(0, 256, (n, h, w, 3)).astype(dtype)
    before = pixels.copy()
    out = data.crop_flip(torch.from_numpy(pixels).permute(0, 3, 1, 2),
                         torch.Generator().manual_seed(1), padding)
    assert out.shape == (n, 3, h, w) and out.dtype == torch.from_numpy(pixels).dtype
    out = out.permute(0, 2, 3, 1)
    assert out.is_contiguous() and np.array_equal(pixels, before)
    for image, moved in zip(pixels, out):
        assert moved.numpy().tobytes() in set(views(image, padding))


def test_crop_flip_draws_each_view_equally_often():
    n, padding = 20_000, 2
    image = np.random.default_rng(0).integers(0, 256, (9, 11, 3), dtype=np.uint8)
    x = torch.from_numpy(image).permute(2, 0, 1).expand(n, -1, -1, -1)
    out = data.crop_flip(x, torch.Generator().manual_seed(0), padding).permute(0, 2, 3, 1)
    drawn = [moved.tobytes() for moved in out.contiguous().numpy()]
    counts, possible = Counter(drawn), list(views(image, padding))
    assert len(set(possible)) == 50 and set(counts) == set(possible)
    expected = n / 50
    chi2 = sum((counts[v] - expected) ** 2 / expected for v in possible)
    assert 22 < chi2 < 90  # 49 degrees of freedom: 0.02 per cent above, 0.02 per cent below
    pairs = Counter(zip(drawn[::2], drawn[1::2]))  # neighbours in the batch: independent
    assert len(pairs) > 2300 and max(pairs.values()) < 20


def test_crop_flip_obeys_its_generator_and_refuses_nonsense():
    x = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (40, 3, 9, 9), dtype=np.uint8))
    a, b, c = (data.crop_flip(x, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert data.crop_flip(x[:0]).shape == (0, 3, 9, 9)
    for padding in (-1, 9):
        with pytest.raises(ValueError, match="0 up to below the image's side 9"):
            data.crop_flip(x, padding=padding)


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
