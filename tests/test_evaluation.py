"""What evaluation says against counts by hand."""
import json

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from convnext_nb import convnext, data, evaluation, weights
from convnext_nb.data import Preprocessing, Split

SMALL = dict(depths=(1, 1, 1, 1), dims=(8, 16, 24, 32), layer_scale=1.0)
PRE = Preprocessing(size=32, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.25))


def split(n, k=3, side=32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return Split(torch.randint(256, (n, side, side, 3), generator=g, dtype=torch.uint8),
                 torch.randint(k, (n,), generator=g))


def network(k=3, drop_path=0.5):
    torch.manual_seed(0)
    return weights.randomize(convnext.ConvNeXt(num_classes=k, drop_path=drop_path, **SMALL))


def drawn(n, k, seed):
    "Logits without ties, and labels that they often predict."
    g = torch.Generator().manual_seed(seed)
    logits, labels = 3 * torch.randn(n, k, generator=g), torch.randint(k, (n,), generator=g)
    logits[torch.arange(n), labels] += 2
    return logits, labels


# Counts by hand

def counted(logits, labels):
    "Top-1, top-5 and loss from their definitions, one image at a time."
    top1 = top5 = loss = 0.0
    for z, y in zip(logits.double().numpy(), labels.tolist()):
        better = int((z > z[y]).sum())  # classes in front of the true one
        top1, top5 = top1 + (better < 1), top5 + (better < 5)
        loss += np.log(np.exp(z - z.max()).sum()) + z.max() - z[y]
    n = len(labels)
    return dict(top1=100 * top1 / n, top5=100 * top5 / n, loss=loss / n)


@pytest.mark.parametrize("n, k, seed", [(1, 2, 0), (50, 3, 1), (99, 5, 2), (64, 6, 3), (90, 40, 4)])
def test_scores_are_the_counts(n, k, seed):
    logits, labels = drawn(n, k, seed)
    assert evaluation.scores(logits, labels) == pytest.approx(counted(logits, labels), rel=1e-5)


@pytest.mark.parametrize("k", [2, 5, 40])
def test_of_equal_logits_the_first_class_is_the_answer(k):
    "Logits in bf16 are often equal; accuracy, confusion and calibration must then agree."
    logits = torch.randint(3, (500, k), generator=torch.Generator().manual_seed(k)).float()
    labels = torch.randint(k, (500,), generator=torch.Generator().manual_seed(0))
    top1 = evaluation.scores(logits, labels)["top1"]
    right = (logits.argmax(1) == labels).double().mean().item()
    assert top1 == pytest.approx(100 * right)
    assert top1 == pytest.approx(evaluation.confusion(logits, labels).diag().sum().item() / 5)
    bins = evaluation.calibration(logits, labels)["bins"]
    assert top1 == pytest.approx(sum(b["count"] * b["accuracy"] for b in bins) / 500)


@pytest.mark.parametrize("n, batch_size", [(1, 4), (7, 3), (8, 4), (9, 100)])
@pytest.mark.parametrize("flip", [False, True])
def test_evaluate_and_predict_are_one_pass_of_the_network(n, batch_size, flip):
    net, images = network(7), split(n, 7)
    x = data.to_float(images.images.permute(0, 3, 1, 2), PRE)
    net.eval()
    with torch.no_grad():
        expected = (net(x) + net(x.flip(3))) / 2 if flip else net(x)
    net.train()
    found = evaluation.predict(net, images, PRE, batch_size, flip=flip)
    assert torch.allclose(found, expected, atol=1e-5) and net.training
    assert not found.requires_grad and found.dtype == torch.float32
    said = evaluation.evaluate(net, images, PRE, batch_size, flip=flip)
    assert said == pytest.approx(counted(expected, images.labels), rel=1e-4) and net.training


def test_images_are_scaled_to_the_networks_size():
    net, small = network(), split(4, side=16)
    x = data.to_float(small.images.permute(0, 3, 1, 2), PRE)
    x = F.interpolate(x, (32, 32), mode="bicubic", antialias=True)
    with torch.no_grad():
        expected = net.eval()(x)
    assert torch.allclose(evaluation.predict(net, small, PRE), expected, atol=1e-5)


def test_autocast_is_bf16():
    class Seen(nn.Linear):
        def forward(self, x):
            out = super().forward(x.flatten(1))
            self.dtype = out.dtype
            return out
    net = Seen(3 * 32 * 32, 3)
    for autocast, dtype in ((True, torch.bfloat16), (False, torch.float32)):
        found = evaluation.predict(net, split(5), PRE, autocast=autocast)
        assert net.dtype == dtype and found.dtype == torch.float32


def test_an_error_leaves_the_network_in_its_mode():
    net = network().train()
    wrong = Split(split(3).store, torch.tensor([0, 1, 2]))
    net.head = nn.Linear(5, 3)  # does not fit
    with pytest.raises(RuntimeError):
        evaluation.evaluate(net, wrong, PRE)
    assert all(m.training for m in net.modules())
    with pytest.raises(ValueError, match="empty split"):
        evaluation.evaluate(network(), split(3).subset(torch.arange(0)), PRE)


class Reads(TorchDispatchMode):
    "Counts the operations that would wait for a GPU."
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        waits = ("item", "_local_scalar_dense", "is_nonzero", "equal", "nonzero", "masked_select")
        self.count += func.overloadpacket.__name__.split(".")[-1] in waits
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("measure", [evaluation.evaluate, evaluation.predict])
def test_nothing_is_read_back_for_each_batch(measure):
    found = []
    for batch_size in (20, 2):
        with Reads() as reads:
            measure(network(), split(20), PRE, batch_size)
        found.append(reads.count)
    assert found[0] == found[1]
    with Reads() as reads, torch.inference_mode():
        torch.ones(1).item()
    assert reads.count == 1  # it does count


# Confusion

@pytest.mark.parametrize("n, k, seed", [(1, 2, 0), (60, 3, 1), (500, 12, 2)])
def test_confusion_by_hand(n, k, seed):
    logits, labels = drawn(n, k, seed)
    expected = [[0] * k for _ in range(k)]
    for z, y in zip(logits.tolist(), labels.tolist()):
        expected[y][z.index(max(z))] += 1
    counts = evaluation.confusion(logits, labels)
    assert counts.tolist() == expected
    names = [f"class {i}" for i in range(k)]
    pairs = {(i, j): expected[i][j] + expected[j][i] for i in range(k) for j in range(i + 1, k)}
    order = sorted((p for p in pairs if pairs[p]), key=lambda p: -pairs[p])  # stable
    rows = [dict(a=names[i], b=names[j], mistakes=pairs[i, j], a_as_b=expected[i][j],
                 b_as_a=expected[j][i]) for i, j in order]
    assert evaluation.confused(counts, names, 5) == rows[:5]
    assert evaluation.confused(counts, names, 10**6) == rows
    with pytest.raises(ValueError, match=f"{k + 1} names for {k} classes"):
        evaluation.confused(counts, [*names, "one more"])


# Calibration

def ece_by_hand(logits, labels, bins):
    "Guo et al. 2017, equations 1 to 3, one image at a time."
    p = np.exp(logits.double().numpy())
    p /= p.sum(1, keepdims=True)
    members = [[] for _ in range(bins)]
    for probabilities, y in zip(p, labels.tolist()):
        c = probabilities.max()
        m = next(m for m in range(1, bins + 1) if (m - 1) / bins < c <= m / bins or m == bins)
        members[m - 1].append((c, float(probabilities.argmax() == y)))
    gaps = [len(b) * abs(np.mean([r for _, r in b]) - np.mean([c for c, _ in b]))
            for b in members if b]
    return 100 * sum(gaps) / len(labels), [len(b) for b in members if b]


@pytest.mark.parametrize("n, k, bins", [(1, 2, 15), (40, 3, 1), (300, 4, 15), (300, 50, 7)])
def test_calibration_by_hand(n, k, bins):
    for seed in range(3):
        logits, labels = drawn(n, k, seed)
        found = evaluation.calibration(logits, labels, bins)
        ece, counts = ece_by_hand(logits, labels, bins)
        assert found["ece"] == pytest.approx(ece, abs=1e-9)
        assert [b["count"] for b in found["bins"]] == counts
        for b in found["bins"]:
            assert 100 * b["low"] < b["confidence"] <= 100 * b["high"] + 1e-9
        right = sum(b["count"] * b["accuracy"] for b in found["bins"]) / n
        assert right == pytest.approx(evaluation.scores(logits, labels)["top1"])


def test_calibration_known_cases():
    sure = torch.tensor([[50.0, 0], [0, 50.0], [50.0, 0], [50.0, 0]])
    assert evaluation.calibration(sure, torch.tensor([0, 1, 0, 1]))["ece"] == pytest.approx(25)
    halves = torch.zeros(4, 2)  # a confidence of 1/2 lies in (0, 1/2] of two bins
    found = evaluation.calibration(halves, torch.tensor([0, 1, 0, 1]), 2)
    assert found["ece"] == 0 and found["bins"][0]["high"] == 0.5
    json.dumps(found)


@pytest.mark.parametrize("true", [0.4, 1.0, 2.5])
def test_temperature_is_recovered(true):
    g = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 6, generator=g)
    labels = (logits / true).softmax(1).multinomial(1, generator=g).squeeze(1)
    t = evaluation.temperature(logits, labels)
    assert t == pytest.approx(true, rel=0.05)
    losses = [F.cross_entropy(logits / u, labels).item() for u in (t, 0.97 * t, 1.03 * t)]
    assert losses[0] < min(losses[1:])
    assert evaluation.calibration(logits / t, labels)["ece"] < 1.5


def test_temperature_of_perfect_answers_is_bounded():
    logits, labels = 9 * torch.eye(3), torch.arange(3)
    t = evaluation.temperature(logits, labels)
    assert 0.01 <= t < 1 and F.cross_entropy(logits / t, labels) < 1e-6
    assert evaluation.temperature(logits, labels.flip(0).roll(1)) == pytest.approx(100, rel=1e-3)


def test_report_is_plain_data():
    logits, labels = drawn(200, 4, 0)
    labels[labels == 2] = 1  # no image of the third class
    found = evaluation.report(logits, labels, ("a", "b", "c", "d"))
    assert found == json.loads(json.dumps(found, allow_nan=False))
    assert list(found["top1_by_class"]) == ["a", "b", "d"]
    of_a = labels == 0
    right = 100 * (logits[of_a].argmax(1) == 0).double().mean().item()
    assert found["top1_by_class"]["a"] == pytest.approx(right)
    t = evaluation.temperature(logits[::2], labels[::2])
    after = evaluation.calibration(logits[1::2] / t, labels[1::2])["ece"]
    assert found["temperature"] == t and found["ece_other_half"][1] == pytest.approx(after)


@pytest.mark.parametrize("dtype, autocast", [(torch.bfloat16, False), (torch.float16, False),
                                             (torch.bfloat16, True)])
def test_networks_in_half_precision(dtype, autocast):
    part = split(12)
    exact = evaluation.predict(network(), part, PRE)
    found = evaluation.predict(network().to(dtype), part, PRE, autocast=autocast)
    assert found.dtype == torch.float32
    assert (found - exact).abs().max() < 0.1 * exact.abs().max()


def test_a_report_of_one_image():
    with pytest.raises(ValueError, match="two images"):
        evaluation.report(torch.randn(1, 3), torch.tensor([1]), ("a", "b", "c"))


@pytest.mark.parametrize("size, asked, sizes", [(64, None, 512), (224, None, 167), (1024, None, 8),
                                                (224, 100, 100)])
def test_large_images_are_measured_fewer_at_a_time(size, asked, sizes, monkeypatch):
    taken = []
    def batches(split, batch_size, device):
        taken.append(batch_size)
        return iter(())
    monkeypatch.setattr(evaluation.data, "batches", batches)
    evaluation.evaluate(nn.Linear(1, 1), split(1), Preprocessing(size=size), asked)
    assert taken == [sizes]
