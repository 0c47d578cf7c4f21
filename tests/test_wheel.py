"""The wheel: the library and its networks only. tools/plain_install.py installs the package."""
import re
import subprocess
import sys
import zipfile

import pytest
from plain_install import ROOT, sources


def test_wheel_holds_the_library_and_its_networks_only(tmp_path):
    pytest.importorskip("setuptools", "70")
    (tmp_path / "package").mkdir()
    package = sources(tmp_path / "package")
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation",
               "--wheel-dir", tmp_path, package]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    wheel, = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(wheel).namelist())
    modules = {f"convnext_nb/{p.name}" for p in (ROOT / "convnext_nb").glob("*.py")}
    pretrained = {f"convnext_nb/pretrained/{p.name}"
                  for p in (ROOT / "convnext_nb" / "pretrained").iterdir() if p.is_file()}
    assert any(name.endswith(".safetensors") for name in pretrained)
    rest = {name for name in names if not re.match(r"convnext_nb-[\d.]+\.dist-info/", name)}
    assert rest == modules | pretrained
    assert wheel.stat().st_size < 30e6
