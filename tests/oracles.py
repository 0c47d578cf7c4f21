"""What the tests against other implementations share: inputs, random weights, a distance."""
import torch

from convnext_nb import weights


def gap(a, b):
    "Largest difference, relative to the largest value."
    return ((a - b).abs().max() / b.abs().max()).item()


def images(size=64, batch=2, chans=3):
    return torch.randn(batch, chans, size, size, generator=torch.Generator().manual_seed(0))


def on_meta(make, *args, **kwargs):
    "What `make` builds, without its numbers: its own start values cost nothing."
    with torch.device("meta"):
        return make(*args, **kwargs)


def drawn(make, seed=0):
    "A network with all tensors drawn at random."
    return weights.randomize(on_meta(make).to_empty(device="cpu"), seed)
