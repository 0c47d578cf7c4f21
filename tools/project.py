"""What settings.ini says about the project, for the other tools."""
from configparser import ConfigParser, SectionProxy
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def settings() -> SectionProxy:
    "The values of settings.ini, by name."
    ini = ConfigParser(delimiters="=")
    ini.read(ROOT / "settings.ini", encoding="utf-8")
    return ini["DEFAULT"]


def address() -> str:
    "Where the site is published, with a slash at the end."
    known = settings()
    return f"{known['doc_host']}{known['doc_baseurl']}/"
