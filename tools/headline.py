"""The headline: ConvNeXt-T, ResNet-50 and Swin-T on all of Tiny-ImageNet (make headline).

One recipe and one total stride for all three; each run resumes where it was interrupted. The runs
are a family of their own, nbs/runs/race.
"""
import argparse
from dataclasses import replace
from pathlib import Path

from convnext_nb import data, train

FAMILY = Path(__file__).resolve().parent.parent / "nbs/runs/race"
NETWORKS = {  # total stride 16 at 64 pixels
    "convnext_tiny": dict(stem_stride=2, layer_scale=0.1, drop_path=0.2),
    "resnet50": dict(stem_stride=2),
    "swin_t": dict(stem_stride=2, img_size=64, drop_path=0.2)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--recipe", default="tiny_fast", choices=list(train.PRESETS))
    parser.add_argument("--data", default="tiny", help="tiny, shapes, or a path")
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=FAMILY, help="folder of the run folders")
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), metavar="NETWORK",
                        help=f"some of {', '.join(NETWORKS)}; default: all")
    args = parser.parse_args()
    if unknown := set(args.networks) - set(NETWORKS):
        parser.error(f"no network {', '.join(unknown)}; there are {', '.join(NETWORKS)}")
    dataset = data.load(args.data)
    for name in args.networks:
        recipe = replace(train.PRESETS[args.recipe].with_epochs(args.epochs), seed=args.seed,
                         model=name, model_args=NETWORKS[name])
        folder = args.out / (f"{name}-s{args.seed}" if args.seed else name)
        _, run = train.fit(recipe, dataset, folder)
        e = run.evidence
        average = f"average of the weights {e['ema_top1']:.2f} %, " if "ema_top1" in e else ""
        print(f"{name}: val top-1 {e['val_top1']:.2f} %, top-5 {e['val_top5']:.2f} %, training "
              f"{e['train_top1']:.2f} %, {average}"
              f"{e['images_per_s']:.0f} images/s, {e['train_seconds'] / 60:.1f} minutes, "
              f"{e['params']:,} parameters, {e['device']}", flush=True)


if __name__ == "__main__":
    main()
