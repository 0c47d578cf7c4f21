"""What a GPU would find fault with, found without one; and what is decided for it."""
import signal
import time
from dataclasses import replace

import pytest
import torch
from pretend import Waits, pretend_cuda
from torch import nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
)
from torch.nn import functional as F
from tqdm import tqdm
from training import FULL, RECIPE, Killed, assert_same, dataset, fit, interrupted

from convnext_nb import checkpoint, cost, device, evaluation, fast, models, runs, swin, train
from convnext_nb.data import Dataset

CUDA = torch.device("cuda")
RESNET = dict(model="roadmap/base", model_args=dict(width_mult=0.25, depths=(1, 1, 1, 1)))
SWIN = dict(model="swin_t", model_args=dict(window=4))
EVERYTHING = replace(FULL, precision="auto")  # augments, erases, mixes, grows, keeps an average


@pytest.fixture(autouse=True)
def small_swin(monkeypatch):
    "Swin-T with two blocks in each of two stages, the second of them shifted."
    create = models.create
    def small(model, classes, **args):
        if model == "swin_t": return swin.Swin((2, 2), 16, (1, 2), classes, **args)
        return create(model, classes, **args)
    monkeypatch.setattr(train, "create", small)


# one epoch and an evaluation, on a GPU whose tensors have no numbers

def epoch_on_cuda(recipe, data):
    "Three steps; the first may wait, as constants travel. The job, after it was evaluated."
    prepare_batch, calls = train.prepare_batch, []
    with pytest.MonkeyPatch.context() as m, pretend_cuda() as gpu:
        def watched(*args):
            calls.append(args)
            gpu.strict = len(calls) > 1
            return prepare_batch(*args)
        m.setattr(Dataset, "__post_init__", lambda self: None)  # it looks at all labels, once
        m.setattr(train, "prepare_batch", watched)
        m.setattr(train, "check_losses", lambda *_: 0.0)  # read every fifty steps
        m.setattr(evaluation, "_scores", lambda sums, n: dict(top1=0.0, top5=0.0, loss=0.0))
        job = train.prepare(recipe, data, "cuda")
        types = []
        job.model.register_forward_hook(lambda model, args, out: types.append(out.dtype))
        train.train_epoch(job, tqdm(disable=True), lambda: None)
        gpu.strict = False
        train.accuracies(job, 32)
    assert len(calls) == 3 and set(types) == {torch.bfloat16}
    return job


@pytest.mark.parametrize("change", [
    {}, dict(micro_batch=3, optimizer="muon"), RESNET, SWIN,
    dict(augment="resized_crop flip randaugment", mixup=0.0, cutmix=0.0),
    dict(augment="resized_crop flip autoaugment", mix_per_sample=False, clip_grad=None)],
    ids=["convnext", "parts, muon", "resnet", "swin", "crops", "autoaugment"])
def test_an_epoch_on_a_gpu(change):
    "No operation gets tensors of both devices, and no step waits."
    job = epoch_on_cuda(replace(EVERYTHING, **change), dataset())
    assert job.bf16 and job.dataset.train.labels.is_cuda
    parts = [job.model, job.ema.module]
    assert all(p.is_cuda for part in parts for p in part.parameters())


def planted(monkeypatch, fault):
    loss_of = train.loss_of
    def faulty(job, x, y):
        fault(x)
        return loss_of(job, x, y)
    monkeypatch.setattr(train, "loss_of", faulty)


@pytest.mark.parametrize("fault, error", [
    (lambda x: x.sum().item(), DataDependentOutputException),
    (lambda x: float(x.mean()), DataDependentOutputException),
    (lambda x: x[x > 0], DynamicOutputShapeException), (lambda x: x.cpu(), Waits),
    (lambda x: torch.zeros(len(x)).to(x.device), Waits),
    (lambda x: x + torch.zeros(x.shape), RuntimeError)],
    ids=["item", "float", "mask", "from the GPU", "to the GPU", "both devices"])
def test_a_planted_fault_is_noticed(fault, error, monkeypatch):
    planted(monkeypatch, fault)
    with pytest.raises(error):
        epoch_on_cuda(replace(EVERYTHING, ema=None), dataset())


def test_a_mask_on_the_cpu_is_noticed(monkeypatch):
    visible = swin.visible
    monkeypatch.setattr(swin, "visible", lambda H, W, window, shift, device: visible(
        H, W, window, shift))
    with pytest.raises(RuntimeError):
        epoch_on_cuda(replace(EVERYTHING, **SWIN), dataset())


@pytest.mark.parametrize("name, args", [
    ("convnext", RECIPE.model_args), ("convnextv2_atto", {}), ("convnext_isotropic_small", {}),
    ("resnet18", {}), ("roadmap/ln", dict(width_mult=0.25)), ("swin_t", dict(window=4))])
def test_forward_and_backward_stay_on_one_device(name, args):
    "On `meta`, where a tensor that is made on the CPU is the only one with numbers."
    with torch.device("meta"):
        net = train.create(name, 4, **args)
    net = fast.speed_up(net).train()
    x = torch.empty(2, 3, 64, 64, device="meta").contiguous(memory_format=torch.channels_last)
    F.cross_entropy(net(x), torch.empty(2, dtype=torch.long, device="meta")).backward()
    assert all(p.grad.is_meta for p in net.parameters())


# cost

@pytest.mark.parametrize("look", [cost.count, cost.table, cost.shapes, cost.by_part, cost.by_kind])
def test_counting_moves_nothing(look, monkeypatch):
    "Not even where there is a GPU, which torchinfo would take a network to."
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    net = models.create("convnext", 4, **RECIPE.model_args)
    to, places = nn.Module.to, []
    def watched(self, where, *args, **kwargs):
        places.append(where)
        return to(self, where, *args, **kwargs)
    monkeypatch.setattr(nn.Module, "to", watched)
    before = [p.data_ptr() for p in net.parameters()]
    look(net, 32)
    assert {str(where) for where in places} <= {"cpu", "None"}
    assert before == [p.data_ptr() for p in net.parameters()]


# compilers

def test_compiling_for_a_gpu_needs_triton_a_c_compiler_and_headers(monkeypatch, tmp_path):
    monkeypatch.setattr(device, "find_spec", lambda name: name)
    monkeypatch.setattr(device.sysconfig, "get_path", lambda name: str(tmp_path))
    (tmp_path / "Python.h").touch()
    monkeypatch.delenv("CC", raising=False)
    monkeypatch.setattr(device.shutil, "which", lambda name: "it" if name == "clang" else None)
    device.check_compiler("cuda:0")
    with pytest.raises(ValueError, match=r"needs a C\+\+ compiler.* g\+\+.*apt install g\+\+"):
        device.check_compiler("cpu")
    monkeypatch.setenv("CC", "icx")
    with pytest.raises(ValueError, match="C compiler.*no icx here.*CC.*compile=False"):
        device.check_compiler(CUDA)
    monkeypatch.setenv("CC", "clang")
    (tmp_path / "Python.h").unlink()
    with pytest.raises(ValueError, match="no .*Python.h: install.*python3-dev.*compile=False"):
        device.check_compiler(CUDA)
    monkeypatch.setattr(device, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match="pip install triton"):
        device.check_compiler(CUDA)


def test_a_recipe_that_compiles_asks_for_its_device(tmp_path, monkeypatch):
    asked = []
    def check(where):
        asked.append(where)
        raise ValueError("stop")
    monkeypatch.setattr(train, "check_compiler", check)
    monkeypatch.setattr(train, "best_device", lambda: "cuda")
    for where in ("cpu", None):
        with pytest.raises(ValueError, match="stop"):
            train.fit(replace(RECIPE, compile=True), dataset(), tmp_path / "run", where)
    assert asked == ["cpu", "cuda"] and not (tmp_path / "run").exists()


# settings

def test_settings_of_a_gpu(recwarn):
    """fp32 without TF32 in products and convolutions, and no kernel of cuDNN for attention.

    torch.compile reads both settings of TF32; if they were made by different APIs, it fails."""
    before = (torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32,
              torch.backends.cuda.cudnn_sdp_enabled(), torch.backends.cudnn.benchmark)
    try:
        device.set_up(torch.device("cpu"))
        assert torch.backends.cudnn.allow_tf32 == before[1]
        torch.set_float32_matmul_precision("high")
        device.set_up(CUDA)
        assert not torch.backends.cuda.matmul.allow_tf32
        assert not torch.backends.cudnn.allow_tf32
        assert not torch.backends.cuda.cudnn_sdp_enabled() and torch.backends.cudnn.benchmark
        with torch.backends.cudnn.flags(): pass  # reads and restores all of them
        assert not list(recwarn)
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]
        torch.backends.cuda.enable_cudnn_sdp(before[2])
        torch.backends.cudnn.benchmark = before[3]


@pytest.mark.parametrize("gpus, env, said", [
    (1, dict(LOCAL_WORLD_SIZE="2"), "2 processes .* it has 1"),
    (1, dict(LOCAL_RANK="1"), "2 processes .* it has 1"),
    (0, dict(LOCAL_WORLD_SIZE="2"), "2 processes .* it has 0: .*train on the CPU"),
    (2, dict(LOCAL_WORLD_SIZE="8"), "8 processes .* it has 2")])
def test_more_processes_than_gpus(gpus, env, said, monkeypatch):
    for name, value in (dict(WORLD_SIZE="8") | env).items(): monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    with pytest.raises(ValueError, match=said) as e:
        train.prepare(RECIPE, dataset(), "cuda")
    assert "\n" not in str(e.value)


# the clock

def test_the_clock_waits_for_the_device_and_tells_the_first_steps_apart(tmp_path, monkeypatch):
    "A first step at a size takes 0.3 s more here, as if something were compiled."
    growing = replace(RECIPE, sizes=((0, 32), (0.5, 40)))
    train_step, seen, waits = train.train_step, set(), []
    def slow(job, x, y):
        if x.shape[-1] not in seen: time.sleep(0.3)
        seen.add(x.shape[-1])
        return train_step(job, x, y)
    monkeypatch.setattr(train, "train_step", slow)
    monkeypatch.setattr(train, "wait_for", lambda where: waits.append(where.type))
    run = fit(tmp_path, growing)[1]
    first = [row["first_seconds"] for row in run.metrics]
    assert [s > 0.3 for s in first] == [True, False, True, False] and first[1] == first[3] == 0
    assert waits == ["cpu"] * 6  # two first steps, four last ones
    for row in run.metrics:
        steps = 2 if row["first_seconds"] else 3
        assert row["images_per_s"] == pytest.approx(
            8 * steps / (row["seconds"] - row["first_seconds"]))
    e = run.evidence
    assert e["first_seconds"] == pytest.approx(sum(first)) and e["train_seconds"] > 0.6
    assert e["precision"] == "fp32" and e["images_per_s"] > 0


def test_an_epoch_of_one_step_has_a_speed(tmp_path):
    run = fit(tmp_path, replace(RECIPE, epochs=1), dataset(8))[1]
    assert run.metrics[0]["images_per_s"] == pytest.approx(8 / run.metrics[0]["seconds"])


def test_first_steps_before_an_interruption_are_counted(tmp_path, monkeypatch):
    patch = interrupted(train.optim, "lr_at", 2)
    with pytest.raises(Killed):
        train.fit(RECIPE, dataset(), tmp_path, "cpu", progress=False, save_minutes=0)
    patch.undo()
    saved = torch.load(tmp_path / "checkpoint.pt")
    assert saved["first_steps"] == 1 and saved["first_seconds"] > 0
    for name in ("first_steps", "first_seconds"): del saved[name]  # as of an older version
    torch.save(saved, tmp_path / "checkpoint.pt")
    assert fit(tmp_path)[1].metrics[0]["first_seconds"] > 0


# saving

def saves(folder, epoch_seconds, epoch_takes):
    "After which epochs a run of four saves, when each takes so many seconds."
    saved, now = [], [0.0]
    with pytest.MonkeyPatch.context() as m:
        m.setattr(checkpoint.time, "monotonic", lambda: now[0])
        save, train_epoch = checkpoint.save, train.train_epoch
        def watched(path, job):
            saved.append(job.epoch)
            save(path, job)
        def slow(job, bar, after_step):
            train_epoch(job, bar, lambda: None)
            now[0] += epoch_takes
        m.setattr(checkpoint, "save", watched)
        m.setattr(train, "train_epoch", slow)
        train.fit(RECIPE, dataset(), folder, "cpu", progress=False, epoch_seconds=epoch_seconds)
    return saved


def test_saves_at_the_ends_of_epochs_keep_a_distance(tmp_path):
    assert saves(tmp_path / "a", None, 1) == [1, 2, 3, 4]  # on a CPU
    assert saves(tmp_path / "b", 60, 61) == [1, 2, 3, 4]
    assert saves(tmp_path / "c", 60, 25) == [1, 4]  # the first and the last, whatever the time
    assert saves(tmp_path / "d", 60, 30) == [1, 3, 4]
    assert [device.choose_save_seconds(torch.device(d)) for d in ("cuda:1", "cpu")] == [60, 0]


@pytest.mark.parametrize("recipe", [RECIPE, FULL])
def test_epochs_that_were_not_saved_are_trained_again_to_the_same_bits(recipe, tmp_path):
    one = fit(tmp_path / "one", recipe)
    def go_on(): return train.fit(recipe, dataset(), tmp_path / "two", "cpu", progress=False,
                                  epoch_seconds=3600)
    patch = interrupted(train, *(("finish", 0) if recipe is FULL else ("train_epoch", 3)))
    with pytest.raises(Killed):
        go_on()
    patch.undo()
    done = torch.load(tmp_path / "two" / "checkpoint.pt")["epoch"]
    assert done == (1 if recipe is RECIPE else 2)
    assert len(runs.Run(tmp_path / "two").metrics) == recipe.epochs - (recipe is RECIPE)
    assert_same(one, go_on())


def test_ctrl_c_saves_whenever_the_last_save_was(tmp_path, monkeypatch):
    accuracies = train.accuracies
    def stopping(job, size):
        if job.epoch == 2: signal.raise_signal(signal.SIGINT)
        return accuracies(job, size)
    monkeypatch.setattr(train, "accuracies", stopping)
    with pytest.raises(train.Interrupted, match="after epoch 3"):
        train.fit(RECIPE, dataset(), tmp_path, "cpu", progress=False, epoch_seconds=3600)
    assert torch.load(tmp_path / "checkpoint.pt")["epoch"] == 3
