"""Run every check of the project (make test) and count them. Exit code 1 if one failed."""
import hashlib
import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ET
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
OUT = ROOT / "out"
WORKERS = 2
LIMIT = 300  # seconds a notebook may take


ENV = {k: v for k, v in os.environ.items() if k not in ("IN_TEST", "DATA", "OUT")}
ENV["PATH"] = f"{BIN}{os.pathsep}{ENV['PATH']}"
THREADS = {"OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // WORKERS))}


def call(*command, env=ENV, **kwargs):
    "Run a program of this environment from the repository's root; returns the finished process."
    return subprocess.run(command, cwd=ROOT, env=env, text=True, **kwargs)


def files() -> dict[str, str]:
    "The contents, as hashes, of all files that git does not ignore."
    names = call("git", "ls-files", "-co", "--exclude-standard", "-z", stdout=subprocess.PIPE)
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
        ok, said = done.returncode == 0, done.stdout
    except subprocess.TimeoutExpired:
        ok, said = False, f"more than {LIMIT} s"
    print(f"{'ok    ' if ok else 'FAILED'} {path.name:24} {time.time() - start:5.0f} s"
          + ("" if ok else f"\n{said}"), flush=True)
    return ok


def notebooks() -> list[bool]:
    with ThreadPoolExecutor(WORKERS) as pool:
        return list(pool.map(notebook, sorted((ROOT / "nbs").glob("*.ipynb"))))


def pytest() -> list[bool]:
    report = OUT / "pytest.xml"
    report.unlink(missing_ok=True)
    code = call(sys.executable, "-m", "pytest", "-q", f"--junitxml={report}").returncode
    if code == 5:  # no tests yet
        return []
    if not report.exists():
        return [False]
    cases = [case for case in ET.parse(report).iter("testcase") if case.find("skipped") is None]
    results = [case.find("failure") is None and case.find("error") is None for case in cases]
    return results if code == 0 or False in results else [*results, False]


CHECKS = {
    "nbdev_export leaves no difference": lambda: leaves_no_difference("nbdev_export"),
    "nbdev_clean leaves no difference": lambda: leaves_no_difference("nbdev_clean"),
    "ruff": lambda: succeeds("ruff", "check", "."),
    "README.md in step with nbs/index.ipynb": lambda: succeeds(
        sys.executable, "tools/readme.py", "--check"),
    "notebooks": notebooks,
    "pytest": pytest,
    "docs": lambda: succeeds(sys.executable, "tools/docs.py"),
}


def main() -> int:
    OUT.mkdir(exist_ok=True)
    before, results, failed = files(), [], []
    for name, check in CHECKS.items():
        print(f"== {name}", flush=True)
        start, result = time.time(), check()
        result = result if isinstance(result, list) else [result]
        results += result
        if not all(result):
            failed.append(name)
        print(f"   {time.time() - start:.0f} s", flush=True)
    results.append(before == files())
    if not results[-1]:
        failed.append("the checks changed files of the project: see git status")
    for name in failed:
        print(f"FAILED: {name}")
    count = f"{sum(results)} passed, {len(results) - sum(results)} failed"
    (OUT / "checks.txt").write_text(count + "\n")
    print(count)
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
