"""Child processes: Python code, forked functions, the commands as their scripts run them."""
import multiprocessing
import os
import runpy
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
FORK = multiprocessing.get_context("fork")
PATIENCE = 300  # seconds until something hangs, also on a machine that is busy


def python(code: str, **env: str) -> str:
    "What the code prints in a Python of its own; it must not fail."
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | env,
                          capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def in_child(function, *args):
    "A forked process (no second import of torch) and the end of a pipe where its answer arrives."
    def work(pipe):
        torch.set_num_threads(1)  # OpenMP's other threads do not survive a fork
        try:
            pipe.send(function(*args))
        except BaseException as e:
            pipe.send(e)
    here, there = FORK.Pipe(duplex=False)
    process = FORK.Process(target=work, args=(there,))
    process.start()
    there.close()
    return process, here


def answer(process, pipe, seconds=PATIENCE):
    "What the child returned or raised; it must not hang."
    if not pipe.poll(seconds):
        process.kill()
        pytest.fail("the child process hangs")
    process.join(seconds)
    return pipe.recv()


def command(name, *words):
    "Run an installed command's script in a forked process: torch is imported already."
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        def work():
            torch.set_num_threads(1)
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.stdout = open(1, "w", closefd=False)
            sys.stderr = open(2, "w", closefd=False)
            sys.argv = [str(BIN / name), *words]
            runpy.run_path(sys.argv[0], run_name="__main__")
        process = FORK.Process(target=work)
        process.start()
        process.join(PATIENCE)
        if process.is_alive():
            process.kill()
            pytest.fail(f"{name} hangs")
        for file in (out, err): file.seek(0)
        return subprocess.CompletedProcess(words, process.exitcode, out.read(), err.read())
