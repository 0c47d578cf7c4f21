"""The race: ConvNeXt, ResNet and Swin of equal cost on all of Tiny-ImageNet.

One recipe and one total stride for all three; each run resumes where it was interrupted. The runs
are a family of their own, nbs/runs/race.

On a CPU: the three networks at half their width, by the recipe `race`. One core and one thread
for each of them; 4 epochs take an hour or more a network, the recipe's 16 some five:
    OMP_NUM_THREADS=1 taskset -c 0 python tools/headline.py --recipe race --epochs 4 convnext_half

A GPU for a quarter of an hour, where no command may last longer than ten minutes:

1. Rehearse here, on a CPU, with the same networks and few images (a few minutes each). Each command
   stops and saves in time, and the next one goes on; the last one prints the result:
       python tools/headline.py --images 64 --epochs 2 --out /tmp/race --minutes 1 convnext_tiny
2. There, before: `.venv` (torch, torchvision, timm, and the wheels of torchinfo and `fastcore<2`),
   and the data. Where only small files may travel, cut the archive here and join it there; its
   checksum is verified when it is opened:
       split -b 28M tiny-imagenet-200.zip part-
       cat part-* > data/tiny-imagenet-200.zip
3. The tests that ask for a GPU (a minute):
       python -m pytest -q tests/test_train.py tests/test_augment.py -k gpu
4. ConvNeXt-T, in parts of nine minutes; the same command again goes on from where it stopped. In
   the run's rows, `first_seconds` is what compilation took of an epoch's `seconds`.
       python tools/headline.py --minutes 9 convnext_tiny
   Another time: the same with resnet50, and with swin_t.
5. Bring home after each part (a few kB): recipe.json, metrics.jsonl, and at the end evidence.json.
   An epoch adds its line to metrics.jsonl when it ends, so a part that is cut off loses none. The
   checkpoint (450 MB) and the weights stay there; without the checkpoint the run cannot go on.
"""
import _thread
import argparse
import threading
from dataclasses import replace
from pathlib import Path

from convnext_nb import data, train

FAMILY = Path(__file__).resolve().parent.parent / "nbs/runs/race"
NETWORKS = {  # total stride 16 at 64 pixels; windows of 4 fit the maps of 32, 16, 8 and 4 pixels
    "convnext_tiny": ("convnext_tiny", dict(stem_stride=2, layer_scale=0.1, drop_path=0.1,
                                            init="torch")),
    "resnet50": ("resnet50", dict(stem_stride=2)),
    "swin_t": ("swin_t", dict(stem_stride=2, window=4, drop_path=0.1)),
    "convnext_half": (train.PRESETS["race"].model, train.PRESETS["race"].model_args),
    "resnet_half": ("resnet50", dict(width=32, stem_stride=2, drop_path=0.05)),
    "swin_half": ("swin", dict(dim=48, stem_stride=2, window=4, drop_path=0.05))}
HALF = [name for name in NETWORKS if name.endswith("_half")]


def few(dataset: data.Dataset, images: int) -> data.Dataset:
    "Some of the images, for a rehearsal."
    parts = {name: train.fixed_subset(getattr(dataset, name), images) for name in ("train", "val")}
    return replace(dataset, **parts)


def report(name: str, e: dict) -> str:
    "One line about a finished run."
    average = f"average of the weights {e['ema_top1']:.2f} %, " if "ema_top1" in e else ""
    return (f"{name}: val top-1 {e['val_top1']:.2f} %, top-5 {e['val_top5']:.2f} %, training "
            f"{e['train_top1']:.2f} %, {average}"
            f"{e['images_per_s']:.0f} images/s, {e['train_seconds'] / 60:.1f} minutes, "
            f"{e['params']:,} parameters, {e['device']}")


def run(args: argparse.Namespace) -> None:
    "Train, or go on training, the networks that were asked for."
    dataset = data.load(args.data)
    if args.images: dataset = few(dataset, args.images)
    chosen = train.PRESETS[args.recipe]
    for name in args.networks:
        model, model_args = NETWORKS[name]
        recipe = replace(chosen.with_epochs(args.epochs or chosen.epochs), seed=args.seed,
                         model=model, model_args=model_args)
        if args.images: recipe = replace(recipe, compile=False, batch_size=16)
        epochs = f"-e{recipe.epochs}" if recipe.epochs != chosen.epochs else ""
        seed = f"-s{args.seed}" if args.seed else ""
        _, found = train.fit(recipe, dataset, args.out / f"{name}{epochs}{seed}")
        print(report(name, found.evidence), flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="tiny_fast", choices=list(train.PRESETS))
    parser.add_argument("--data", default="tiny", help="tiny, shapes, or a path")
    parser.add_argument("--epochs", type=int, help="default: the recipe's own")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FAMILY, help="folder of the run folders")
    parser.add_argument("--minutes", type=float, help="save and stop then, as after Ctrl-C")
    parser.add_argument("--images", type=int, help="rehearse with so many images, uncompiled")
    parser.add_argument("networks", nargs="*", metavar="NETWORK",
                        help=f"some of {', '.join(NETWORKS)}; default: all of the recipe's width")
    args = parser.parse_args()
    if args.images and args.out == FAMILY: parser.error("a rehearsal needs an --out of its own")
    args.networks = args.networks or [n for n in NETWORKS if (n in HALF) == (args.recipe == "race")]
    if unknown := set(args.networks) - set(NETWORKS):
        parser.error(f"no network {', '.join(unknown)}; there are {', '.join(NETWORKS)}")
    timer = threading.Timer(60 * (args.minutes or 0), _thread.interrupt_main)
    timer.daemon = True
    if args.minutes: timer.start()
    try: run(args)
    except KeyboardInterrupt as e:
        raise SystemExit(str(e) or "stopped; the same command goes on") from None
    finally: timer.cancel()


if __name__ == "__main__":
    main()
