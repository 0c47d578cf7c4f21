"""Weight files: full disks, hostile and damaged files, and the hub."""
import errno
import json
import logging
import os
import pickle
import resource
import warnings
from functools import partial

import pytest
import timm
import torch
from oracles import drawn, on_meta, same
from safetensors.torch import save_file

from convnext_nb import convnext, resnet, swin, weights


@pytest.fixture(scope="module")
def atto():
    return drawn(convnext.convnext_atto)


def test_a_full_disk_keeps_the_old_file(tmp_path):
    path = weights.save(convnext.ConvNeXt((1, 1, 1, 1), (8, 8, 8, 8), 3), tmp_path / "net")
    before, limit = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before), limit[1]))
    try:
        with pytest.raises(OSError, match=f"cannot write {path}: .*; free some space"):
            weights.save(convnext.ConvNeXt((1, 1, 1, 1), (16, 16, 16, 16), 3), path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == [path.name]


# Files

class Trap:
    "Unpickled, it makes a folder."
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


@pytest.mark.parametrize("way", ["zip", "legacy", "pickle 2", "pickle 4", "named safetensors"])
def test_hostile_files_are_refused_and_run_nothing(way, atto, tmp_path):
    target, path = tmp_path / "trapped", tmp_path / "w.pth"
    hostile = {**atto.state_dict(), "zzz": Trap(target)}
    if way in ("zip", "legacy"):
        torch.save(hostile, path, _use_new_zipfile_serialization=way == "zip")
    elif way == "named safetensors":
        path = tmp_path / "w.safetensors"
        torch.save(hostile, path)
    else:
        path.write_bytes(pickle.dumps({"a": Trap(target)}, protocol=int(way[-1])))
    model = drawn(convnext.convnext_atto, seed=1)
    with warnings.catch_warnings(), pytest.raises(ValueError, match="no readable weight") as seen:
        warnings.simplefilter("ignore")  # PyTorch's, on the pickle protocol
        weights.load(model, path)
    assert "weights_only" not in str(seen.value)  # no advice to open it nevertheless
    assert not target.exists()
    if way in ("zip", "legacy", "pickle 2"):
        assert "mkdir; nothing of it was run" in str(seen.value)
    if way == "pickle 4":  # the trap does work where a file is trusted
        pickle.loads(path.read_bytes())
        assert target.is_dir()


def small_files(folder):
    net = convnext.ConvNeXt((1, 1, 1, 1), (8, 8, 8, 8), num_classes=3)
    weights.randomize(net)
    weights.save(net, folder / "w.safetensors")
    torch.save({"model": net.state_dict()}, folder / "w.pth")
    return net


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_truncated_files(kind, tmp_path):
    net = small_files(tmp_path)
    path = tmp_path / f"w.{kind}"
    whole = path.read_bytes()
    for length in (0, 1, 7, 8, 100, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ValueError, match="no readable weight file"):
            weights.load(net, path)


@pytest.mark.parametrize("kind", ["safetensors", "pth"])
def test_corrupted_files(kind, tmp_path):
    "A flipped byte is an error, or changes no tensor; safetensors' numbers have no checksum."
    net = small_files(tmp_path)
    path = tmp_path / f"w.{kind}"
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8 if kind == "safetensors" else len(whole)
    refused = 0
    for place in range(0, header, header // 150):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1:])
        back = convnext.ConvNeXt((1, 1, 1, 1), (8, 8, 8, 8), num_classes=3)
        try:
            weights.load(back, path)
        except ValueError:
            refused += 1
        else:
            assert same(back, net), place
    assert refused > 75


def test_files_that_hold_no_weights(tmp_path):
    for name, content in {"a.pth": b"not a checkpoint", "b.safetensors": b"neither" * 9,
                          "c.bin": b"", "d.pt": b"PK\x03\x04"}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} is no readable weight file"):
            weights.load(on_meta(convnext.convnext_atto), tmp_path / name)
    with pytest.raises(ValueError, match="holds no model.safetensors .* 4 .a.pth, b.safetens"):
        weights.load(on_meta(convnext.convnext_atto), tmp_path)
    with pytest.raises(FileNotFoundError):
        weights.load(on_meta(convnext.convnext_atto), tmp_path / "missing.pth")


# The hub

@pytest.fixture
def hub(tmp_path, monkeypatch):
    "A machine without a network and with an empty hub cache."
    import huggingface_hub
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("name", ["timm/convnext_atto.d2_in1k", "hf-hub:timm/convnext_atto.d2_in1k",
                                  "hf_hub:me/mine", "out/never_trained"])
def test_a_hub_out_of_reach(name, hub):
    with pytest.raises(ConnectionError, match="hub cannot be reached; connect, or give a file"):
        weights.load(on_meta(convnext.convnext_atto), name)


def test_a_hub_that_does_not_answer(hub, monkeypatch, caplog):
    "What huggingface_hub logs between its attempts is not shown: our line says all."
    import huggingface_hub
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    for name in ("HTTPS_PROXY", "https_proxy"): monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("NO_PROXY", "no_proxy"): monkeypatch.delenv(name, raising=False)
    waits = []
    monkeypatch.setattr("time.sleep", waits.append)
    huggingface_hub.close_session()  # the next one takes the proxy
    logger = logging.getLogger("huggingface_hub")
    logger.addHandler(caplog.handler)
    try:
        with pytest.raises(ConnectionError, match="hub cannot be reached; connect, or give a file"):
            weights.load(on_meta(convnext.convnext_atto), "timm/convnext_atto.d2_in1k")
        assert waits and not caplog.records
        logger.warning("later")
        assert {record.message for record in caplog.records} == {"later"}
    finally:
        logger.removeHandler(caplog.handler)
        huggingface_hub.close_session()


def test_a_hub_in_the_cache(hub, atto):
    repo = hub / "models--timm--convnext_atto.d2_in1k"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text(snapshot.name)
    state = {k: t.contiguous() for k, t in weights.convert(atto, "timm").items()}
    save_file(state, snapshot / "model.safetensors")
    back = drawn(convnext.convnext_atto, seed=1)
    assert weights.load(back, "timm/convnext_atto.d2_in1k") == "timm" and same(back, atto)


def test_a_name_the_hub_does_not_know(monkeypatch):
    class NotFound(OSError):
        response = "404"

    def answer(*args, **kwargs):
        raise NotFound("404 Client Error: Repository Not Found\nmore")
    monkeypatch.setattr(timm.models, "load_state_dict_from_hf", answer)
    with pytest.raises(ValueError, match="the hub gives no weights me/mine: 404 Client Error"):
        weights.load(on_meta(convnext.convnext_atto), "me/mine")


def test_an_error_of_the_hub_without_words(monkeypatch):
    def answer(*args, **kwargs): raise RuntimeError
    monkeypatch.setattr(timm.models, "load_state_dict_from_hf", answer)
    with pytest.raises(ValueError, match="the hub gives no weights me/mine: RuntimeError"):
        weights.from_hub("me/mine")


def test_a_cache_that_may_not_be_written_to(monkeypatch):
    def answer(*args, **kwargs): raise PermissionError(errno.EACCES, "Permission denied")
    monkeypatch.setattr(timm.models, "load_state_dict_from_hf", answer)
    with pytest.raises(PermissionError, match="cannot take me/mine .Permission denied.* HF_HOME"):
        weights.from_hub("me/mine")


# Names of files, folders, wrappers

def tiny(seed=0, **kwargs):
    settings = {"num_classes": 3} | kwargs
    return drawn(lambda: convnext.ConvNeXt((1, 1, 1, 1), (8, 8, 8, 8), **settings), seed)


def small_swin(seed=0):
    net = swin.Swin((2, 2, 2, 2), 12, (1, 2, 3, 4), num_classes=3)
    return weights.randomize(net, seed)


def test_a_dot_in_a_name_is_no_suffix(tmp_path):
    names = ["lr0.1", "lr0.2", "net.safetensors", "net.v2.pth", "a.b.c"]
    paths = [weights.save(tiny(seed), tmp_path / name) for seed, name in enumerate(names)]
    assert [p.name for p in paths] == ["lr0.1.safetensors", "lr0.2.safetensors", "net.safetensors",
                                       "net.v2.safetensors", "a.b.c.safetensors"]
    assert sorted(tmp_path.iterdir()) == sorted(paths)
    for seed, path in enumerate(paths):
        back = tiny(seed=9)
        weights.load(back, path)
        assert same(back, tiny(seed))


def partly_compiled(net):
    net.stages[1] = torch.compile(net.stages[1])
    return net


WRAPPERS = {
    "compiled": torch.compile, "DataParallel": torch.nn.DataParallel,
    "averaged": torch.optim.swa_utils.AveragedModel, "timm's EMA": timm.utils.ModelEmaV3,
    "two": lambda net: torch.nn.DataParallel(torch.compile(net)), "a part": partly_compiled}


@pytest.mark.parametrize("wrap", WRAPPERS.values(), ids=list(WRAPPERS))
@pytest.mark.parametrize("library", ["authors", "timm"])
def test_wrapped_networks(wrap, library, tmp_path):
    wrapped = wrap(tiny())
    assert weights.formats(wrapped) == weights.formats(tiny())
    back = tiny(seed=1)
    assert weights.load(back, weights.save(wrapped, tmp_path / "w", library)) == library
    assert same(back, tiny())
    assert weights.load(wrapped, weights.convert(tiny(seed=2), library)) == library
    weights.load(back, weights.convert(wrapped, library))
    assert same(back, tiny(seed=2))
    weights.load(tiny(), wrapped.state_dict())  # names of the wrapper in the weights
    with pytest.raises(ValueError, match="do not fit ConvNeXt"):
        weights.load(wrapped, {"stages.0.0.gamma": torch.zeros(8)})


def test_a_save_pretrained_folder(tmp_path):
    weights.save(tiny(), tmp_path / "model", "timm")
    (tmp_path / "config.json").write_text("{}")
    for folder in (tmp_path, str(tmp_path)):
        back = tiny(seed=1)
        assert weights.load(back, folder) == "timm" and same(back, tiny())
    (tmp_path / "model.safetensors").rename(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="no model.safetensors .* 2 .config.json, other.safe"):
        weights.load(tiny(), tmp_path)
    torch.save(tiny().state_dict(), tmp_path / "pytorch_model.bin")
    assert weights.load(tiny(seed=1), tmp_path) == "authors"


@pytest.mark.parametrize("make", [tiny, partial(drawn, resnet.resnet18), small_swin])
def test_a_network_on_meta_gets_the_numbers(make, tmp_path):
    ours = make()
    for library in weights.formats(ours):
        back = make().to("meta")
        for p in back.parameters():
            p.requires_grad = False
        path = weights.save(ours, tmp_path / "w", library)
        weights.load(back, path)
        assert same(back, ours)
        assert not any(p.requires_grad for p in back.parameters())
    half = {key: t.bfloat16() if t.is_floating_point() else t
            for key, t in ours.state_dict().items()}
    back = make().to("meta")
    weights.load(back, half)
    first = next(back.parameters())
    assert first.dtype == torch.float32
    source = ours.state_dict()
    back = make().to("meta")
    weights.load(back, source)  # not the caller's tensors
    assert next(back.parameters()).data_ptr() != next(ours.parameters()).data_ptr()


def test_on_meta_nothing_can_be_left_fresh():
    back = tiny(num_classes=5).to("meta")
    with pytest.raises(ValueError, match=r"2 \(head.weight, head.bias\) .* on the meta device"):
        weights.load(back, tiny().state_dict())
    assert back.norm.weight.is_meta
    with pytest.raises(ValueError, match="the weights are on the meta device"):
        weights.load(tiny(), tiny().to("meta").state_dict())


def renamed(prefix, state):
    return {prefix + key: tensor for key, tensor in state.items()}


FROM_SCRIPTS = {
    "lightning": lambda net: {"state_dict": renamed("model.", net.state_dict()), "epoch": 3},
    "compiled in lightning": lambda net: renamed("net._orig_mod.", net.state_dict()),
    "a part compiled": lambda net: {k.replace("stages.1.", "stages.1._orig_mod."): t
                                    for k, t in net.state_dict().items()},
    "averaged": lambda net: torch.optim.swa_utils.AveragedModel(net).state_dict(),
    "net": lambda net: {"net": net.state_dict(), "acc": 91.0, "epoch": 3},
    "any name": lambda net: {"weights_of_it": net.state_dict(), "epoch": 3},
    "prefix, other format": lambda net: renamed("module.trunk.", weights.convert(net, "timm")),
    "hugging face inside": lambda net: renamed("model.", weights.convert(net, "huggingface"))}


@pytest.mark.parametrize("wrap", FROM_SCRIPTS.values(), ids=list(FROM_SCRIPTS))
def test_what_scripts_write(wrap, tmp_path):
    torch.save(wrap(tiny()), tmp_path / "w.pth")
    for source in (wrap(tiny()), tmp_path / "w.pth"):
        back = tiny(seed=1)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            weights.load(back, source)
        assert same(back, tiny())


def test_a_module_in_place_of_its_state(tmp_path):
    for source in (tiny(), {"model": tiny(), "epoch": 1}, torch.nn.DataParallel(tiny())):
        back = tiny(seed=1)
        weights.load(back, source)
        assert same(back, tiny())
    torch.save(tiny(), tmp_path / "whole.pth")
    with pytest.raises(ValueError, match=r"asks for convnext_nb.*torch\.save\(model\.state_dict\("):
        weights.load(tiny(), tmp_path / "whole.pth")


def test_parts_beside_the_network_are_named():
    state = renamed("model.", tiny().state_dict()) | {"loss.weight": torch.ones(3)}
    back = tiny(seed=1)
    with pytest.warns(UserWarning, match=r"not used: 1 \(loss.weight\)"):
        weights.load(back, state)
    assert same(back, tiny())


def test_several_networks_in_one_file(tmp_path):
    both = renamed("student.", tiny().state_dict()) | renamed("teacher.", tiny(1).state_dict())
    with pytest.raises(ValueError, match=r"2 networks .*student\., teacher\..*removeprefix"):
        weights.load(tiny(), both)
    with pytest.raises(ValueError, match=r"2 networks .*"):
        weights.load(tiny(), renamed("ema.", tiny().state_dict()) | tiny(1).state_dict())
    both = {"student": tiny().state_dict(), "teacher": tiny(1).state_dict(), "epoch": 3}
    torch.save(both, tmp_path / "w.pth")
    for source in (both, tmp_path / "w.pth"):
        with pytest.raises(ValueError, match=r"several state dicts.*student, teacher.*'student'\]"):
            weights.load(tiny(), source)
    with pytest.raises(ValueError, match=r"no state dict found.*epoch \(int\), lr \(float\)"):
        weights.load(tiny(), {"epoch": 3, "lr": 0.1})


def test_saving_a_channels_last_network(tmp_path):
    "safetensors' own function refuses it."
    net = tiny().to(memory_format=torch.channels_last)
    with pytest.raises(ValueError, match="contiguous"):
        save_file(net.state_dict(), tmp_path / "theirs.safetensors")
    back = tiny(seed=1)
    weights.load(back, weights.save(net, tmp_path / "ours"))
    assert same(back, tiny())


def test_a_network_in_several_files(tmp_path):
    state = list(tiny().state_dict().items())
    where = {}
    for i in range(3):
        name = f"model-0000{i + 1}-of-00003.safetensors"
        save_file(dict(state[i::3]), tmp_path / name)
        where |= dict.fromkeys(dict(state[i::3]), name)
    index = tmp_path / "model.safetensors.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": where}))
    for source in (tmp_path, str(index)):
        back = tiny(seed=1)
        assert weights.load(back, source) == "authors" and same(back, tiny())
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        weights.load(tiny(), tmp_path)
    for wrong in ('{"files": []}', '{"weight_map": {"a": 1}}', '{"weight_map": {"a": null}}'):
        index.write_text(wrong)
        with pytest.raises(ValueError, match="is no index of weight files"):
            weights.load(tiny(), tmp_path)


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o027, 0o640)])
def test_others_may_read_what_the_umask_lets_them(mask, mode, tmp_path):
    before = os.umask(mask)
    try: path = weights.save(tiny(), tmp_path / "net")
    finally: os.umask(before)
    assert path.stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("name", ["atto.pth", "convnext_tiny.fb_in1k", "run/best.ckpt"])
def test_a_file_that_is_not_there_shows_what_a_hubs_name_looks_like(name, atto):
    with pytest.raises(FileNotFoundError, match=f"no file {name}; .*timm/convnext_tiny.fb_in1k"):
        weights.load(atto, name)


def test_a_network_beside_another_is_named(tmp_path):
    net = tiny()
    other = {key: t + 1 for key, t in net.state_dict().items()}
    torch.save(dict(model=net.state_dict(), model_ema=other, epoch=3), tmp_path / "both.pth")
    with pytest.warns(weights.Adapted, match="took 'model'; also there and not used: model_ema"):
        found = weights.read(tmp_path / "both.pth")
    assert all(torch.equal(t, net.state_dict()[key]) for key, t in found.items())


def test_strange_dictionaries_are_refused_in_words(tmp_path):
    torch.save({0: torch.ones(2)}, tmp_path / "numbered.pth")
    with pytest.raises(ValueError, match="no state dict found"):
        weights.read(tmp_path / "numbered.pth")
    inside = {}
    inside["model"] = inside
    torch.save(inside, tmp_path / "itself.pth")
    with pytest.raises(ValueError, match="holds itself"): weights.read(tmp_path / "itself.pth")


def test_a_network_without_numbers_is_not_saved(tmp_path):
    with torch.device("meta"): net = convnext.convnext_atto()
    with pytest.raises(ValueError, match="on the meta device: load weights first"):
        weights.save(net, tmp_path / "net")
    assert not list(tmp_path.iterdir())
