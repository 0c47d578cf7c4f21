"""The batched augmentations against Pillow, timm and torchvision: pixels, choices and spread."""
import random
from unittest import mock

import numpy as np
import pytest
import timm
import torch
import torchvision.transforms.v2 as T
from PIL import Image
from timm.data import auto_augment as pillow
from torchvision.transforms.v2 import functional as TF

from convnext_nb import augment, data

BICUBIC, GREY = Image.Resampling.BICUBIC, (124, 116, 104)
RECIPES = ("crop flip", "crop", "flip", "resized_crop flip", "resized_crop flip randaugment",
           "crop flip autoaugment", "trivialaugment", "none")


@pytest.fixture(scope="module")
def x():
    "Drawn figures and four hard images: black, two levels, all but one pixel the same, noise."
    drawn = data.Shapes(60, 16).train.images.permute(0, 3, 1, 2)
    hard = torch.zeros(4, 64, 64, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    hard[1, :, :, 32:] = 200
    hard[2] = 77
    hard[2, :, 5, 5] = 9
    hard[3] = torch.randint(256, (3, 64, 64), generator=seeded(), dtype=torch.uint8)
    return torch.cat([drawn, hard])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def levels(a, b):
    return (a.int() - b.int()).abs()


def each(f, x, *values, **kwargs):
    "Apply `f` to each Pillow image in turn, with its own values."
    images = (Image.fromarray(i.permute(1, 2, 0).numpy()) for i in x)
    done = (f(i, *(v[k] for v in values), **kwargs) for k, i in enumerate(images))
    return torch.stack([torch.from_numpy(np.array(i)).permute(2, 0, 1) for i in done])


def far(a, b):
    "Largest distance between two samples' distribution functions (Kolmogorov-Smirnov)."
    at = torch.cat([a, b]).sort().values
    share = [torch.searchsorted(v.sort().values, at, right=True) / len(v) for v in (a, b)]
    return (share[0] - share[1]).abs().max().item()


def applied(x, name, values, **how):
    op = torch.full((len(x),), augment.OPS.index(name))
    return augment.apply(x, op, torch.tensor(values, dtype=torch.float32), **how)


# name: timm's function, how its values are drawn, torchvision's function of image and value
OPERATIONS = {
    "autocontrast": (pillow.auto_contrast, None, lambda i, v: TF.autocontrast(i)),
    "equalize": (pillow.equalize, None, lambda i, v: TF.equalize(i)),
    "invert": (pillow.invert, None, lambda i, v: TF.invert(i)),
    "posterize": (pillow.posterize, lambda r: r.randint(1, 8), TF.posterize),
    "solarize": (pillow.solarize, lambda r: r.randint(0, 256),
                 lambda i, v: TF.solarize(i, v) if v < 256 else i),
    "solarize_add": (pillow.solarize_add, lambda r: r.randint(0, 128), None),
    "brightness": (pillow.brightness, lambda r: r.uniform(0.01, 1.99), TF.adjust_brightness),
    "contrast": (pillow.contrast, lambda r: r.uniform(0.01, 1.99), TF.adjust_contrast),
    "color": (pillow.color, lambda r: r.uniform(0.01, 1.99), TF.adjust_saturation),
    "sharpness": (pillow.sharpness, lambda r: r.uniform(0.01, 1.99), TF.adjust_sharpness),
    "rotate": (pillow.rotate, lambda r: r.uniform(-135, 135), None),
    "shear_x": (pillow.shear_x, lambda r: r.uniform(-0.99, 0.99), None),
    "shear_y": (pillow.shear_y, lambda r: r.uniform(-0.99, 0.99), None),
    "translate_x": (pillow.translate_x_abs, lambda r: r.uniform(-70, 70), None),
    "translate_y": (pillow.translate_y_abs, lambda r: r.uniform(-70, 70), None)}


def drawn_values(name, n):
    draw, source = OPERATIONS[name][1], random.Random(name)
    return [draw(source) if draw else 0.0 for _ in range(n)]


def test_every_operation_is_compared():
    assert set(OPERATIONS) == set(augment.OPS)


@pytest.mark.parametrize("shape", [(64, 64), (40, 56)])
@pytest.mark.parametrize("name", augment.OPS)
def test_operations_match_pillow(x, name, shape):
    x, (f, draw, _) = x[..., :shape[0], :shape[1]], OPERATIONS[name]
    values = drawn_values(name, len(x))
    theirs = each(f, x, *([values] if draw else []), fillcolor=GREY, resample=BICUBIC)
    ours = applied(x, name, values, fill=GREY, cubic=True)
    assert ours.is_contiguous(memory_format=torch.channels_last)
    assert levels(ours, theirs).max() <= 1
    assert name not in augment._TABLES or levels(ours, theirs).float().mean() < 0.02


@pytest.mark.parametrize("name", [n for n, o in OPERATIONS.items() if o[2]])
def test_colours_match_torchvision(x, name):
    values, f = drawn_values(name, len(x)), OPERATIONS[name][2]
    theirs = torch.stack([f(i, v) for i, v in zip(x, values)])
    assert levels(applied(x, name, values), theirs).max() <= 1


@pytest.mark.parametrize("name, theirs", [
    ("rotate", lambda i, v: TF.rotate(i, v)),
    ("shear_x", lambda i, v: TF.affine(i, 0, [0, 0], 1, [np.degrees(np.arctan(v)), 0],
                                       center=[0, 0])),
    ("shear_y", lambda i, v: TF.affine(i, 0, [0, 0], 1, [0, np.degrees(np.arctan(v))],
                                       center=[0, 0])),
    ("translate_x", lambda i, v: TF.affine(i, 0, [-int(v), 0], 1, [0, 0])),
    ("translate_y", lambda i, v: TF.affine(i, 0, [0, -int(v)], 1, [0, 0]))])
def test_movements_match_torchvision(x, name, theirs):
    "Nearest pixel, black outside; a place just between two pixels may go either way."
    values = [float(int(v)) if "translate" in name else v for v in drawn_values(name, len(x))]
    theirs = torch.stack([theirs(i, v) for i, v in zip(x, values)])
    assert (applied(x, name, values) != theirs).float().mean() < 0.001


def test_zero_bits_are_black(x):
    assert applied(x, "posterize", [0.0] * len(x)).max() == 0


def test_a_mixed_batch_is_its_parts(x):
    "Each image gets its own operation and value, no matter what its neighbors get."
    n = len(x)
    op = torch.randint(-1, len(augment.OPS), (n,), generator=seeded())
    value = torch.rand(n, generator=seeded()) * 4 + 1
    together = augment.apply(x, op, value, GREY, True)
    alone = torch.cat([augment.apply(x[k:k + 1], op[k:k + 1], value[k:k + 1], GREY, True)
                       for k in range(n)])
    assert levels(together, alone).max() <= 1
    assert torch.equal(together[op == -1], x[op == -1]) and (op == -1).any()
    assert torch.equal(augment.apply(x.contiguous(), op, value, GREY, True), together)


@pytest.mark.parametrize("size", [(64, 64), (32, 32), (96, 80), (20, 64)])
def test_resized_crops_match_torchvision(x, size):
    x = x[..., :50]
    top, height, left, width = box = augment.crop_boxes(len(x), 64, 50, seeded())
    theirs = torch.stack([TF.resized_crop(i, *(int(v) for v in (t, k, h, w)), list(size),
                                          interpolation=T.InterpolationMode.BICUBIC)
                          for i, (t, h, k, w) in zip(x, box.T)])
    assert levels(augment._resample(x, box, size), theirs).max() <= 1
    mirrored = augment._resample(x, torch.stack([top, height, left + width, -width]), size)
    assert levels(mirrored.flip(3), theirs).max() <= 1


@pytest.mark.parametrize("size", [32, 48, 64, 96])
def test_size_without_a_crop(x, size):
    out = augment.augment_images(x, ("none",), seeded(), size=size)
    theirs = TF.resize(x, [size, size], interpolation=T.InterpolationMode.BICUBIC)
    assert levels(out, theirs).max() <= 1 and out.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(64, 64), (40, 100)])
def test_crops_are_placed_like_torchvisions(shape):
    torch.manual_seed(0)
    crop, image = T.RandomResizedCrop(64), torch.zeros(3, *shape)
    drawn = [crop.make_params([image]) for _ in range(3000)]
    theirs = torch.tensor([[d[k] for d in drawn] for k in ("top", "height", "left", "width")])
    ours = augment.crop_boxes(3000, *shape, seeded())
    for f in (lambda b: b[1] * b[3], lambda b: b[3] / b[1], lambda b: b[0], lambda b: b[2]):
        assert far(f(ours), f(theirs.float())) < 0.04
    top, height, left, width = ours
    assert top.min() == 0 and left.min() == 0
    assert (top + height).max() == shape[0] and (left + width).max() == shape[1]


@pytest.mark.parametrize("shape", [(64, 64), (30, 100), (100, 30)])
def test_where_no_crop_fits(shape):
    "torchvision's fallback: the largest central part with an allowed aspect ratio."
    crop = T.RandomResizedCrop(64, scale=(4.0, 4.0))
    theirs = crop.make_params([torch.zeros(3, *shape)])
    ours = augment.crop_boxes(5, *shape, seeded(), area=(4.0, 4.0))
    assert (ours.T == torch.tensor([theirs[k] for k in ("top", "height", "left", "width")])).all()


def recorded(f, x, n=4, **kwargs):
    "The operations and values that a policy chooses in `n` calls: (calls, B) each."
    ops, values = [], []

    def apply(x, op, value, *args, **how):
        ops.append(op)
        values.append(value)
        return x
    with mock.patch.object(augment, "apply", apply):
        for k in range(n):
            f(x, seeded(k), **kwargs)
    return torch.stack(ops), torch.stack(values)


@pytest.fixture(scope="module")
def many():
    return torch.zeros(3000, 3, 64, 64, dtype=torch.uint8)


def test_randaugment_chooses_like_timm(many):
    op, value = recorded(augment.randaugment, many)
    assert len(op) == 8   # two an image
    count = torch.bincount(op.flatten() + 1, minlength=16) / op.numel()
    assert abs(count[0] - 0.5) < 0.02   # skipped
    assert (count[1:] - 0.5 / 15).abs().max() < 0.005
    assert far(op[0].float(), op[1].float()) < 0.04
    both = ((op[0] == -1) & (op[1] == -1)).float().mean()
    assert abs(both - 0.25) < 0.03   # independent
    source, hparams = random.Random(0), {}
    policy = pillow.rand_augment_transform("rand-m9-mstd0.5-inc1", {})
    assert len(policy.ops) == len(augment.OPS)
    for theirs in policy.ops:
        name = {"AutoContrast": "autocontrast", "SolarizeAdd": "solarize_add",
                "ShearX": "shear_x", "ShearY": "shear_y", "TranslateXRel": "translate_x",
                "TranslateYRel": "translate_y"}.get(
                    theirs.name, theirs.name.removesuffix("Increasing").lower())
        ours = value[op == augment.OPS.index(name)]
        if theirs.level_fn is None:
            assert name in ("autocontrast", "equalize", "invert")
            continue
        with mock.patch.object(pillow, "random", source):
            drawn = torch.tensor([theirs.level_fn(
                min(max(source.gauss(9, 0.5), 0), 10), hparams)[0] for _ in range(3000)])
        assert far(ours, drawn * (64 if "translate" in name else 1.0)) < 0.08, name


def test_randaugments_magnitude(many):
    for magnitude, degrees in ((0, 0.0), (5, 15.0), (20, 30.0)):
        op, value = recorded(augment.randaugment, many, magnitude=magnitude)
        turned = value[op == augment.OPS.index("rotate")].abs()
        assert abs(turned.median() - degrees) < 0.3 and turned.max() <= 30


NAMES = {"autocontrast": "AutoContrast", "shear_x": "ShearX", "shear_y": "ShearY",
         "translate_x": "TranslateX", "translate_y": "TranslateY"}


def magnitudes(space, name, steps):
    "The arguments that reach torchvision's function of an operation."
    table, signed = space[NAMES.get(name, name.title())]
    table = table(steps, 64, 64)
    if table is None:
        return torch.zeros(1)
    if name == "solarize":
        return table * 255
    if signed:
        table = torch.cat([table, -table])
    if name in ("brightness", "contrast", "color", "sharpness"):
        return 1 + table
    return table.trunc() if "translate" in name else table.float()


def test_autoaugment_chooses_like_torchvision(many):
    theirs = T.AutoAugment()
    op, value = recorded(augment.autoaugment, many, n=10)
    assert len(augment._PAIRS) == len(theirs._policies) == 25
    for half in (0, 1):
        expected = dict.fromkeys(augment.OPS, 0.0)
        for pair, policy in zip(augment._PAIRS, theirs._policies):
            name, p, step = pair[3 * half:3 * half + 3]
            assert (NAMES.get(name, name.title()), float(p), int(step)) == (
                policy[half][0], policy[half][1], policy[half][2] or 0)
            expected[name] += float(p) / 25
        found = torch.bincount(op[half::2].flatten() + 1, minlength=16)[1:] / op[half::2].numel()
        assert (found - torch.tensor(list(expected.values()))).abs().max() < 0.01
    for k, name in enumerate(augment.OPS):
        values = value[op == k].unique()
        if len(values):
            possible = magnitudes(theirs._AUGMENTATION_SPACE, name, 10)
            assert torch.cdist(values[:, None], possible[:, None]).amin(1).max() < 1e-5


def test_trivialaugment_chooses_like_torchvision(many):
    theirs = T.TrivialAugmentWide()._AUGMENTATION_SPACE
    op, value = recorded(augment.trivialaugment, many, n=10)
    assert len(op) == 10   # one an image
    for k in range(-1, len(augment.OPS)):
        share = (op == k).float().mean()
        name = augment.OPS[k] if k >= 0 else "identity"
        if name in ("invert", "solarize_add"):
            assert share == 0
            continue
        assert abs(share - 1 / len(theirs)) < 0.006, name
        possible = magnitudes(theirs, name, 31).unique()
        values = value[op == k].unique() if k >= 0 else torch.zeros(1)
        assert len(values) == len(possible) and (values - possible).abs().max() < 1e-4, name


def test_holes_match_timm():
    white = torch.full((3000, 3, 64, 64), 9.0).contiguous(memory_format=torch.channels_last)
    ours = augment.erase(white.clone(), 0.25, seeded())
    with mock.patch.object(timm.data.random_erasing, "random", random.Random(0)):
        hole = timm.data.random_erasing.RandomErasing(0.25, mode="pixel", device="cpu")
        theirs = hole(white.clone())
    found = []
    for out in (ours, theirs):
        gone = (out != 9).any(1)
        hit = gone.flatten(1).any(1)
        assert abs(hit.float().mean() - 0.25) < 0.02
        height, width = gone[hit].any(2).sum(1), gone[hit].any(1).sum(1)
        assert torch.equal(height * width, gone[hit].flatten(1).sum(1))   # a full rectangle
        noise = out.permute(0, 2, 3, 1)[gone]
        assert abs(noise.mean()) < 0.01 and abs(noise.std() - 1) < 0.01
        assert (noise[:, 0] != noise[:, 1]).all()   # each channel has its own
        top, left = gone[hit].any(2).int().argmax(1), gone[hit].any(1).int().argmax(1)
        found.append([v.float() for v in (height * width, height / width, top, left)])
    assert max(far(a, b) for a, b in zip(*found)) < 0.09
    assert abs(found[0][0].mean() / 4096 - found[1][0].mean() / 4096) < 0.01


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_erasing_writes_in_place_and_keeps_the_rest(layout):
    x = torch.randn(50, 3, 32, 32, generator=seeded()).contiguous(memory_format=layout)
    before = x.clone()
    assert augment.erase(x, 0.0, seeded()) is x and torch.equal(x, before)
    out = augment.erase(x, 1.0, seeded())
    changed = (out != before).any(1).float().mean((1, 2))
    assert out.data_ptr() == x.data_ptr()
    assert 0 < changed.min() and changed.max() < 0.36


def timms_mix(x, y, mode, drawn, classes, smoothing):
    "timm's mixing, given our shares and boxes."
    box, outside, lam = drawn
    cut, lam = (outside == 1).numpy(), lam.numpy()
    top, height, left, width = box.int().numpy()
    boxes = iter([((top[k], top[k] + height[k], left[k], left[k] + width[k]), lam[k])
                  for k in range(len(lam)) if cut[k] and lam[k] != 1])
    theirs = timm.data.Mixup(1, 1, mode=mode, num_classes=classes, label_smoothing=smoothing)
    params = (lam.copy(), cut) if mode == "elem" else (lam[0], cut[0])
    with (mock.patch.object(theirs, f"_params_per_{mode}", lambda *n: params),
          mock.patch("timm.data.mixup.cutmix_bbox_and_lam", lambda *a, **k: next(boxes))):
        return theirs(x.clone(), y)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("alphas", [(0.8, 1.0), (0.8, 0.0), (0.0, 1.0), (0.2, 0.5)])
@pytest.mark.parametrize("mode", ["elem", "batch"])
def test_mixing_matches_timm(mode, alphas, smoothing):
    x, y = torch.randn(32, 3, 24, 40, generator=seeded()), torch.arange(32) % 7
    x = x.contiguous(memory_format=torch.channels_last)
    for seed in range(4):
        drawn = augment._shares(32 if mode == "elem" else 1, 24, 40, *alphas, seeded(seed))
        before = x.clone()
        ours = augment.mix(x, y, 7, *alphas, seeded(seed), mode == "elem", smoothing)
        assert torch.equal(x, before)
        for a, b in zip(ours, timms_mix(x, y, mode, drawn, 7, smoothing)):
            torch.testing.assert_close(a, b, atol=3e-6, rtol=0)
        assert ours[0].is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(ours[1].sum(1), torch.ones(32))


def test_shares_are_distributed_like_timms():
    "Beta-distributed shares, a fair coin, and the actual area of the clipped box."
    box, outside, lam = augment._shares(4000, 64, 48, 0.8, 1.0, seeded())
    cut = outside == 1
    np.random.seed(0)
    theirs = timm.data.Mixup(0.8, 1.0)
    drawn = [theirs._params_per_batch() for _ in range(4000)]
    faded = torch.tensor([v for v, is_cut in drawn if not is_cut])
    boxes = [timm.data.mixup.cutmix_bbox_and_lam((3, 64, 48), v) for v, is_cut in drawn if is_cut]
    pasted = torch.tensor([float(v) for _, v in boxes])
    assert abs(cut.float().mean() - 0.5) < 0.03
    assert far(lam[~cut], faded) < 0.05 and far(lam[cut], pasted) < 0.05
    corners = torch.tensor([[int(v) for v in b] for b, _ in boxes]).T.float()
    for a, b in ((box[0], corners[0]), (box[0] + box[1], corners[1]),
                 (box[2], corners[2]), (box[2] + box[3], corners[3])):
        assert far(a[cut], b) < 0.05
    torch.testing.assert_close(lam[cut], 1 - box[1, cut] * box[3, cut] / (64 * 48))


def test_boxes_away_from_the_border_are_whole():
    box, _, _ = augment._shares(4000, 64, 64, 0.0, 1.0, seeded())
    top, height, left, width = box
    free = (top > 0) & (left > 0) & (top + height < 64) & (left + width < 64) & (height > 0)
    assert torch.equal(height[free], width[free]) and free.sum() > 500
    assert 0.4 < (height[free] % 2).mean() < 0.6   # odd sides too


def test_without_mixing_only_labels_change():
    x, y = torch.randn(5, 3, 8, 8), torch.arange(5)
    same, target = augment.mix(x, y, 5, 0.0, 0.0, seeded(), smoothing=0.1)
    assert torch.equal(same, x)
    torch.testing.assert_close(target, timm.data.mixup.mixup_target(y, 5, smoothing=0.1))


def test_batch_mode_has_one_share():
    x, y = torch.randn(16, 3, 8, 8), torch.zeros(16, dtype=torch.long)
    y[8:] = 1
    for per_sample, kinds in ((False, 1), (True, 8)):
        _, target = augment.mix(x, y, 2, 0.8, 0.0, seeded(), per_sample)
        assert len(target[:8, 0].unique()) == kinds


@pytest.mark.parametrize("text", RECIPES)
def test_images(x, text):
    before, words = x.clone(), augment.check_words(text)
    out = augment.augment_images(x, words, seeded())
    assert torch.equal(x, before)
    assert (out.shape, out.dtype) == (x.shape, torch.uint8)
    assert out.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(out, augment.augment_images(x, text, seeded()))   # the seed decides
    assert torch.equal(out, augment.augment_images(x.contiguous(), words, seeded()))
    assert text == "none" or not torch.equal(out, augment.augment_images(x, words, seeded(1)))
    assert augment.augment_images(x, words, seeded(), size=40).shape == (64, 3, 40, 40)


def test_crop_and_flip_are_those_of_data(x):
    ours = augment.augment_images(x, ("crop", "flip"), seeded())
    assert torch.equal(ours, data.crop_flip(x, seeded()))
    assert torch.equal(augment.augment_images(x, ("none",), seeded()), x)
    upright = augment.augment_images(x, ("crop",), seeded())
    mirrored = (upright != ours).flatten(1).any(1)
    assert 16 < mirrored.sum() < 48   # the same shifts, without the flips
    flipped = augment.augment_images(x, ("flip",), seeded())
    same = (flipped == x).flatten(1).all(1)
    assert torch.equal(flipped[~same], x.flip(3)[~same]) and 16 < same.sum() < 48


def test_resized_crop_flips_half(x):
    plain = augment.augment_images(x, ("resized_crop",), seeded())
    out = augment.augment_images(x, ("resized_crop", "flip"), seeded())
    mirrored = (levels(out, plain.flip(3)).flatten(1).amax(1) <= 1)
    assert (mirrored | (out == plain).flatten(1).all(1)).all()
    assert 16 < mirrored.sum() < 48


@pytest.mark.parametrize("text", RECIPES)
def test_the_device_is_never_asked(x, text):
    "Tensors on the `meta` device have no values, so reading one would raise."
    out = augment.augment_images(x.to("meta"), augment.check_words(text), seeded(), size=48)
    assert out.device.type == "meta" and out.shape == (64, 3, 48, 48)
    floats, y = torch.empty(8, 3, 48, 48, device="meta"), torch.empty(8, device="meta").long()
    mixed, target = augment.mix(floats, y, 10, 0.8, 1.0, seeded())
    assert target.device.type == "meta" and mixed.shape == floats.shape


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_the_gpu_does_the_same_without_waiting(x):
    words = ("resized_crop", "flip", "randaugment")
    here, there = augment.augment_images(x, words, seeded()), x.cuda()
    y = torch.arange(len(x), device="cuda") % 10
    torch.cuda.set_sync_debug_mode("error")
    try:
        out = augment.augment_images(there, words, seeded())
        floats = out.float()
        augment.mix(augment.erase(floats, 0.25, seeded()), y, 10, 0.8, 1.0, seeded())
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert levels(out.cpu(), here).float().mean() < 0.1


@pytest.mark.parametrize("text, says", [
    ("", "give one or more"), ("blur", "give one or more of none, crop"),
    ("crop resized_crop", "at most one of crop, resized_crop"),
    ("flip randaugment trivialaugment", "at most one of autoaugment"),
    ("none flip", "none stands alone")])
def test_words_that_do_not_fit(text, says):
    with pytest.raises(ValueError, match=says):
        augment.check_words(text)


def test_floats_are_refused(x):
    with pytest.raises(ValueError, match="must be uint8"):
        augment.augment_images(x.float(), ("flip",), seeded())


def test_as_many_images_stay_untouched_as_in_timm(x):
    "End to end: the share of changed images and the mean change, against timm's RandAugment."
    theirs = pillow.rand_augment_transform(   # m7: at m9 new versions of Pillow refuse 0 bits
        "rand-m7-mstd0.5-inc1", dict(img_mean=GREY, interpolation=BICUBIC))
    random.seed(0)
    np.random.seed(0)
    many = x[:60].repeat(20, 1, 1, 1)
    found = []
    for out in (augment.randaugment(many, seeded(), magnitude=7), each(theirs, many)):
        change = levels(out, many).float().mean((1, 2, 3))
        found.append((change > 0, change))
    assert abs(found[0][0].float().mean() - found[1][0].float().mean()) < 0.04
    assert far(found[0][1], found[1][1]) < 0.06
