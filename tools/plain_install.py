"""Install the package as a user does, without the dev extra, and try its commands.

In a fresh environment that borrows torch with its libraries from this one, since they are
gigabytes. Everything else is downloaded at the newest version that settings.ini allows.
"""
import os
import re
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from importlib.metadata import distributions
from pathlib import Path
from shutil import copy

from project import settings

ROOT = Path(__file__).resolve().parent.parent
BORROWED = re.compile(r"(torch|torchvision|triton)$|(nvidia|cuda)-")


def borrow(folder: Path) -> list[str]:
    "Link torch and its libraries, metadata included, into a folder; returns their names."
    folder.mkdir()
    borrowed = [d for d in distributions() if BORROWED.match(d.metadata["Name"])]
    for distribution in borrowed:
        for name in {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}:
            link = folder / name
            if not link.exists():  # `nvidia` is a folder of several
                link.symlink_to(Path(distribution.locate_file(name)))
    return sorted(d.metadata["Name"] for d in borrowed)


def environment(folder: Path) -> Path:
    "A new virtual environment that sees the borrowed packages; returns its folder of programs."
    venv.create(folder, with_pip=True)
    paths = {"base": str(folder), "platbase": str(folder)}
    links = folder / "borrowed"
    print(f"borrowed: {', '.join(borrow(links))}", flush=True)
    Path(sysconfig.get_path("purelib", "venv", paths), "borrowed.pth").write_text(f"{links}\n")
    return Path(sysconfig.get_path("scripts", "venv", paths))


def sources(folder: Path) -> Path:
    "A copy of the files that git knows: no build folder from earlier takes part."
    listed = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "-z"], cwd=ROOT,
                            check=True, capture_output=True, text=True)
    for name in listed.stdout.split("\0"):
        if (ROOT / name).is_file() and not name.startswith(("nbs/", "tests/")):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy(ROOT / name, folder / name)
    return folder


def commands() -> list[str]:
    "The names of the commands in settings.ini."
    return [line.split("=")[0] for line in settings()["console_scripts"].split()]


def works(*words, cwd: Path) -> bool:
    "Run a program away from the repository; what it says is shown if it fails."
    start = time.time()
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(words, cwd=cwd, env=env, text=True, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT)
    mark = "FAILED" if done.returncode else "ok    "
    shown = " ".join([Path(words[0]).name, *map(str, words[1:])])[:70]
    print(f"{mark} {shown:70} {time.time() - start:4.0f} s", flush=True)
    if done.returncode:
        print(done.stdout)
    return done.returncode == 0


def main() -> int:
    modules = sorted(p.stem for p in (ROOT / "convnext_nb").glob("*.py") if p.stem[0] != "_")
    imports = "import " + ", ".join(f"convnext_nb.{name}" for name in modules)
    picture = ROOT / "image" / "TrainingLoss.png"
    with tempfile.TemporaryDirectory() as name:
        away = Path(name)
        programs = environment(away / "env")
        python = programs / "python"
        package = sources(away / "package")
        if not works(python, "-m", "pip", "install", package, cwd=away):
            return 1
        checks = [works(python, "-m", "pip", "check", cwd=away),
                  works(python, "-c", imports, cwd=away)]
        checks += [works(programs / command, "--help", cwd=away) for command in commands()]
        checks.append(works(programs / "cnx_predict", picture, "--device", "cpu", cwd=away))
    return int(not all(checks))


if __name__ == "__main__":
    sys.exit(main())
