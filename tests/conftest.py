"""What tests of several files share. One thread a process: `make test` runs two at a time."""
import os
import signal

os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported; child processes take it over
os.environ["no_proxy"] = "127.0.0.1"  # servers of the tests; a proxy does not reach them

import pytest
from browsers import browser  # noqa: F401  (a fixture)

# a shell starts background jobs deaf to Ctrl-C; the tests, and their children, shall hear it
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def whole(tmp_path_factory):
    "An undisturbed run. Its folder is only read."
    from training import fit
    return fit(tmp_path_factory.mktemp("whole"))


@pytest.fixture(scope="session")
def full(tmp_path_factory):
    "An undisturbed run of a recipe with everything on. Its folder is only read."
    from training import FULL, fit
    return fit(tmp_path_factory.mktemp("full"), FULL)


@pytest.fixture
def home(tmp_path, monkeypatch):
    "Nothing of this machine's data is seen; what is packed goes into this folder."
    monkeypatch.delenv("TINY_IMAGENET", raising=False)
    monkeypatch.setenv("CONVNEXT_NB_DATA", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"
