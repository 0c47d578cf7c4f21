"""Run every check of the project (make test) and count them. Exit code 1 if one failed."""
import hashlib
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from places import set_places

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
OUT = ROOT / "out"
WORKERS = 2
CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
LIMIT = 1200  # seconds a notebook may take, also on a busy machine

set_places()
ENV = {k: v for k, v in os.environ.items() if k not in ("IN_TEST", "DATA", "OUT")}
ENV["PATH"] = f"{BIN}{os.pathsep}{ENV['PATH']}"
THREADS = {"OMP_NUM_THREADS": str(max(1, CORES // WORKERS))}


@dataclass
class Count:
    "How many checks passed, how many failed, and why how many were skipped."
    passed: int = 0
    failed: int = 0
    skipped: Counter[str] = field(default_factory=Counter)  # reason: how many

    def add(self, other: "Count") -> None:
        self.passed += other.passed
        self.failed += other.failed
        self.skipped += other.skipped

    def __str__(self) -> str:
        return f"{self.passed} passed, {self.failed} failed, {self.skipped.total()} skipped"


def count(results: list[bool]) -> Count:
    return Count(results.count(True), results.count(False))


def call(*command, env=ENV, **kwargs):
    "Run a program of this environment from the repository's root; returns the finished process."
    return subprocess.run(command, cwd=ROOT, env=env, text=True, **kwargs)


def files() -> dict[str, str]:
    "The contents, as hashes, of all files that git does not ignore."
    refusal = SystemExit("git does not say which files are here: check in a clone of your own")
    try: names = call("git", "ls-files", "-co", "--exclude-standard", "-z", stdout=subprocess.PIPE)
    except FileNotFoundError: raise refusal from None
    if names.returncode or not names.stdout: raise refusal
    paths = [ROOT / name for name in names.stdout.split("\0") if name]
    return {str(p.relative_to(ROOT)): hashlib.sha256(p.read_bytes()).hexdigest()
            for p in paths if p.is_file()}


def leaves_no_difference(*command) -> bool:
    "True if the command succeeds and changes no file."
    before = files()
    if call(*command).returncode:
        return False
    after = files()
    changed = sorted(k for k in before | after if before.get(k) != after.get(k))
    for name in changed:
        print(f"{command[0]} changed {name}: commit the result")
    return not changed


def succeeds(*command) -> bool:
    return call(*command).returncode == 0


def notebook(path: Path) -> bool:
    "One notebook by nbdev_test's rules: IN_TEST=1, cells flagged slow or gpu left out."
    start = time.time()
    try:
        done = call("nbdev_test", "--path", str(path), env=ENV | THREADS, timeout=LIMIT,
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        passed, said = done.returncode == 0, done.stdout
    except subprocess.TimeoutExpired:
        passed, said = False, f"more than {LIMIT} s"
    mark = "ok    " if passed else "FAILED"
    print(f"{mark} {path.name:24} {time.time() - start:5.0f} s", flush=True)
    if not passed: print(said, flush=True)
    return passed


def notebooks() -> Count:
    paths = sorted((ROOT / "nbs").glob("*.ipynb"))
    with ThreadPoolExecutor(WORKERS) as pool:
        return count(list(pool.map(notebook, paths)))


def read_report(path: Path) -> Count:
    "The counts of a report that pytest wrote as JUnit XML."
    found = Count()
    for case in ET.parse(path).iter("testcase"):
        skipped = case.find("skipped")
        if skipped is not None: found.skipped[skipped.get("message")] += 1
        elif case.find("failure") is None and case.find("error") is None: found.passed += 1
        else: found.failed += 1
    return found


def pytest(*arguments: str) -> Count:
    "Run pytest. It has failed, too, if it found no test or ended badly without naming a test."
    report = OUT / "pytest.xml"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", f"--junitxml={report}", *arguments]
    code = call(*command).returncode  # 5: no tests
    found = read_report(report) if report.exists() else Count()
    if code and not found.failed: found.failed = 1
    return found


CHECKS = {
    "nbdev_export leaves no difference": lambda: leaves_no_difference("nbdev_export"),
    "nbdev_clean leaves no difference": lambda: leaves_no_difference("nbdev_clean"),
    "ruff": lambda: succeeds("ruff", "check", "."),
    "README.md in step with nbs/index.ipynb": lambda: succeeds(
        sys.executable, "tools/readme.py", "--check"),
    "the chapters in numbers": lambda: succeeds(sys.executable, "tools/book.py"),
    "notebooks": notebooks,
    "docs": lambda: succeeds(sys.executable, "tools/docs.py"),
    "pytest": lambda: pytest("-n", str(WORKERS), "--dist", "loadfile"),  # of the site, too
    "package without the dev extra": lambda: succeeds(sys.executable, "tools/plain_install.py"),
}


def main() -> int:
    OUT.mkdir(exist_ok=True)
    before = files()
    total = Count()
    failed = []
    for name, check in CHECKS.items():
        print(f"== {name}", flush=True)
        start = time.time()
        found = check()
        if isinstance(found, bool): found = count([found])
        if found.failed: failed.append(name)
        total.add(found)
        print(f"   {time.time() - start:.0f} s", flush=True)
    unchanged = before == files()
    if not unchanged: failed.append("the checks changed files of the project: see git status")
    total.add(count([unchanged]))
    for reason, number in total.skipped.items():
        print(f"{number} skipped: {reason}")
    for name in failed:
        print(f"FAILED: {name}")
    (OUT / "checks.txt").write_text(f"{total}\n")
    print(total)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
