"""An archive that is not what it should be: each fault is named, and nothing is left behind."""
import hashlib
import random
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from archives import (
    assert_whole,
    leftovers,
    open_toy,
    picture,
    toy_files,
    without,
    write_folder,
    write_zip,
)
from children import PATIENCE, answer, in_child

from convnext_nb import archive, data

pytestmark = pytest.mark.usefixtures("home")

NOTES = "val/val_annotations.txt"
FAULTS = {  # what is in the zip, what the message must say
    "wrong zip": ({"holiday.txt": b"sun"}, "no wnids.txt"),
    "no class folder": (without("train/n02"), "train/n02/images is missing or empty"),
    "an image too few": (without("train/n01/images/n01_2"), "train/n01/images holds 2 images"),
    "a folder too much": (toy_files() | {"train/n03/images/n03_0.JPEG": picture(0)}, "n03"),
    "no words": (toy_files() | {"words.txt": b"n01\theart\n"}, "no line for n02"),
    "an id twice": (toy_files() | {"wnids.txt": b"n01\nn01\n"}, "wnids.txt lists 2 ids"),
    "ids in binary": (toy_files() | {"wnids.txt": b"\xff\xfe\nn01"}, "words.txt has no line"),
    "no annotations": (without(NOTES), f"{NOTES} is missing"),
    "unknown id": (toy_files() | {NOTES: b"val_0.JPEG\tn09\nval_1.JPEG\tn01\n"}, "id 'n09'"),
    "binary annotations": (toy_files() | {NOTES: b"\xff\xfe\x00"}, f"line 1 of {NOTES}"),
    "no such image": (toy_files() | {NOTES: b"val_7.JPEG\tn02\n"}, "no val/images/val_7.JPEG"),
    "annotated twice": (toy_files() | {NOTES: b"val_0.JPEG\tn02\nval_0.JPEG\tn01\n"}, "twice"),
    "not annotated": (toy_files() | {NOTES: b"val_0.JPEG\tn02\n"}, "val_1.JPEG has no line"),
    "unbalanced": (toy_files() | {NOTES: b"val_0.JPEG\tn02\nval_1.JPEG\tn02\n"}, "are of n01"),
    "half an image": (toy_files() | {"train/n01/images/n01_1.JPEG": picture(1)[:900]},
                      "train/n01/images/n01_1.JPEG is not a readable image"),
    "no image": (toy_files() | {"val/images/val_1.JPEG": b"boo"}, "val/images/val_1.JPEG is not"),
    "empty image": (toy_files() | {"val/images/val_1.JPEG": b""}, "val/images/val_1.JPEG is not"),
    "small image": (toy_files() | {"val/images/val_0.JPEG": picture(0, side=32)},
                    "val_0.JPEG is not a readable image (it has (32, 32) pixels, not 64 x 64)"),
    "climbs up": (toy_files() | {"../../.profile": b"boo"}, "'../../.profile' points outside"),
    "climbs up inside": (toy_files() | {"a/../../../b": b"boo"}, "points outside"),
    "climbs with \\": (toy_files() | {"..\\b": b"boo"}, "points outside"),
    "absolute": (toy_files() | {"/etc/cron.d/b": b"boo"}, "'/etc/cron.d/b' points outside"),
    "a drive": (toy_files() | {"C:/b": b"boo"}, "'C:/b' points outside"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_fault_is_named_and_leaves_nothing(fault, tmp_path, home):
    files, words = FAULTS[fault]
    path = write_zip(tmp_path / "toy.zip", files)
    with pytest.raises(ValueError) as e:
        open_toy(path)
    assert str(path) in str(e.value) and words in str(e.value) and "fetch" in str(e.value)
    assert leftovers(home) == [] and not (tmp_path.parent / ".profile").exists()
    assert_whole(open_toy(write_zip(path, toy_files())))  # a second try, repaired


@pytest.mark.parametrize("share", [0, 0.001, 0.3, 0.7, 0.999])
def test_a_truncated_zip_is_named(share, tmp_path, home):
    whole = write_zip(tmp_path / "toy.zip", toy_files()).read_bytes()
    path = tmp_path / "cut.zip"
    path.write_bytes(whole[:int(share * len(whole))])
    with pytest.raises(ValueError, match="not a complete zip file.*fetch") as e:
        open_toy(path)
    assert str(path) in str(e.value) and leftovers(home) == []
    path.write_bytes(whole)
    assert_whole(open_toy(path))


def test_damaged_bytes_never_surprise(tmp_path, home):
    "Whichever byte of the zip changes, you get the same data or a ValueError that names the file."
    whole = write_zip(tmp_path / "toy.zip", toy_files()).read_bytes()
    directory, rng, raised = whole.index(b"PK\x01\x02"), random.Random(0), 0
    for i in range(30):
        damaged = bytearray(whole)
        at = rng.randrange(directory if i % 2 else 0, len(whole))
        damaged[at] ^= 1 << rng.randrange(8)
        path = tmp_path / f"{i}.zip"
        path.write_bytes(damaged)
        try:
            assert_whole(open_toy(path))
        except ValueError as e:
            raised += 1
            assert str(path) in str(e), f"byte {at}: {e}"
        assert not list(home.glob(".packing-*"))
    assert raised > 7


@pytest.mark.parametrize("seed", range(3))
def test_zip_and_folder_give_the_same(seed, tmp_path):
    names = list(toy_files().items())
    random.Random(seed).shuffle(names)  # an archive's order means nothing
    root = ["", "tiny-imagenet-200/", "some/where/"][seed]
    assert_whole(open_toy(write_zip(tmp_path / "toy.zip", dict(names), root)))
    assert_whole(open_toy(write_folder(tmp_path / "toy", dict(names))))


@pytest.mark.parametrize("write", [write_zip, write_folder])
def test_what_systems_leave_behind_is_ignored(write, tmp_path):
    extra = {"__MACOSX/train/n01/images/._n01_0.JPEG": b"x", "._wnids.txt": b"x",
             "train/n01/images/._n01_0.JPEG": b"x", "train/.DS_Store": b"x",
             "val/images/._val_0.JPEG": b"x", "train/n02/images/Thumbs.db": b"x",
             "train/n02/images/@eaDir/n02_0.JPEG": b"x",
             "train/n01/images/.ipynb_checkpoints/n01_0.JPEG": picture(9)}
    assert_whole(open_toy(write(tmp_path / "toy.zip", toy_files() | extra)))


def test_several_unreadable_images_are_named_at_once(tmp_path):
    files = toy_files() | {f"train/n01/images/n01_{i}.JPEG": b"boo" for i in range(2)}
    files["val/images/val_1.JPEG"] = picture(1)[:500]
    with pytest.raises(ValueError) as e:
        open_toy(write_zip(tmp_path / "toy.zip", files))
    for words in ("3 images", "n01_0.JPEG (", "n01_1.JPEG (", "val_1.JPEG (", "fetch the archive"):
        assert words in str(e.value)


def test_a_missing_archive_says_where_we_looked(tmp_path):
    with pytest.raises(FileNotFoundError, match="no Tiny-ImageNet at any known place: set TINY"):
        data.TinyImageNet()
    with pytest.raises(FileNotFoundError, match=r"no Tiny-ImageNet at .*gone\.zip: set TINY"):
        data.TinyImageNet(tmp_path / "gone.zip")


def test_fetching_from_nowhere_says_what_to_do(tmp_path):
    with pytest.raises(ConnectionError, match="cannot be fetched .* set TINY_IMAGENET"):
        data.fetch(tmp_path / "new", "http://127.0.0.1:9/toy.zip", tries=1)
    assert leftovers(tmp_path / "new") == []


class Patient(BaseHTTPRequestHandler):
    "Sends a toy file slowly, so that whoever comes second meets whoever came first."
    content = bytes(range(256)) * 40

    def log_message(self, *args): pass

    def do_GET(self):
        start = int((self.headers["Range"] or "bytes=0-")[6:-1])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", len(self.content) - start)
        self.end_headers()
        for i in range(start, len(self.content), 1024):
            self.wfile.write(self.content[i:i + 1024])
            time.sleep(0.05)


def test_fetching_into_the_users_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "pics").mkdir()
    (tmp_path / "pics/toy.zip").write_bytes(b"whole")
    found = data.fetch("~/pics", "http://127.0.0.1:9/toy.zip", tries=1)
    assert found == tmp_path / "pics/toy.zip" and not (tmp_path / "~").exists()


def test_two_processes_fetch_one_file(tmp_path):
    server = ThreadingHTTPServer(("127.0.0.1", 0), Patient)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/toy.bin"
    md5 = hashlib.md5(Patient.content).hexdigest()
    both = [in_child(data.fetch, tmp_path / "new", url, md5) for _ in range(2)]
    assert [answer(*one) for one in both] == [tmp_path / "new/toy.bin"] * 2
    server.shutdown()
    assert (tmp_path / "new/toy.bin").read_bytes() == Patient.content
    assert leftovers(tmp_path / "new") == ["toy.bin"]


def test_what_is_there_needs_no_lock(tmp_path, monkeypatch):
    "The folder may be one that cannot be written to."
    (tmp_path / "toy.zip").write_bytes(b"")
    def refuse(folder): raise AssertionError("locked")
    monkeypatch.setattr(archive, "one_at_a_time", refuse)
    assert data.fetch(tmp_path, "http://127.0.0.1:9/toy.zip") == tmp_path / "toy.zip"


def test_where_packed_data_are_kept(tmp_path, home, monkeypatch):
    assert archive.data_home() == home
    monkeypatch.delenv("CONVNEXT_NB_DATA")
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert archive.data_home() == tmp_path / "xdg/convnext_nb"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert archive.data_home() == tmp_path / ".cache/convnext_nb"
    for name in ("convnext_nb", "nbs"): (tmp_path / "clone" / name).mkdir(parents=True)
    (tmp_path / "clone/settings.ini").touch()
    monkeypatch.chdir(tmp_path / "clone/nbs")
    assert archive.data_home() == tmp_path / "clone/data"


def test_who_waits_for_another_program_says_so(tmp_path, capsys):
    def wait():
        with archive.one_at_a_time(tmp_path): pass
    said, end = "", time.monotonic() + PATIENCE
    with archive.one_at_a_time(tmp_path):
        waiting = threading.Thread(target=wait, daemon=True)
        waiting.start()
        while not said and time.monotonic() < end:
            said += capsys.readouterr().err
            time.sleep(0.01)
        assert f"waiting for another program that works in {tmp_path}" in said
        assert waiting.is_alive()
    waiting.join(PATIENCE)
    with archive.one_at_a_time(tmp_path / "else"): pass
    assert not waiting.is_alive() and not capsys.readouterr().err
