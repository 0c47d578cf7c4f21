"""What trained networks see: measures nbs/runs/measured/seen.json, which the chapter
"what does it see?" reads.

    python tools/seen.py DATA RUNS

DATA is Tiny-ImageNet (zip or folder), RUNS a folder with the runs of chapter "measured" and
`steps_shapes/fewer_act` as `cnx_train` left them, weights included. Everything is computed in
fp32 on the CPU.
"""
import argparse
import json
import re
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from convnext_nb import archive, data, evaluation, models, roadmap, runs

ROOT = Path(__file__).resolve().parent.parent
SEEDS = ("", "-s1", "-s2")
SCALES = tuple(f"steps_holdout/{name}" for name in ("ln", "ln-dp", "sep_ds", "sep_ds-1e-6"))
SHOWN = "steps_shapes/fewer_act"  # on drawn images, which may be shown
ATTO = "atto_tiny200"  # the network that comes with the package


def stages(net: nn.Module) -> list[nn.Module]:
    "The modules whose outputs are the maps of the four stages."
    return list(net.stages.values() if isinstance(net.stages, nn.ModuleDict) else net.stages) \
        if hasattr(net, "stages") else [getattr(net, f"layer{i}") for i in (1, 2, 3, 4)]


def branches(net: nn.Module) -> dict[str, nn.Module]:
    "The residual branches' last parts: stage.block -> module that every branch passes."
    return {f"{i}.{j}": block.drop_path for i, stage in enumerate(stages(net), 1)
            for j, block in enumerate(stage, 1)}


@contextmanager
def hooked(module, fn):
    "Within the block, `fn(module, inputs, output)` sees, and may replace, the module's output."
    handle = module.register_forward_hook(fn)
    try:
        yield
    finally:
        handle.remove()


def forward_to(net, module, x):
    "Logits (B, K) and the module's output (B, C, H, W) for images `x`."
    kept = []
    with hooked(module, lambda m, i, o: kept.append(o)):
        logits = net(x)
    return logits, kept[0]


def images(dataset, split, count):
    "`count` evenly spaced images, as the network wants them (B, 3, H, W), and their labels."
    at = torch.linspace(0, len(split) - 1, min(count, len(split))).long()
    x, y = split.take(at)
    return data.to_float(x.permute(0, 3, 1, 2), dataset.preprocessing), y, at


# --- effective receptive field -------------------------------------------------------------------

def field(net, x):
    """Gradient energy by pixel of the units in the middle of the last map: (H, W), sums to 1.

    The four units around the centre, mirrored onto the upper left one. For each image a random
    mix of channels: on average its squared gradient is the sum over channels of theirs.
    """
    g = torch.Generator().manual_seed(0)
    x = x.clone().requires_grad_()
    _, y = forward_to(net, stages(net)[-1], x)
    mix = torch.randn(y.shape[:2], generator=g)  # (B, C)
    n, total = y.shape[-1], 0
    for i in (n // 2 - 1, n // 2):
        for j in (n // 2 - 1, n // 2):
            grad, = torch.autograd.grad((y[:, :, i, j] * mix).sum(), x, retain_graph=True)
            energy = grad.square().sum(1)  # (B, H, W)
            energy = (energy / energy.sum((1, 2), keepdim=True)).mean(0)
            turn = [d for d, k in ((0, i), (1, j)) if k == n // 2]
            total = total + energy.flip(turn)
    return total / 4


def measures(energy, side):
    "Part of the pixels that holds half of the energy; energy outside the unit's own `side` pixels."
    held = energy.flatten().sort(descending=True).values.cumsum(0)
    end = len(energy) // 2
    own = energy[end - side:end, end - side:end].sum().item()
    return dict(half=(int((held < 0.5).sum()) + 1) / held.numel(), outside=1 - own)


def fresh(folder, x):
    "The run's network before training; its batch norms know the statistics of `x`."
    asked = runs.Run(folder).recipe
    torch.manual_seed(asked["recipe"]["seed"])
    net = models.create(asked["recipe"]["model"], len(asked["data"]["classes"]),
                       **asked["recipe"]["model_args"])
    for m in net.modules():
        if isinstance(m, nn.BatchNorm2d):
            m.momentum = None  # a plain average
    with torch.no_grad():
        net.train()(x)
    return net.eval()


def fields(folders, x):
    "Fields of the seeds of one recipe, trained and fresh, and their mean as a picture."
    unborn = fresh(folders[0], x)
    side = unborn.total_stride
    found = [field(models.restore(f)[0], x) for f in folders]
    mean = torch.stack(found).mean(0)
    return dict(runs=[f.name for f in folders], trained=[measures(e, side) for e in found],
                fresh=measures(field(unborn, x), side),
                picture=F.avg_pool2d(mean[None], 2)[0].mul(1e6).round().int().tolist())


# --- Grad-CAM ------------------------------------------------------------------------------------

def grad_cam(net, stage, x, target):
    "Grad-CAM of class `target` (B,) on a stage's map: (B, h, w), not negative."
    logits, y = forward_to(net, stages(net)[stage - 1], x)
    grad, = torch.autograd.grad(logits.gather(1, target[:, None]).sum(), y)
    return (grad.mean((2, 3), keepdim=True) * y).sum(1).relu().detach()


def boxes(source: Path) -> dict[str, list[int]]:
    "Box of each validation image: file name -> x0, y0, x1, y1, ends included."
    opened = archive.Archive(source)
    archive.tiny_imagenet_files(opened)  # finds the folder in it
    lines = opened.read("val/val_annotations.txt").decode().splitlines()
    return {line.split("\t")[0]: [int(v) for v in line.split("\t")[2:6]] for line in lines}


def box_masks(source, rows):
    "True inside the box, (B, 64, 64), for rows of the validation set (sorted by file name)."
    found = boxes(source)
    names = sorted(found)
    at = torch.arange(64)
    masks = []
    for row in rows.tolist():
        x0, y0, x1, y1 = found[names[row]]
        masks.append(((at >= y0) & (at <= y1))[:, None] & ((at >= x0) & (at <= x1)))
    return torch.stack(masks)


def spot(cam, side=64):
    "Pixel in the middle of the strongest cell: rows and columns (B,)."
    n = cam.shape[-1]
    at = cam.flatten(1).argmax(1)
    return tuple(((k + 0.5) * side / n).long() for k in (at // n, at % n))


def share_inside(cam, masks):
    "Part of a map's energy that lies in the box (B,)."
    wide = F.interpolate(cam[:, None], masks.shape[1:], mode="bilinear")[:, 0]
    return (wide * masks).sum((1, 2)) / wide.sum((1, 2))


def localised(net, x, y, masks):
    """Grad-CAM against boxes, by stage: means over images, and the standard error of `own`.

    Besides a network's own maps: the same maps on other images' boxes, which shows what the habit
    of looking at the middle is worth.
    """
    n = len(x)
    other = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    rows, size = {}, masks.float().mean((1, 2))
    for stage in (2, 3, 4):
        cam = torch.cat([grad_cam(net, stage, a, b) for a, b in zip(x.split(100), y.split(100))])
        silent = cam.flatten(1).sum(1) == 0
        cam = torch.where(silent[:, None, None], torch.ones_like(cam), cam)  # uniform
        inside = share_inside(cam, masks)
        own = inside - share_inside(cam[other], masks)
        rows[stage] = dict(
            images=n, silent=int(silent.sum()), box=size.mean().item(),
            inside=inside.mean().item(), own=own.mean().item(),
            own_error=(own.std() / n ** 0.5).item(),
            hit=masks[(torch.arange(n), *spot(cam))].float().mean().item(),
            hit_centre=masks[:, 32, 32].float().mean().item())
    return rows


def shown(folder, dataset, per_class=2):
    "Grad-CAM on drawn images: maps for the true class and the next best one."
    net = models.restore(folder)[0]
    at = torch.cat([(dataset.val.labels == k).nonzero()[:per_class, 0] for k in range(10)])
    x, y = dataset.val.take(at)
    x = data.to_float(x.permute(0, 3, 1, 2), dataset.preprocessing)
    with torch.no_grad():
        logits = net(x)
    rival = logits.scatter(1, y[:, None], -torch.inf).argmax(1)
    made = dict(run=folder.name, images=at.tolist(), labels=y.tolist(), rival=rival.tolist(),
                predicted=logits.argmax(1).tolist(), maps={})
    for stage in (2, 3, 4):
        cams = {key: grad_cam(net, stage, x, k) for key, k in (("true", y), ("rival", rival))}
        made["maps"][stage] = {key: (cam / cam.amax((1, 2), True).clamp(min=1e-12)).tolist()
                               for key, cam in cams.items()}
    return made


# --- what the blocks do --------------------------------------------------------------------------

def hits(net, x, y):
    "Whether each image is classified right (B,)."
    with torch.inference_mode():
        return torch.cat([net(a).argmax(1) == b for a, b in zip(x.split(250), y.split(250))])


def silenced(module, inputs, output):
    "A hook that takes a residual branch away."
    return torch.zeros_like(output)


def blocks(net, x, y):
    "For each block: accuracy lost without its branch, the branch's size, and layer scale."
    whole, rows = hits(net, x, y), []
    for name, branch in branches(net).items():
        i, j = map(int, name.split("."))
        block = stages(net)[i - 1][j - 1]
        with hooked(branch, silenced):
            lost = whole.float() - hits(net, x, y).float()
        with torch.inference_mode():
            size, out = (forward_to(net, m, x[:250])[1].square().mean().sqrt().item()
                         for m in (branch, block))
        row = dict(block=name, drop=100 * lost.mean().item(),
                   error=100 * (lost.std() / len(lost) ** 0.5).item(),
                   loudness=size / out)
        if block.gamma is not None:
            g = block.gamma.detach().abs()
            low, mid, high = g.quantile(torch.tensor([0.1, 0.5, 0.9])).tolist()
            row |= dict(gamma=g.mean().item(), low=low, middle=mid, high=high)
        rows.append(row)
    return dict(top1=100 * whole.float().mean().item(), images=len(x), blocks=rows)


# --- mistakes ------------------------------------------------------------------------------------

GROUPS = {"animals": "n02600000", "things": "n07000000", "food": "n09000000"}  # ends, by wnid


def group(name):
    "Kind of a class: wnids are in the order of kinds, from animals to landscapes."
    return next((g for g, end in GROUPS.items() if name.split()[0] < end), "nature")


def mistakes(net, dataset):
    "Which classes are taken for which: the most frequent pairs, and how far mistakes go."
    names = [name.split(" ", 1)[1] for name in dataset.classes]
    logits = evaluation.predict(net, dataset.val, dataset.preprocessing, 250)
    counts = evaluation.confusion(logits, dataset.val.labels)
    off = counts.clone().fill_diagonal_(0)
    recall = 100 * counts.diagonal() / counts.sum(1)
    kinds = [group(n) for n in dataset.classes]
    rows = {}
    for kind in sorted(set(kinds)):
        inside = torch.tensor([q == kind for q in kinds])
        rows[kind] = dict(classes=int(inside.sum()), wrong=int(off[inside].sum()),
                          within=int(off[inside][:, inside].sum()))
    ranked = recall.argsort(descending=True, stable=True).tolist()
    def shown(at):
        return [[names[i], recall[i].item()] for i in at]
    return dict(
        images=len(logits), top1=100 * (counts.trace() / len(logits)).item(),
        pairs=[list(pair.values()) for pair in evaluation.confused(counts, names, 10)],
        best=shown(ranked[:6]), worst=shown(ranked[:-7:-1]), groups=rows)


# --- all of it -----------------------------------------------------------------------------------

def rounded(thing, digits=4):
    "Plain data with short numbers."
    if isinstance(thing, dict):
        return {str(k): rounded(v, digits) for k, v in thing.items()}
    if isinstance(thing, (list, tuple)):
        return [rounded(v, digits) for v in thing]
    return float(f"{thing:.{digits}g}") if isinstance(thing, float) else thing


def compact(found: dict) -> str:
    "JSON with lists of numbers on one line each."
    text = json.dumps(found, indent=1, sort_keys=True)
    return re.sub(r"\[[^][{}]*\]", lambda m: re.sub(r"\s+", " ", m[0]), text) + "\n"


def finished(root: Path, step: str) -> list[Path]:
    "The finished runs of a step, one a seed."
    folders = [root / f"steps_tiny20/{step}{seed}" for seed in SEEDS]
    return [f for f in folders if (f / "evidence.json").exists()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", type=Path, help="Tiny-ImageNet: zip or extracted folder")
    parser.add_argument("runs", type=Path, help="folder of runs with weights")
    parser.add_argument("--book", type=Path, default=ROOT / "nbs/runs", help="runs of the book")
    args = parser.parse_args()
    for name in (*SCALES, SHOWN, *(f"steps_tiny20/{step}" for step in ("base", "k7", "sep_ds"))):
        models.restore(args.runs / name)  # a missing one is told now, not at the end
    start = time.time()
    torch.manual_seed(0)
    tiny = data.load(str(args.data))
    few = tiny.select(20)
    found = dict(machine=runs.machine(), data=few.source, fields={}, boxes={}, blocks={})

    x, _, _ = images(few, few.val, 100)
    for step in roadmap.steps():
        if folders := finished(args.runs, step.name):
            found["fields"][step.name] = fields(folders, x)
            print(f"{time.time() - start:4.0f} s  field of {step.name}", flush=True)

    x, y, at = images(few, few.val, 1000)
    masks = box_masks(args.data, few.val.rows[at])
    for step in ("base", "k7", "sep_ds"):
        for folder in finished(args.runs, step):
            net = models.restore(folder)[0]
            found["boxes"][folder.name] = localised(net, x, y, masks)
            found["blocks"][folder.name] = blocks(net, x, y)
            print(f"{time.time() - start:4.0f} s  boxes, blocks of {folder.name}", flush=True)
    for name in SCALES:
        found["blocks"][name] = blocks(models.restore(args.runs / name)[0], x, y)
    untrained = fresh(args.runs / "steps_tiny20/base", x[:250])
    found["boxes"]["fresh base"] = localised(untrained, x, y, masks)
    net = models.restore(ATTO)[0]
    x, y, at = images(tiny, tiny.val, 2000)
    found["boxes"][ATTO] = localised(net, x, y, box_masks(args.data, at))
    found["blocks"][ATTO] = blocks(net, x, y)
    found["mistakes"] = dict(network=ATTO, **mistakes(net, tiny))
    print(f"{time.time() - start:4.0f} s  {ATTO}", flush=True)

    shapes = data.Shapes(n_train=10, n_val=250)
    x, _, _ = images(replace(shapes, preprocessing=tiny.preprocessing), shapes.val, 20)
    found["drawn"] = dict(network=ATTO, **measures(field(net, x), net.total_stride))
    found["shown"] = shown(args.runs / SHOWN, shapes)
    found["seconds"] = round(time.time() - start)
    (args.book / "seen.json").write_text(compact(rounded(found)))
    print(f"{time.time() - start:4.0f} s  {args.book / 'seen.json'}")


if __name__ == "__main__":
    main()
