"""What the tests against other implementations share: inputs, random weights, comparisons."""
import torch

from convnext_nb import weights
from convnext_nb.peers import gap
from convnext_nb.peers import noise as images

__all__ = ["drawn", "gap", "images", "on_meta", "same", "shapes"]


def on_meta(make, *args, **kwargs):
    "What `make` builds, without its numbers: its own initial weights cost nothing."
    with torch.device("meta"):
        return make(*args, **kwargs)


def drawn(make, seed=0):
    "A network with random numbers in all tensors."
    return weights.randomize(on_meta(make).to_empty(device="cpu"), seed)


def same(a, b):
    "Whether two networks have the same keys and the same numbers, bit for bit."
    a, b = a.state_dict(), b.state_dict()
    return list(a) == list(b) and all(torch.equal(t, b[k]) for k, t in a.items())


def shapes(state):
    return {k: tuple(t.shape) for k, t in state.items()}
