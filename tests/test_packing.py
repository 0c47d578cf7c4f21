"""Packing at fault: full disks, killed and competing processes, damaged and stale copies."""
import hashlib
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from concurrent.futures import Future
from functools import partial
from pathlib import Path

import pytest
from archives import (
    SMALL,
    assert_whole,
    leftovers,
    open_toy,
    picture,
    toy_files,
    write_folder,
    write_zip,
)
from children import PATIENCE, answer, in_child
from PIL import Image

from convnext_nb import data, packing
from convnext_nb.archive import Archive

pytestmark = pytest.mark.usefixtures("home")


# a disk at fault

def limited(path):
    "Open the toy where no file may exceed 40 kB, as if the disk were full."
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    return open_toy(path)


def test_a_full_disk_while_packing(tmp_path, home):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    error = answer(*in_child(limited, path))
    assert isinstance(error, OSError)
    assert f"no room in {home}" in str(error) and "set CONVNEXT_NB_DATA" in str(error)
    assert leftovers(home) == []
    assert_whole(open_toy(path))


def test_a_full_disk_before_packing(tmp_path, home, monkeypatch):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    with monkeypatch.context() as m:
        usage = shutil.disk_usage(tmp_path)
        m.setattr(shutil, "disk_usage", lambda _: usage._replace(free=98_000))  # of 98,304 needed
        with pytest.raises(OSError, match="no room in .*0 MB are needed. Free some, or set"):
            open_toy(path)
        assert leftovers(home) == []
    assert_whole(open_toy(path))


def test_a_folder_that_may_not_be_written_to(tmp_path, home, monkeypatch):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    def refuse(*args, **kwargs):  # root may write anywhere, so chmod would test nothing
        raise PermissionError(13, "Permission denied")
    for module, name in ((packing.tempfile, "mkdtemp"), (Path, "mkdir")):
        with monkeypatch.context() as m:
            m.setattr(module, name, refuse)
            with pytest.raises(PermissionError, match="cannot write to .*: set CONVNEXT_NB_DATA"):
                open_toy(path)
        assert leftovers(home) == []
    assert_whole(open_toy(path))


@pytest.mark.parametrize("below", ["", "/deeper"])
def test_a_file_where_the_folder_should_be(below, tmp_path, home, monkeypatch):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("CONVNEXT_NB_DATA", f"{tmp_path}/file{below}")
    with pytest.raises(OSError, match="cannot write to .*file.*: set CONVNEXT_NB_DATA"):
        open_toy(path)
    assert (tmp_path / "file").read_text() == "mine"
    monkeypatch.setenv("CONVNEXT_NB_DATA", str(home))
    assert_whole(open_toy(path))


# killed, and several at once

def slowly(image, preprocessing, gate):
    "Waits until there is a file `go` in the folder `gate`; another file tells who waits."
    (gate / f"waits-{os.getpid()}").touch()
    end = time.monotonic() + PATIENCE
    while not (gate / "go").exists() and time.monotonic() < end: time.sleep(0.01)
    return image.convert("RGB")


def open_slowly(path, gate):
    slow = partial(slowly, gate=gate)
    data.resize_and_crop, packing.usable_cores = slow, lambda: 2  # in this child process only
    return open_toy(path).train.images.sum().item()


def packing_process(path, gate):
    "A child that packs `path`, both workers of which wait; and the pipe of its answer."
    gate.mkdir()
    child = in_child(open_slowly, path, gate)
    wait_at(gate)
    return child


def wait_at(gate):
    "Until both workers are there."
    end = time.monotonic() + PATIENCE
    while len(list(gate.glob("waits-*"))) < 2:
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_killed_process_does_not_block_the_next(tmp_path, home):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    process, pipe = packing_process(path, tmp_path / "gate")
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    (tmp_path / "gate/go").touch()
    (left,) = home.glob(".packing-*")  # it had no chance to tidy up
    again = in_child(open_slowly, path, tmp_path / "gate")
    assert isinstance(answer(*again), int)  # the killed one's workers hold no lock
    assert leftovers(home) == [packing.packed_at(Archive(path), SMALL).name]
    assert_whole(open_toy(path))


def workers_of(process):
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(pid) for pid in children]


def test_ctrl_c_leaves_nothing(tmp_path, home):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    process, pipe = packing_process(path, tmp_path / "gate")
    for pid in (*workers_of(process), process.pid):  # a terminal tells all of them
        os.kill(pid, signal.SIGINT)
    time.sleep(0.2)  # it is heard before they go on
    (tmp_path / "gate/go").touch()
    assert isinstance(answer(process, pipe), KeyboardInterrupt)
    assert leftovers(home) == []
    assert_whole(open_toy(path))


def test_ctrl_c_is_for_the_parent_to_hear(tmp_path, home):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    process, pipe = packing_process(path, tmp_path / "gate")
    workers = workers_of(process)
    assert len(workers) == 2
    for pid in workers: os.kill(pid, signal.SIGINT)
    (tmp_path / "gate/go").touch()
    assert isinstance(answer(process, pipe), int)  # it was packed, as if nothing had happened
    assert_whole(open_toy(path))


def test_a_killed_worker_is_explained(tmp_path, home):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    process, pipe = packing_process(path, tmp_path / "gate")
    os.kill(workers_of(process)[0], signal.SIGKILL)
    (tmp_path / "gate/go").touch()
    error = answer(process, pipe)
    assert isinstance(error, ChildProcessError) and "a process that packs pictures" in str(error)
    assert leftovers(home) == []
    assert_whole(open_toy(path))


def test_a_disk_without_locks(tmp_path, home, monkeypatch):
    def refuse(*args): raise OSError(37, "No locks available")
    monkeypatch.setattr("convnext_nb.archive.fcntl.flock", refuse)
    theirs = home / ".packing-another"  # perhaps at work just now
    theirs.mkdir(parents=True)
    assert_whole(open_toy(write_zip(tmp_path / "toy.zip", toy_files())))
    assert theirs.is_dir()


def test_few_pictures_are_work_for_all_cores(tmp_path, home, monkeypatch):
    sizes = pieces_seen(monkeypatch)
    files = {f"{c}/{i:02}.png": picture(i, kind="PNG") for i in range(48) for c in "ab"}
    data.ImageFolder(write_folder(tmp_path / "own", files))
    assert max(sizes) == 6 and sum(sizes) == 96


def pieces_seen(monkeypatch):
    "A list that fills with the number of pictures of each piece that is handed to the workers."
    sizes = []
    class Pool(packing.ProcessPoolExecutor):
        def submit(self, f, *args):
            sizes.append(len(args[0]))
            return super().submit(f, *args)
    monkeypatch.setattr(packing, "ProcessPoolExecutor", Pool)
    return sizes


def test_a_piece_of_large_pictures_is_small(tmp_path, home, monkeypatch):
    files = Archive(write_folder(tmp_path / "in", {"a.png": picture(0, side=8, kind="PNG")}))
    sizes = pieces_seen(monkeypatch)
    packing.pack(tmp_path / "out", files, {"train": (["a.png"] * 64, [0] * 64)},
                 partial(Image.Image.resize, size=(2000, 2000)), 2000)
    assert max(sizes) * 2000 * 2000 * 3 <= 2**25 and sum(sizes) == 64


def test_workers_read_only_a_few_pieces_ahead(tmp_path, monkeypatch):
    monkeypatch.setattr(packing, "usable_cores", lambda: 2)
    class Pool:
        asked = 0
        def submit(self, f, piece):
            self.asked += 1
            done = Future()
            done.set_result(piece)
            return done
    pool = Pool()
    for i, piece in enumerate(packing._decoded(pool, range(20))):
        assert piece == i and pool.asked <= i + 4
    assert i == 19 and pool.asked == 20


def counted_walk(archive):
    with open("walks", "a") as file: file.write(f"{os.getpid()}\n")
    walk(archive)


walk = Archive._walk


def test_workers_do_not_walk_the_folder(tmp_path, home, monkeypatch):
    monkeypatch.setattr(Archive, "_walk", counted_walk)
    files = {f"{c}/{i:02}.png": picture(i, kind="PNG") for i in range(4) for c in "ab"}
    data.ImageFolder(write_folder(tmp_path / "own", files))
    assert Path("walks").read_text().split() == [str(os.getpid())]


@pytest.mark.parametrize("system, told", [("linux", False), ("darwin", True)])
def test_where_workers_need_a_main_guard_a_dead_one_is_told_of_it(system, told, monkeypatch):
    monkeypatch.setattr(packing.sys, "platform", system)
    with pytest.raises(ChildProcessError, match="a process that packs pictures died") as e:
        with packing._workers():
            raise packing.BrokenProcessPool
    assert ('if __name__ == "__main__":' in str(e.value)) == told


def test_two_processes_give_one_folder(tmp_path, home):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    gate = tmp_path / "gate"
    gate.mkdir()
    both = [in_child(open_slowly, path, gate) for _ in range(2)]
    wait_at(gate)
    (gate / "go").touch()
    first, second = [answer(*one) for one in both]
    assert first == second == open_toy(path).train.images.sum().item()
    assert leftovers(home) == [packing.packed_at(Archive(path), SMALL).name]


# packed data

@pytest.mark.parametrize("file", ["train.u8", "val.u8", "meta.json"])
@pytest.mark.parametrize("fault", ["cut", "gone"])
def test_a_damaged_packed_file_is_named(file, fault, tmp_path, home):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    open_toy(path)
    (folder,) = home.glob("toy-*")
    if fault == "cut":
        os.truncate(folder / file, (folder / file).stat().st_size - 1)
    else:
        (folder / file).unlink()
    if (file, fault) != ("meta.json", "gone"):  # that one is packed anew
        with pytest.raises(ValueError, match=f"{file} is .*delete .* to pack it anew") as e:
            open_toy(path)
        assert str(folder) in str(e.value)
        shutil.rmtree(folder)
    assert_whole(open_toy(path))


def test_a_changed_archive_is_packed_again(tmp_path, home):
    path = write_zip(tmp_path / "toy.zip", toy_files())
    (home / "toy-photos").mkdir(parents=True)  # of somebody else
    open_toy(path)
    before = leftovers(home)
    assert_whole(open_toy(path))
    assert leftovers(home) == before
    write_zip(path, toy_files() | {"words.txt": b"n01\tclubs, ticker\nn02\tstar"})  # as long
    assert open_toy(path).classes == ("n01 clubs", "n02 star")
    after = leftovers(home)
    assert len(before) == len(after) == 2 and before != after and "toy-photos" in after


@pytest.mark.parametrize("mine, file, target", [
    ("my-photos", "meta.json", "my-pack"), ("20260101", "meta.json", "20260102"),
    ("trip-20260101", "meta.json", "trip-20260102"),
    ("trip-20260101-20260101", "a.png", "trip-20260101-20260102")])
def test_packing_touches_no_other_folder(mine, file, target, tmp_path):
    files = Archive(write_folder(tmp_path / "in", {"a.png": picture(0, kind="PNG")}))
    write_folder(tmp_path / mine, {file: b"mine"})
    packing.pack(tmp_path / target, files, {"train": (["a.png"], [0])}, Image.Image.copy, 64)
    assert (tmp_path / mine).exists() and (tmp_path / target / "meta.json").exists()


def test_the_name_of_a_packed_copy_never_changes(tmp_path, home):
    files = {f"{c}/{i}.png": picture(i, kind="PNG") for i, c in enumerate("aab")}
    folder = write_folder(tmp_path / "own", files | {"notes.txt": b"x"})
    def digest(*what): return hashlib.sha256(repr(what).encode()).hexdigest()[:8]
    stats = [(n, (folder / n).stat()) for n in sorted([*files, "notes.txt"])]
    state = digest([(n, stat.st_size, stat.st_mtime_ns) for n, stat in stats])
    expected = home / f"own-{digest(str(folder), (64,))}-{state}"
    assert packing.packed_at(Archive(folder), 64) == expected
    (folder / "dangling.txt").symlink_to("nowhere")
    packing.packed_at(Archive(folder), 64)


def test_packed_once_however_paths_are_printed(tmp_path, monkeypatch):
    "fastcore.xtras, which commands and notebooks load, prints PosixPath('/x') as Path('/x')."
    archive = Archive(write_folder(tmp_path / "own", {"a/1.png": picture(1, kind="PNG")}))
    before = packing.packed_at(archive)
    monkeypatch.setattr(type(tmp_path), "__repr__", lambda path: f"Path({path.as_posix()!r})")
    assert packing.packed_at(archive) == before


def test_a_picture_moved_to_another_class_is_noticed(tmp_path):
    files = {f"{c}/{i}.png": picture(i, kind="PNG") for i, c in enumerate("aaabbb")}
    folder = write_folder(tmp_path / "own", files)
    before = packing.packed_at(Archive(folder))
    (folder / "a/2.png").rename(folder / "b/2.png")  # same name, size, time and place in the list
    assert packing.packed_at(Archive(folder)) != before


SCRIPT = """
import multiprocessing, sys
from convnext_nb import data
sys.platform = "darwin"  # where workers are not forked, but run the script again
multiprocessing.set_start_method("spawn", force=True)
data.ImageFolder(sys.argv[1])
"""


def test_a_script_without_a_main_guard_does_not_wait_for_itself(tmp_path, home):
    own = write_folder(tmp_path / "own", {f"{c}/{i}.png": picture(i, kind="PNG")
                                          for i in range(2) for c in "ab"})
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    done = subprocess.run([sys.executable, script, own], capture_output=True, text=True,
                          timeout=PATIENCE)
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith("ChildProcessError") and 'if __name__ == "__main__":' in last
    script.write_text(SCRIPT.replace("data.Image", 'if __name__ == "__main__": data.Image'))
    assert subprocess.run([sys.executable, script, own], timeout=PATIENCE).returncode == 0


def test_another_folder_is_not_packed_over(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(FileExistsError, match="mine is there and no packed folder"):
        packing.pack(tmp_path / "mine", None, {}, None, 8)


@pytest.mark.parametrize("text", ['{"size": 8}', '{"labels": {}}', "{"])
def test_meta_without_what_it_needs_is_damaged(text, tmp_path):
    (tmp_path / "meta.json").write_text(text)
    with pytest.raises(ValueError, match="is damaged; delete .* to pack it anew"):
        packing.unpack(tmp_path)
