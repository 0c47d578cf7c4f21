"""The benchmark's choices."""
import pytest
import torch

from convnext_nb import bench, clock, convnext, cost, peers, train

SMALL = dict(depths=(1, 1, 2, 1), dims=(16, 32, 64, 128))


def test_who_trains_on_which_machine():
    gpu = bench.contestants("cuda", True, True)
    assert gpu[0] == ("timm", "channels last", True, False)  # eager AMP, the first baseline
    assert gpu[1] == ("timm", "channels last", True, True)  # the same compiled
    assert gpu[-1] == ("ours", "channels last", True, True)
    old_gpu = bench.contestants("cuda", False, False)
    assert not any(bf16 for _, _, bf16, _ in old_gpu)
    cpu = bench.contestants("cpu", True, False)
    assert [c[:3] for c in cpu[:2]] == [("timm", layout, False) for layout in bench.LAYOUTS]
    assert [c[2] for c in cpu[2:]] == [False, True]


def test_recipes_that_are_timed():
    assert bench.timed_preset("cuda").compile and bench.timed_preset("cuda").mixup > 0
    for device in ("cuda", "mps", "cpu"):
        timed = bench.plain_recipe(bench.timed_preset(device))
        assert timed.augment == "crop flip" and not timed.mixup and timed.optimizer == "adamw"
        assert timed.model_args == bench.timed_preset(device).model_args


@pytest.mark.parametrize("stem_stride", [2, 4])
def test_timm_races_with_the_same_network(stem_stride):
    ours = convnext.ConvNeXt((1, 2, 1, 1), (8, 16, 24, 32), 10, stem_stride=stem_stride)
    theirs = peers.build_peer(ours, "timm")
    assert cost.count(theirs, 64) == cost.count(ours, 64)


def test_the_whole_preset_is_bounded(monkeypatch):
    "What bounds a pass is measured with the preset's own augmentation, not with the race's."
    seen = []
    monkeypatch.setattr(bench, "bounds", lambda recipe, *args: seen.append(recipe) or [])
    bench.bench_train(repeats=1, batches=2, batch_size=4, mixup=0.2,
                      model_args=dict(depths=(1, 1, 1, 1), dims=(8, 8, 8, 8)))
    assert seen[0].mixup == 0.2


def test_different_networks_are_not_compared(monkeypatch):
    def spoiled(**sizes):
        nets = made(**sizes)
        with torch.no_grad():
            nets["timm"].head.fc.bias += 1
        return nets
    made = bench.networks
    monkeypatch.setattr(bench, "networks", spoiled)
    with pytest.raises(ValueError, match="apart with the same weights"):
        bench.candidates("training", "fp32", "channels last", batch=1, size=32, **SMALL)


def test_without_a_compiler(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(ValueError, match="needs a C.. compiler"):
        train.check_compiler()


KINDS = [("aten::mkldnn_convolution", [[8, 96, 56, 56], [96, 1, 7, 7]], "depthwise"),
         ("aten::convolution_backward", [[], [], [384, 96, 1, 1]], "linear"),
         ("aten::cudnn_convolution", [[], [96, 3, 4, 4]], "stem, downsampling"),
         ("aten::addmm", [], "linear"), ("aten::gelu_backward", [], "GELU"),
         ("aten::empty", [], "rest")]


@pytest.mark.parametrize("operation, shapes, kind", KINDS)
def test_kinds_of_work(operation, shapes, kind):
    assert clock.kind_of(operation, shapes) == kind
