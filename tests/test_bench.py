"""The benchmark's choices."""
import json
from contextlib import ExitStack
from types import SimpleNamespace

import pytest
import torch
from torch.autograd import DeviceType

from convnext_nb import bench, clock, convnext, cost, models, peers, train

SMALL = dict(depths=(1, 1, 2, 1), dims=(16, 32, 64, 128))


def test_who_trains_on_which_machine():
    def said(*args): return [bench.contestant_name(one) for one in bench.contestants(*args)]
    gpu = said("cuda", True, True)
    assert gpu[0] == "timm, bf16, channels last, plain loop"  # eager AMP, the first baseline
    assert gpu[1] == "timm, bf16, channels last, plain loop, compiled"
    assert gpu[-1] == "ours, bf16, channels last, engine, compiled"
    assert not any("bf16" in words for words in said("cuda", False, False))
    cpu = said("cpu", True, False)
    assert "timm, bf16, channels last, memory kept" in cpu  # what our allocator settings bring
    assert not any("compiled" in words for words in cpu)
    assert cpu[-2:] == [f"ours, bf16, channels last, {how}" for how in ("plain loop", "engine")]


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


def test_the_whole_preset_is_bounded_and_nothing_compiled_unasked(monkeypatch):
    "What bounds a pass is measured with the preset's own augmentation, not with the race's."
    seen, raced = [], []
    monkeypatch.setattr(bench, "best_device", lambda: "cuda")
    monkeypatch.setattr(bench, "use_bf16", lambda *args: True)
    monkeypatch.setattr(bench, "bounds", lambda *args: seen.append(args) or [])
    monkeypatch.setattr(bench, "race", lambda recipe, who, *args: raced.append((recipe, who)) or [])
    bench.bench_train(repeats=1)
    recipe, *_, compile = seen[0]
    assert recipe.mixup > 0 and not compile
    plain, who = raced[0]
    assert not plain.mixup and not plain.compile and not any(one.compiled for one in who)


def test_a_contestant_that_ends_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(bench.Runner, "CODE", "raise SystemExit('no memory left')")
    one = bench.contestants("cpu", False, False)[0]
    runner = bench.Runner(one, bench.plain_recipe(bench.timed_preset("cpu")), 1, tmp_path)
    with pytest.raises(ValueError, match="timm, fp32, channels last.* has ended: no memory left"):
        runner()
    runner.close()
    runner = bench.Runner(one, bench.plain_recipe(bench.timed_preset("cpu")), 1, tmp_path)
    runner.process.wait()  # it ends before it is asked
    with pytest.raises(ValueError, match="has ended: no memory left"), ExitStack() as stack:
        stack.callback(runner.close)
        runner()


def test_passes_and_steps_of_one_network_keep_their_modes():
    torch.manual_seed(0)
    net = convnext.ConvNeXt((1, 1), (8, 16), 4, drop_path=0.5)  # fewer classes than ten
    x, seen = torch.randn(2, 3, 32, 32), []
    net.register_forward_pre_hook(lambda module, inputs: seen.append(module.training))
    forward, step = clock.pass_of(net, x), clock.step_of(net, x, False)
    for run in (forward, step, forward, step): run()
    assert seen == [False, True] * 2


def test_a_product_that_cannot_be_cut():
    with pytest.raises(ValueError, match="multiple of 128"): clock.product_speed(n=1000)


@pytest.mark.parametrize("kind", ["mps", "cuda", "cpu"])
def test_the_clock_waits_for_the_gpu_that_works(kind, monkeypatch):
    asked = []
    monkeypatch.setattr(clock.torch.cuda, "is_initialized", lambda: kind == "cuda")
    monkeypatch.setattr(clock.torch.backends.mps, "is_available", lambda: kind == "mps")
    monkeypatch.setattr(clock.torch.cuda, "synchronize", lambda *args: asked.append("cuda"))
    monkeypatch.setattr(clock.torch.mps, "synchronize", lambda: asked.append("mps"))
    clock.in_turn({"one": lambda: asked.append("run")}, repeats=1)
    assert asked == (["run"] if kind == "cpu" else ["run", kind]) * 2
    asked.clear()
    monkeypatch.setattr(bench, "one_pass", lambda *args: lambda: asked.append("run"))
    monkeypatch.setattr(bench.sys, "stdin", ["go"])
    monkeypatch.setattr(bench.clock, "peak_memory", lambda: 0.0)
    bench.serve(list(bench.Contestant("ours", "channels last", False)),
                bench.train.Recipe().to_dict(), 1, ".")
    assert asked == (["run"] if kind == "cpu" else ["run", kind])


def test_a_gpu_gets_batches_that_fill_it(monkeypatch):
    assert bench.usual_batch() == (128 if torch.cuda.is_available() else 8)
    monkeypatch.setattr(bench, "best_device", lambda: "cuda")
    assert bench.usual_batch() == 128


def test_the_machine_is_the_one_that_was_timed(monkeypatch):
    asked = []
    monkeypatch.setattr(bench, "best_device", lambda: "cuda")
    monkeypatch.setattr(bench.runs, "machine",
                        lambda device: asked.append(device) or dict(device_type="cuda"))
    assert bench.bench_device() == dict(device_type="cuda") and asked == ["cuda"]


def test_results_are_saved_under_the_processors_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "run_benchmark", lambda *args: [dict(what="x", seconds=1.0)])
    bench.cnx_bench(what="import", save=str(tmp_path))
    path, = tmp_path.iterdir()
    assert path.name == bench.file_of(bench.bench_device())
    bench.cnx_bench(what="models", save=str(tmp_path))
    assert json.loads(path.read_text())["import"] == [dict(what="x", seconds=1.0)]
    assert set(json.loads(path.read_text())) == {"machine", "import", "models"}


def test_a_late_fault_loses_no_results(tmp_path, monkeypatch, capsys):
    def run(what, *args):
        if what == "models": raise ValueError("the networks differ")
        return [dict(what=what, seconds=1.0)]
    monkeypatch.setattr(bench, "run_benchmark", run)
    monkeypatch.setattr(bench, "obstacle", lambda what: "")
    path = tmp_path / bench.file_of(bench.bench_device())
    path.write_text('{"profile": [], "data": []}')
    with pytest.raises(SystemExit): bench.cnx_bench(what="all", save=str(tmp_path))
    assert "the networks differ" in capsys.readouterr().err
    before = bench.BENCHMARKS[:bench.BENCHMARKS.index("models")]
    left = json.loads(path.read_text())
    assert left["profile"] == [] and set(left) == {"machine", "profile", *before}
    assert left["data"] == [dict(what="data", seconds=1.0)]


def test_no_round_is_refused_before_minutes_are_spent(monkeypatch, capsys):
    monkeypatch.setattr(bench, "run_benchmark", lambda *args: pytest.fail("measured"))
    with pytest.raises(SystemExit): bench.cnx_bench(what="import", repeats=0)
    assert "--repeats 0: at least 1" in capsys.readouterr().err


def test_damaged_results_are_found_before_minutes_are_spent(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "run_benchmark", lambda *args: pytest.fail("measured"))
    path = tmp_path / bench.file_of(bench.bench_device())
    path.write_text('{"machine": {')
    with pytest.raises(SystemExit): bench.cnx_bench(what="import", save=str(tmp_path))
    assert f"{path} is damaged" in capsys.readouterr().err
    assert path.read_text() == '{"machine": {'


def test_a_missing_folder_is_found_before_minutes_are_spent(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "run_benchmark", lambda *args: pytest.fail("measured"))
    with pytest.raises(SystemExit):
        bench.cnx_bench(what="import", save=str(tmp_path / "none"))
    assert "no such folder" in capsys.readouterr().err


def test_sizes_may_be_given_to_a_named_network():
    net = models.create("convnext_tiny", 10, depths=(1, 1, 1, 1), dims=(8, 8, 8, 8))
    assert len(net.stages[2]) == 1


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


def event(key, device, cpu, gpu):
    return SimpleNamespace(key=key, input_shapes=[], device_type=device, self_cpu_time_total=cpu,
                           self_device_time_total=gpu)


def test_a_kernels_time_counts_once():
    "The profiler lists a kernel under its operation, and again under its own name."
    seen = [event("aten::gelu", DeviceType.CPU, 3, 50),
            event("void gelu_kernel<float>", DeviceType.CUDA, 0, 50)]
    assert clock.seconds_by_kind(seen) == {"GELU": 50e-6}


def test_cpu_tensors_are_timed_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert clock.seconds_by_kind([event("aten::gelu", DeviceType.CPU, 3, 0)]) == {"GELU": 3e-6}


def test_the_compiler_is_checked_for_the_device_that_is_timed(monkeypatch):
    asked = []
    def check(device="not said"):
        asked.append(str(device))
        raise ValueError("no compiler")
    monkeypatch.setattr(bench, "best_device", lambda: "cuda")
    monkeypatch.setattr(bench, "check_compiler", check)
    with pytest.raises(SystemExit): bench.cnx_bench("import", compile=True)
    assert asked == ["cuda"]


def test_ratios_are_to_the_fastest_fair_rival(monkeypatch):
    who = bench.contestants("cpu", True, True)
    speed = dict(zip(who, (10, 20, 90, 80, 30, 40, 50), strict=True))
    monkeypatch.setattr(bench, "each_in_turn", lambda recipe, who, *args: [
        {"what": bench.contestant_name(one), "images/s": speed[one]} for one in who])
    found = [row["ratio"] for row in bench.race(None, who, 1, 1)]
    assert found == [0.5, 1, 4.5, 4, 1.5, 2, 2.5]
    monkeypatch.setattr(bench, "candidates", lambda *args, **how: {})
    monkeypatch.setattr(bench.clock, "in_turn", lambda *args: dict(
        ours=[1.0, 2.0, 9.0], timm=[4.0] * 3, torchvision=[3.0] * 3))
    row = bench._model_row(False, "training", "fp32", "channels last", 3, batch=12)
    assert (row["ours"], row["ratio"]) == (6, 1.5)


def test_older_rows_keep_the_machine_that_made_them(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "run_benchmark", lambda what, *args: [dict(what=what, seconds=1.0)])
    machine = bench.bench_device()
    path = tmp_path / bench.file_of(machine)
    older = machine | dict(torch="2.0")
    path.write_text(json.dumps({"machine": older, "train": [], "import": []}))
    bench.cnx_bench(what="import", save=str(tmp_path))
    bench.cnx_bench(what="models", save=str(tmp_path))
    found = json.loads(path.read_text())
    assert found["machine"] == machine and found["machines"] == {"train": older}
    bench.cnx_bench(what="train", save=str(tmp_path))
    assert "machines" not in json.loads(path.read_text())


def test_a_benchmark_that_cannot_run_leaves_older_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(bench, "run_benchmark", lambda what, *args: [dict(what=what, seconds=1.0)])
    monkeypatch.setattr(bench.archive, "find_tiny_imagenet", lambda: None)
    path = tmp_path / bench.file_of(bench.bench_device())
    path.write_text('{"pack": [{"what": "good"}]}')
    with pytest.raises(SystemExit): bench.cnx_bench(what="pack", save=str(tmp_path))
    assert "pack: there is no Tiny-ImageNet here" in capsys.readouterr().err
    bench.cnx_bench(what="all", save=str(tmp_path))
    assert "pack is left out: there is no Tiny-ImageNet here" in capsys.readouterr().err
    found = json.loads(path.read_text())
    assert found["pack"] == [dict(what="good")] and set(bench.BENCHMARKS) <= set(found)
