"""Weight files: full disks, hostile and damaged files, and the hub."""
import os
import pickle
import resource
import warnings

import pytest
import timm
import torch
from oracles import drawn, on_meta, same
from safetensors.torch import save_file

from convnext_nb import convnext, weights


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
    with pytest.raises(ValueError, match="no readable weight file"):
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
    with pytest.raises(ValueError, match="the hub has no weights me/mine: 404 Client Error"):
        weights.load(on_meta(convnext.convnext_atto), "me/mine")
