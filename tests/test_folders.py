"""Folders read on the fly: same pictures for every worker, nothing left after a failure."""
import gc
import io
import multiprocessing
import os
import pickle
import signal
import time
from collections import Counter
from copy import deepcopy
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional as F

from convnext_nb import data, folders, train

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.fixture(autouse=True)
def no_worker_remains():
    "No worker may outlive what used it, whatever a test does to it."
    yield
    end = time.monotonic() + 30
    while multiprocessing.active_children() and time.monotonic() < end:
        gc.collect()  # slow with everything imported
        time.sleep(0.02)
    assert not multiprocessing.active_children()


def smooth(seed, w, h):
    "A picture without fine detail."
    pixels = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return Image.fromarray(pixels).resize((w, h), Image.Resampling.BICUBIC)


def write(folder, n=12, classes=("cat", "cow", "dog"), ext="png"):
    rng = np.random.default_rng(0)
    for k, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            w, h = rng.integers(30, 90, 2).tolist()
            smooth(100 * k + i, w, h).save(folder / name / f"{i}.{ext}")
    return folder


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("CONVNEXT_NB_DATA", str(tmp_path / "home"))
    return write(tmp_path / "own")


def everything(split, batch_size=5, **kw):
    found = list(data.batches(split, batch_size, **kw))
    return torch.cat([x for x, _ in found]), torch.cat([y for _, y in found])


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# the same pictures

@pytest.mark.parametrize("parted", [False, True])
def test_streamed_equals_packed(parted, own):
    if parted:
        for name in ("cat", "cow", "dog"):
            (own / "val" / name).mkdir(parents=True)
            (own / name / "3.png").rename(own / "val" / name / "3.png")
            (own / "train").mkdir(exist_ok=True)
            (own / name).rename(own / "train" / name)
    streamed = folders.StreamedFolder(own, size=32, crop=1.0, workers=1)
    packed = data.ImageFolder(own, size=32)
    assert streamed.classes == packed.classes
    assert streamed.preprocessing == packed.preprocessing
    for s in ("train", "val"):
        a, b = getattr(streamed, s), getattr(packed, s)
        assert len(a) == len(b) and torch.equal(a.labels, b.labels)
        assert same(everything(a), everything(b))
        assert same(a.take([2, 0]), b.take([2, 0]))
        assert Path(a.path(0)).parent.name == streamed.classes[a.labels[0]]


def test_holdout_select_and_subset(own):
    streamed = folders.StreamedFolder(own, size=16, crop=1.0, workers=0)
    packed = data.ImageFolder(own, size=16)
    for change in (lambda d: d.hold_out(2), lambda d: d.select(["dog", "cat"]),
                   lambda d: d.select(2).hold_out(3)):
        a, b = change(streamed), change(packed)
        assert a.classes == b.classes and a.source != b.source
        assert same(everything(a.val), everything(b.val))
        assert same(everything(a.train), everything(b.train))
    assert len(train.fixed_subset(streamed.train, 7)) == 7
    assert len(streamed.train.subset(range(4)).cropped(1).subset(torch.arange(4) < 1)) == 1


def test_crops_depend_on_seed_and_picture_alone(own):
    few, many = (folders.StreamedFolder(own, size=24, workers=w) for w in (0, 3))
    expected = everything(few.train.cropped(5))[0]
    assert torch.equal(everything(many.train.cropped(5), 7)[0], expected)
    back = torch.arange(len(few.train) - 1, -1, -1)
    assert torch.equal(everything(many.train.subset(back).cropped(5))[0].flip(0), expected)
    assert torch.equal(few.train.cropped(5).take([3])[0].permute(0, 3, 1, 2)[0], expected[3])
    other = everything(few.train.cropped(6))[0]
    assert all((a != b).any() for a, b in zip(expected, other))


def test_twins_get_crops_of_their_own(own):
    for i in range(4):
        (own / "cat" / f"twin{i}.png").write_bytes((own / "cat" / "1.png").read_bytes())
    split = folders.StreamedFolder(own, size=24, workers=0).train
    twins = [i for i in range(len(split)) if "twin" in split.path(i)]
    crops, _ = split.cropped(2).take(twins)
    assert len(twins) > 1 and len({crop.numpy().tobytes() for crop in crops}) == len(twins)


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_resume_and_share(workers, own):
    split = folders.StreamedFolder(own, size=16, workers=workers).train.cropped(1)
    def seeded(**kw):
        return everything(split, 6, shuffle=True, generator=torch.Generator().manual_seed(0), **kw)
    whole = seeded()
    assert same(seeded(start=3), [part[18:] for part in whole])
    halves = [seeded(share=(i, 2), drop_last=True)[0].view(-1, 3, 3, 16, 16) for i in (0, 1)]
    assert torch.equal(torch.cat(halves, 1).flatten(0, 1), whole[0])


def test_global_random_numbers_are_left_alone(own):
    for workers in (0, 2):
        split = folders.StreamedFolder(own, size=16, workers=workers).train.cropped(0)
        torch.manual_seed(1)
        everything(split)
        assert torch.equal(torch.get_rng_state(), torch.manual_seed(1).get_state())


def test_a_reader_travels_to_another_process(own):
    reader = folders.StreamedFolder(own, size=16, workers=0).train.pool.reader
    assert torch.equal(pickle.loads(pickle.dumps(reader))[[1, 2], 3], reader[[1, 2], 3])


# the crop

@pytest.mark.parametrize("size", [(60, 40), (31, 97), (200, 200), (5, 3)])
@pytest.mark.parametrize("out", [16, 64])
def test_crop_matches_torchvision(size, out):
    picture = smooth(0, *size)
    file = io.BytesIO()
    picture.save(file, "PNG")
    theirs = v2.RandomResizedCrop(out, interpolation=InterpolationMode.BICUBIC)
    for seed in range(6):
        torch.manual_seed(seed)
        expected = theirs(F.pil_to_tensor(picture))
        assert torch.equal(folders.random_crop(Image.open(file), out, seed), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("size", [(90, 60), (1000, 700)])
def test_a_picture_held_sideways(orientation, size):
    exif = Image.Exif()
    exif[0x0112] = orientation
    file, upright = io.BytesIO(), io.BytesIO()
    smooth(1, *size).save(file, "JPEG", exif=exif, quality=95)
    data.upright(Image.open(file)).save(upright, "PNG")
    for seed in range(3):
        a, b = (folders.random_crop(Image.open(f), 32, seed).float() for f in (file, upright))
        assert (a - b).abs().mean() < 5  # another crop: 40 and more


@pytest.mark.parametrize("kind", ["TIFF", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_held_sideways_of_other_kinds_give_the_same_crop(kind, orientation):
    for size in ((60, 90), (90, 60)):
        exif = Image.Exif()
        exif[0x0112] = orientation
        file, upright = io.BytesIO(), io.BytesIO()
        how = {"lossless": True} if kind == "WEBP" else {}
        smooth(1, *size).save(file, kind, exif=exif, **how)
        ImageOps.exif_transpose(Image.open(file)).save(upright, "PNG")
        for seed in range(4):
            a, b = (folders.random_crop(Image.open(f), 32, seed) for f in (file, upright))
            assert torch.equal(a, b)


def test_a_large_jpeg_is_decoded_smaller():
    file = io.BytesIO()
    smooth(2, 2000, 1501).save(file, "JPEG", quality=95)
    seen = Counter()
    for seed in range(12):
        image, whole = Image.open(file), Image.open(file)
        whole.load()  # too late to decode less
        a, b = (folders.random_crop(i, 64, seed).float() for i in (image, whole))
        assert (a - b).abs().mean() < 4, seed
        less = round(2000 / image.width)
        box = folders._box(1501, 2000, seed)
        assert min(box[2:]) / less >= 2 * 64 or less == 1
        seen[less] += 1
    assert {4, 8} <= set(seen)


@pytest.mark.parametrize("mode, ext", [("L", "png"), ("LA", "png"), ("P", "png"), ("1", "png"),
                                       ("RGBA", "png"), ("CMYK", "jpg"), ("L", "jpg"),
                                       ("P", "gif"), ("RGB", "webp"), ("RGB", "bmp")])
def test_any_eight_bit_mode(mode, ext, tmp_path):
    folder = write(tmp_path / "own", 2)
    smooth(3, 50, 50).convert(mode).save(folder / "cat" / f"odd.{ext}")
    split = folders.StreamedFolder(folder, size=16, workers=0).train
    images = torch.cat([split.take(range(len(split)))[0],
                        split.cropped(0).take(range(len(split)))[0]])
    assert images.shape[1:] == (16, 16, 3) and images.float().std((1, 2, 3)).min() > 5


# what goes wrong

BAD = {"empty": b"", "text": b"no picture at all", "cut": None, "deep": None, "gone": None}


@pytest.mark.parametrize("fault", BAD)
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("cropped", [False, True])
def test_an_unreadable_picture_is_named(fault, workers, cropped, own):
    split = folders.StreamedFolder(own, size=16, workers=workers).train
    bad = Path(split.path(13))
    if fault == "gone":
        bad.unlink()
    elif fault == "cut":
        bad.write_bytes(bad.read_bytes()[:300])
    elif fault == "deep":
        Image.new("I;16", (40, 40), 30_000).save(bad)
    else:
        bad.write_bytes(BAD[fault])
    split = split.cropped(0) if cropped else split
    with pytest.raises(ValueError, match="is not a readable picture .*; replace or remove") as e:
        everything(split, 4)
    assert str(bad) in str(e.value) and "Traceback" not in str(e.value)
    if fault == "deep":
        assert "more than 8 bits" in str(e.value)
    with pytest.raises(ValueError, match="is not a readable picture"):
        split.take([13])
    assert not multiprocessing.active_children()  # though `e` holds the stack
    smooth(0, 40, 40).save(bad)
    assert len(everything(split, 4)[0]) == len(split)


def test_unreadable_pictures_of_a_batch_are_named_at_once(own):
    split = folders.StreamedFolder(own, size=16, workers=0).train
    for i in (1, 3):
        Path(split.path(i)).write_bytes(b"")
    with pytest.raises(ValueError, match="replace or remove the files$") as e:
        everything(split, len(split))
    assert all(split.path(i) in str(e.value) for i in (1, 3)) and split.path(2) not in str(e.value)


def test_all_pictures_of_a_folder_are_measured(own):
    pre = data.Preprocessing(size=16, crop=0.5)
    classes = ("emu", "dog", "cat")
    files, about = folders.measured_folder(own, "val", classes, pre, workers=0)
    assert files.labels.tolist() == [2] * 12 + [1] * 12
    assert about == dict(data="own", split="all pictures", left_out={"cow": 12}, absent=["emu"])
    for i in (0, 23):
        expected = data.resize_and_crop(Image.open(files.path(i)), pre)
        assert np.array_equal(files.take([i])[0][0], np.array(expected))
    for part, wanted in dict(Train="train", Valid="val", test="test").items():
        (own.parent / "full").mkdir(exist_ok=True)
        write(own.parent / "full" / part, dict(Train=3, Valid=2, test=1)[part])
        files, about = folders.measured_folder(own.parent / "full", wanted, classes, pre, 0)
        assert about["split"] == wanted and Path(files.path(0)).parts[-3] == part
        assert len(files) == 2 * dict(Train=3, Valid=2, test=1)[part]
    with pytest.raises(ValueError, match="2 pictures|no pictures in folders named after"):
        folders.measured_folder(own / "cat", "val", classes, pre)
    with pytest.raises(ValueError, match="0 pictures in folders named after the network's"):
        folders.measured_folder(own, "val", ("emu", "ant"), pre)
    with pytest.raises(ValueError, match="but no val/"):
        folders.measured_folder(write(own.parent / "x" / "train").parent, "val", classes, pre)


def test_folders_may_be_named_by_either_half_of_imagenets_names(own):
    classes = ("n01 cow", "n02123045 tabby cat", "n02099601 dog", "cow")
    (own / "cat").rename(own / "n02123045")
    files, about = folders.measured_folder(own, "val", classes, data.Preprocessing(size=16), 0)
    assert files.labels.tolist() == [3] * 12 + [2] * 12 + [1] * 12 and not about["left_out"]


def test_a_class_only_in_val(own):
    (own / "train").mkdir()
    for name in ("cat", "cow"):
        (own / name).rename(own / "train" / name)
    (own / "val").mkdir()
    for name in ("cat", "emu"):
        write(own / "val" / "x", 1, [name])
        (own / "val" / "x" / name).rename(own / "val" / name)
        (own / "val" / "x").rmdir()
    with pytest.raises(ValueError, match=r"train/ lacks: \['emu'\]"):
        folders.StreamedFolder(own)
    with pytest.raises(FileNotFoundError, match="there is no folder .*gone"):
        folders.StreamedFolder(own / "gone")


def test_a_killed_worker(own):
    split = folders.StreamedFolder(own, size=16, workers=2).train
    with pytest.raises(ChildProcessError, match="that reads pictures died.*fewer workers"):
        for i, _ in enumerate(data.batches(split, 1)):
            if i == 3:
                for child in multiprocessing.active_children():
                    os.kill(child.pid, signal.SIGKILL)
                time.sleep(0.2)  # no error here, in somebody else's line
    assert not multiprocessing.active_children()
    assert len(everything(split)[0]) == len(split)


@pytest.mark.parametrize("error", [ConnectionResetError, EOFError, FileNotFoundError])
def test_a_worker_killed_while_it_sends(error, own, monkeypatch):
    def broken(loader):
        yield next(iter(loader))
        raise error
    monkeypatch.setattr(folders, "_iterate", broken)
    split = folders.StreamedFolder(own, size=16, workers=1).train
    with pytest.raises(ChildProcessError, match="that reads pictures died"):
        everything(split)


def test_ctrl_c_is_left_to_the_parent(own):
    split, n = folders.StreamedFolder(own, size=16, workers=2).train, 0
    for x, _ in data.batches(split, 2):
        if n == 2:  # both have delivered: both are past their start
            for child in multiprocessing.active_children():
                os.kill(child.pid, signal.SIGINT)
        n += len(x)
    assert n == len(split)


def test_workers_wait_between_passes_and_then_go(own):
    dataset = folders.StreamedFolder(own, size=16, workers=2)
    assert not multiprocessing.active_children()
    everything(dataset.train)
    first = {child.pid for child in multiprocessing.active_children()}
    everything(dataset.val.cropped(1))
    assert len(first) == 2 and first == {c.pid for c in multiprocessing.active_children()}
    for _ in data.batches(dataset.train, 4):
        break
    assert not multiprocessing.active_children()
    pairs = zip(data.batches(dataset.train, 4), data.batches(dataset.val, 2))  # two at once
    assert sum(len(a) == 4 and len(b) > 0 for (a, _), (b, _) in pairs) > 1
    del pairs
    assert len(multiprocessing.active_children()) <= 2
    with pytest.raises(ZeroDivisionError):
        for _ in data.batches(dataset.train, 4):
            raise ZeroDivisionError
    assert not multiprocessing.active_children()
    everything(dataset.val)
    del dataset
    gc.collect()
    assert not multiprocessing.active_children()


def test_a_copy_starts_workers_of_its_own(own):
    data = folders.StreamedFolder(own, 24, workers=1)
    chunks = [torch.tensor([0, 1])]
    [(images, _)] = data.train.stream(chunks)
    for copied in (pickle.loads(pickle.dumps(data)), deepcopy(data)):
        [(again, _)] = copied.train.stream(chunks)
        assert torch.equal(again, images)


def test_names_are_small_and_exact():
    names = [f"n{i:08d}/pict\udcff{i}ü.JPEG" for i in range(1000)]  # bytes that are no text, too
    kept = folders.Names(Path("/data"), names)
    assert [kept.path(i) for i in range(1000)] == [f"/data/{n}" for n in names]
    assert kept.text.nbytes + kept.ends.nbytes < 9 * 1001 + sum(len(os.fsencode(n)) for n in names)


def test_scanning_is_quick(tmp_path):
    for c in range(10):
        (tmp_path / f"c{c}").mkdir()
        for i in range(200):
            (tmp_path / f"c{c}/{i}.jpg").touch()
    start = time.process_time()
    dataset = folders.StreamedFolder(tmp_path, workers=0)
    assert len(dataset.train) == 1600 and time.process_time() - start < 2


def test_default_workers(monkeypatch):
    alone = folders.default_workers()
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "1000")
    assert alone >= folders.default_workers() == 1


# training

@pytest.mark.parametrize("augment", ["resized_crop flip", "crop flip"])
def test_fit_trains_on_files(augment, own):
    recipe = train.Recipe(
        model="convnext", model_args=dict(depths=(1, 1), dims=(8, 16), layer_scale=1.0), epochs=2,
        batch_size=8, lr=1e-3, warmup_epochs=0.0, augment=augment, precision="fp32")
    def weights_of(workers):
        dataset = folders.StreamedFolder(own, size=16, workers=workers)
        model, run = train.fit(recipe, dataset, own.parent / f"{workers}", "cpu", progress=False)
        assert len(run.metrics) == 2
        return torch.cat([p.flatten() for p in model.parameters()])
    assert torch.equal(weights_of(0), weights_of(2))


def test_a_class_name_counts_however_its_accent_is_written(own):
    (own / "cat").rename(own / "A\u0308pfel")  # as a Mac writes it
    pre = data.Preprocessing(size=16)
    files, about = folders.measured_folder(own, "val", ("dog", "\u00c4pfel"), pre, 0)
    assert len(files) == 24 and about["left_out"] == {"cow": 12} and not about["absent"]


@pytest.mark.parametrize("system, hint", [("linux", False), ("darwin", True)])
def test_where_workers_need_a_main_guard_a_dead_one_is_told_of_it(system, hint, own, monkeypatch):
    split = folders.StreamedFolder(own, size=16, workers=1).train
    def dead(loader):
        yield next(iter(loader))
        raise RuntimeError("DataLoader worker (pid 1) exited unexpectedly")
    monkeypatch.setattr(folders, "_iterate", dead)
    monkeypatch.setattr(folders.sys, "platform", system)
    with pytest.raises(ChildProcessError, match="Try fewer workers") as e: everything(split)
    assert ('if __name__ == "__main__":' in str(e.value)) == hint


@pytest.mark.parametrize("cores, workers", [(12, 4), (2, 2), (None, 1)])
def test_workers_that_are_programs_of_their_own_are_few(cores, workers, monkeypatch):
    assert folders.default_workers() == len(os.sched_getaffinity(0))
    monkeypatch.setattr(folders.sys, "platform", "darwin")
    monkeypatch.setattr(os, "cpu_count", lambda: cores)
    assert folders.default_workers() == workers
