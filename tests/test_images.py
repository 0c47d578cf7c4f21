"""From pictures to batches: splits, hold-outs, what runs remember of them, batches, crops."""
import io
import json
import struct
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from convnext_nb import folders, images, recipe
from convnext_nb.images import Dataset, Preprocessing, Split
from convnext_nb.shapes import Shapes

RUNS = Path(__file__).resolve().parent.parent / "nbs" / "runs"


# splits, hold-out, selection

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


@pytest.mark.parametrize("per_class", [1, 25])
def test_holdout_is_disjoint_and_fixed(per_class):
    whole = Shapes(500, 10)
    part = whole.hold_out(per_class)
    assert part.val.labels.bincount().tolist() == [per_class] * 10
    held, rest = set(part.val.rows.tolist()), set(part.train.rows.tolist())
    assert not held & rest and held | rest == set(range(500))
    for s in (part.train, part.val):  # pictures keep their labels
        assert torch.equal(s.labels, whole.train.labels[s.rows])
        assert torch.equal(s.images, whole.train.images[s.rows])
    assert torch.equal(whole.hold_out(per_class).val.rows, part.val.rows)
    assert not torch.equal(whole.hold_out(per_class, seed=1).val.rows, part.val.rows)
    with pytest.raises(ValueError, match="cannot hold out 50 .* the smallest class has 50"):
        whole.hold_out(50)


def test_some_of_each_chooses_as_ever_and_quickly():
    g = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 50, (3000,), generator=g)
    for count in (lambda n: 3, lambda n: max(1, round(n / 5)), lambda n: n + 1, lambda n: 0):
        order = torch.rand(len(labels), generator=torch.Generator().manual_seed(7))
        expected = torch.zeros(len(labels), dtype=torch.bool)
        for k in labels.unique():  # class by class, as it was first written
            at = (labels == k).nonzero().squeeze(1)
            expected[at[order[at].argsort()][:count(len(at))]] = True
        assert torch.equal(images.some_of_each(labels, count, 7), expected)
    assert not len(images.some_of_each(labels[:0], lambda n: 1, 0))
    start = time.process_time()
    images.some_of_each(torch.arange(400_000) % 8000, lambda n: 1, 0)
    assert time.process_time() - start < 2  # one class after the other: 10 seconds


def test_a_whole_name_goes_before_a_word_of_one():
    own = replace(Shapes(20, 20), classes=("maple", "red maple", *map(str, range(8))))
    assert own.select(["maple"]).classes == ("maple",)
    assert own.select(["red maple", "7"]).classes == ("red maple", "7")
    assert own.select(["red"]).classes == ("red maple",)
    twice = replace(own, classes=("red oak", "red maple", *own.classes[2:]))
    with pytest.raises(ValueError, match="2 classes are called 'red'"): twice.select(["red"])


def test_select_renumbers():
    whole = Shapes(250, 250)
    few = whole.select(["star", "disc"])
    for s in (few.train, few.val):
        assert s.labels.bincount().tolist() == [25, 25]
    star = whole.val.labels[few.val.rows] == 9
    assert torch.equal(few.val.labels, (~star).long())  # in the order asked for
    small = few.hold_out(5)  # a part of a part
    assert torch.equal(small.val.images, whole.train.images[small.val.rows])
    assert torch.equal(small.val.labels == 0, whole.train.labels[small.val.rows] == 9)


# what runs remember of their data

@pytest.mark.parametrize("file", sorted(RUNS.glob("*/*/recipe.json")),
                         ids=lambda p: f"{p.parent.parent.name}-{p.parent.name}")
def test_every_run_says_what_it_learned_from(file):
    about = json.loads(file.read_text())["data"]
    family = file.parent.parent.name
    shapes = {"steps_shapes": 8000, "v2": 500}.get(family)
    whole = shapes or 500 * len(about["classes"])  # training images, before a hold-out
    held = (whole - about["train_images"]) // len(about["classes"])
    if family == "techniques": held = 100  # and 100 of the other 400 are trained on
    assert images.data_facts(about) == dict(kind="shapes" if shapes else "tiny-imagenet",
                                            holdout=held or None, holdout_seed=0, streamed=False)
    assert held in (0, 50, 100) and (held == 50 or family not in ("steps_holdout", "race_trials"))


@pytest.mark.parametrize("source, kind, holdout, streamed", [
    ("drawn by code from seed 3", "shapes", None, False),
    ("drawn by code from seed 0; val: 25 training images a class", "shapes", 25, False),
    ("tiny-imagenet-200, checked by structure and counts; 20 of 200 classes", "other", None, False),
    ("pictures in the folder cats", "folder", None, False),
    ("pictures in the folder cats, streamed", "folder", None, True),
    ("pictures in the folder cats, streamed; 2 of 4 classes; val: 5 training images a class",
     "folder", 5, True),
    ("pictures in the folder a; b, streamed", "folder", None, True),
    ("pictures in the folder val: 9 training images a class, or so", "folder", None, False),
    ("two\nlines", "other", None, False), ("", "other", None, False)])
def test_sentences_of_old_runs_are_read(source, kind, holdout, streamed):
    expected = dict(kind=kind, holdout=holdout, holdout_seed=0, streamed=streamed)
    assert images.data_facts(dict(source=source)) == expected
    named = images.data_facts(dict(source=source, name="Tiny-ImageNet"))
    assert named == expected | ({"kind": "tiny-imagenet"} if kind == "other" else {})
    fields = dict(kind="folder", holdout=7, holdout_seed=3, streamed=True)
    assert images.data_facts(dict(source=source, **fields)) == fields


def test_fields_follow_the_data():
    whole = Shapes(250, 50)
    assert (whole.kind, whole.holdout, whole.streamed) == ("shapes", None, False)
    part = whole.select(4).hold_out(3)
    assert (part.kind, part.holdout, part.streamed) == ("shapes", 3, False)
    assert images.data_facts(dict(name=part.name, source=part.source)) == dict(
        kind="shapes", holdout=3, holdout_seed=0, streamed=False)


# a picture becomes RGB and upright

DRAWN = Image.fromarray(np.random.default_rng(0).integers(0, 256, (7, 9, 3), dtype=np.uint8))


@pytest.mark.parametrize("mode, kind", [("RGBA", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("P", "GIF"),
                                        ("RGB", "PNG"), ("L", "PNG"), ("RGBA", "WEBP")])
def test_white_lies_behind_what_is_transparent(mode, kind, recwarn):
    file = io.BytesIO()
    if mode.endswith("A"):
        drawn = Image.new("RGBA", (9, 7), (0, 0, 0, 0))
        drawn.paste((0, 0, 0, 255), (2, 2, 5, 5))
        drawn.putpixel((8, 0), (0, 0, 0, 128))
        drawn.convert(mode).save(file, kind, **({"lossless": True} if kind == "WEBP" else {}))
    else:
        drawn = Image.new(mode, (9, 7), 3 if mode == "P" else "blue")
        drawn.paste(0, (2, 2, 5, 5))
        if mode == "P":
            drawn.putpalette([0, 0, 0, 1, 2, 3, 4, 5, 6, 0, 0, 255])
            clear = bytes([255, 255, 255, 0]) if kind == "PNG" else 3
        else: clear = drawn.getpixel((0, 0))
        drawn.save(file, kind, transparency=clear)
    found = images.upright(Image.open(file))
    assert found.mode == "RGB" and not recwarn.list
    assert found.getpixel((0, 0)) == (255, 255, 255) and found.getpixel((3, 3)) == (0, 0, 0)
    if mode.endswith("A"): assert found.getpixel((8, 0)) == (127, 127, 127)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK"])
def test_an_opaque_picture_keeps_its_colors(mode):
    drawn = DRAWN.convert(mode)
    assert images.upright(drawn).tobytes() == drawn.convert("RGB").tobytes()


def photograph(tags):
    "A JPEG of 9 x 7 with these tags: (number, type, count, four bytes)."
    file = io.BytesIO()
    DRAWN.save(file, "JPEG", quality=95)
    listed = b"".join(struct.pack("<HHL", *tag[:3]) + tag[3] for tag in tags)
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + listed + bytes(4)
    whole = file.getvalue()
    return io.BytesIO(whole[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + whole[2:])


SIDEWAYS = (0x0112, 3, 1, b"\6\0\0\0")


@pytest.mark.parametrize("tags, turned", [
    ([SIDEWAYS, (0x011a, 1, 4, b"\1\2\3\4")], True),  # a resolution of bytes
    ([SIDEWAYS, (0x0128, 2, 4, b"abc\0")], True),  # its unit as text
    ([(0x0112, 2, 2, b"6\0\0\0")], False),  # the orientation as text
    ([(0x0112, 3, 1, b"\x09\0\0\0")], False)])
def test_a_wrong_tag_does_not_make_a_photograph_unreadable(tags, turned):
    file = photograph(tags)
    expected = Image.open(file).convert("RGB")
    if turned: expected = expected.transpose(Image.Transpose.ROTATE_270)
    assert images.upright(Image.open(file)).tobytes() == expected.tobytes()
    assert folders.random_crop(Image.open(file), 4, 0).shape == (3, 4, 4)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", range(10))
def test_a_photograph_is_turned_once_and_as_pillow_does(kind, orientation):
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = orientation
    DRAWN.save(file, kind, exif=exif)
    expected = ImageOps.exif_transpose(Image.open(file))
    found = images.upright(Image.open(file))
    for one in (found, images.upright(found)):
        assert one.size == expected.size and one.tobytes() == expected.tobytes()


# batches

@pytest.mark.parametrize("n, size, drop_last", [(10, 3, False), (10, 3, True), (10, 5, True),
                                                (2, 5, False), (2, 5, True), (1, 1, False)])
def test_batches_hold_every_image_once(n, size, drop_last):
    s = split(n)
    for shuffle in (False, True):
        b = images.batches(s, size, shuffle, torch.Generator().manual_seed(0), drop_last=drop_last)
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
    for x, _ in images.batches(s, size):
        x.zero_()
    assert torch.equal(s.images, split(n).images)  # a batch is a copy
    with pytest.raises(ValueError, match="batch_size 0: at least 1"):
        images.batches(s, 0)


@pytest.mark.parametrize("n, size, drop_last", [(23, 6, False), (23, 6, True), (4, 6, False)])
def test_batches_resume_and_share(n, size, drop_last):
    def order(**kw):
        b = images.batches(split(n), size, True, torch.Generator().manual_seed(0),
                         drop_last=drop_last, **kw)
        return [[x.numpy().tobytes() for x in xs] for xs, _ in b]
    whole = order()
    for start in range(len(whole) + 2):
        b = images.batches(split(n), size, drop_last=drop_last, start=start)
        assert order(start=start) == whole[start:] and len(b) == len(whole)
    for parts in (2, 3):
        shares = [order(share=(i, parts)) for i in range(parts)]
        assert [sum(same, []) for same in zip(*shares, strict=True)] == whole
        full = [{len(part) for part in same} for same, b in zip(zip(*shares), whole)
                if len(b) == size]
        assert all(lengths == {size // parts} for lengths in full)
    with pytest.raises(ValueError, match="batch_size 6 cannot be shared by 4 processes"):
        images.batches(split(n), size, share=(0, 4))


def test_order_of_batches_never_changes():
    b = images.batches(split(40), 7, True, torch.Generator().manual_seed(3))
    expected = torch.randperm(40, generator=torch.Generator().manual_seed(3))
    assert torch.equal(torch.cat([x.permute(0, 2, 3, 1) for x, _ in b]), split(40).images[expected])


def test_to_float_in_evaluation_serves_training():
    how, pixels = Preprocessing(mean=(0.1, 0.2, 0.3)), torch.zeros(1, 3, 4, 4, dtype=torch.uint8)
    with torch.inference_mode():
        seen = images.to_float(pixels, how).clone()
    assert torch.equal(images.to_float(pixels, how), seen)
    kept = images._factors(how.mean, how.std, pixels.device)
    assert not any(t.is_inference() for t in kept)  # what a gradient could not pass
    with torch.device("meta"):
        assert images.to_float(pixels, Preprocessing(mean=(0.4, 0.2, 0.3))).device.type == "cpu"


@pytest.mark.parametrize("seed", range(4))
def test_to_float_is_the_formula(seed):
    g = np.random.default_rng(seed)
    how = Preprocessing(mean=tuple(g.uniform(0, 1, 3)), std=tuple(g.uniform(0.1, 1, 3)))
    pixels = g.integers(0, 256, (3, 9, 7, 3), dtype=np.uint8)
    expected = (pixels / 255 - np.array(how.mean)) / np.array(how.std)  # float64
    x = torch.from_numpy(pixels.copy()).permute(0, 3, 1, 2)
    found = images.to_float(x, how)
    assert found.dtype == torch.float32
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert np.abs(found.permute(0, 2, 3, 1).numpy() - expected).max() < 1e-5
    rough = images.to_float(x, how, torch.bfloat16)
    assert rough.dtype == torch.bfloat16 and (rough.float() - found).abs().max() < 0.05
    assert np.array_equal(x.permute(0, 2, 3, 1).numpy(), pixels)  # the input stays
    with pytest.raises(ValueError, match="needs uint8 images, got torch.float32"):
        images.to_float(x.float(), how)


def views(image, padding):
    "Every possible result for an image (H, W, C), by numpy: flipped, padded, cropped."
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
    out = images.crop_flip(torch.from_numpy(pixels).permute(0, 3, 1, 2),
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
    out = images.crop_flip(x, torch.Generator().manual_seed(0), padding).permute(0, 2, 3, 1)
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
    a, b, c = (images.crop_flip(x, torch.Generator().manual_seed(s)) for s in (0, 0, 1))
    assert torch.equal(a, b) and not torch.equal(a, c)
    assert images.crop_flip(x[:0]).shape == (0, 3, 9, 9)
    for padding in (-1, 9):
        with pytest.raises(ValueError, match="0 up to below the image's side 9"):
            images.crop_flip(x, padding=padding)


@pytest.mark.parametrize("damaged", [b"Exif\0\0garbage!garbage!", b"Exif\0\0II*\0", b"Exif\0\0"])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_damaged_exif_says_nothing(damaged, kind):
    def written(**more):
        file = io.BytesIO()
        Image.new("RGB", (80, 60), "red").save(file, kind, dpi=(72, 72), **more)
        return Image.open(file)
    plain = images.upright(written())
    assert images.upright(written(exif=damaged)).tobytes() == plain.tobytes()
    crops = [folders.random_crop(written(**more), 32, 0) for more in ({}, dict(exif=damaged))]
    assert torch.equal(*crops)


def test_which_images_are_held_out_is_remembered():
    few = [Shapes(80, 8).hold_out(2, seed) for seed in (0, 1)]
    assert [d.holdout_seed for d in few] == [0, 1]
    assert not torch.equal(few[0].val.rows, few[1].val.rows)
    assert images.data_facts(dict(source="; val: 2 training images a class"))["holdout_seed"] == 0


# against PIL's own words

@pytest.mark.parametrize("w, h, size, crop, scaled, corner", [
    (128, 64, 32, 0.5, (128, 64), (48, 16)), (90, 60, 30, 1.0, (45, 30), (7, 0)),
    (60, 90, 28, 0.875, (32, 48), (2, 10)), (7, 9, 14, 1.0, (14, 18), (0, 2))])
def test_the_center_of_the_scaled_picture_is_cut_out(w, h, size, crop, scaled, corner):
    pixels = np.random.default_rng(0).integers(0, 256, (h, w, 3), dtype=np.uint8)
    picture, (left, top) = Image.fromarray(pixels), corner
    expected = picture.resize(scaled, Image.Resampling.BICUBIC).crop(
        (left, top, left + size, top + size))
    found = images.resize_and_crop(picture, Preprocessing(size, crop))
    assert found.size == (size, size) and found.tobytes() == expected.tobytes()


def test_subsets_and_classes_are_spread_evenly():
    part = Split(torch.zeros(100, 8, 8, 3, dtype=torch.uint8), torch.arange(100))
    assert recipe.fixed_subset(part, 5).labels.tolist() == [0, 24, 49, 74, 99]
    assert recipe.fixed_subset(part, 999).labels.tolist() == list(range(100))
    few = Shapes(250, 50).select(4)
    assert few.classes == ("disc", "half-disc", "bar", "triangle")
    assert few.train.labels.bincount().tolist() == [25] * 4


def test_what_is_held_out_can_be_found_again():
    "So it is drawn last, from all images of the classes."
    held = Shapes(100, 10).hold_out(2)
    for again in (lambda: held.select(3), lambda: held.hold_out(2)):
        with pytest.raises(ValueError, match="2 images a class are held out already; call select"):
            again()


@pytest.mark.parametrize("names", [("star", "star"), ("disc", "half-disc", "disc")])
def test_a_class_is_named_once(names):
    with pytest.raises(ValueError, match="names a class twice"): Shapes(100, 10).select(names)


@pytest.mark.parametrize("device, waits", [("cuda", False), ("cuda:1", False), ("mps", True),
                                           ("cpu", True)])
def test_only_cuda_copies_while_the_cpu_goes_on(device, waits):
    "A copy to Apple's GPU that nobody waits for may read memory that is in other use by then."
    asked = SimpleNamespace(to=lambda device, non_blocking: (device, non_blocking))
    assert images.send(asked, device) == (device, not waits)


def test_no_class_is_no_choice():
    with pytest.raises(ValueError, match="select at least one class"): Shapes(20, 10).select([])
