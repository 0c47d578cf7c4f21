"""Folders that a user names are meant from where the user stands; notebooks run in nbs/."""
import os
from pathlib import Path

NAMES = ("TINY_IMAGENET", "CONVNEXT_NB_DATA")


def absolute(path: str) -> str:
    "The path from the root, with the home folder for ~."
    return str(Path(path).expanduser().resolve())


def set_places() -> None:
    "Makes the places in the environment absolute, for the programs that are started."
    os.environ |= {name: absolute(os.environ[name]) for name in NAMES if os.environ.get(name)}
