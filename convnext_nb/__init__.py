__version__ = "0.1.0"

import os
import signal
import sys

# Threads that wait shall spin for a fraction of a millisecond, and then sleep. OpenMP reads this
# when torch is loaded (see the notebook on the machine, 255_device).
if "OMP_WAIT_POLICY" not in os.environ: os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def end_at_once(*_):
    "Ctrl-C while a command loads torch: one line and code 130, as `cli.plain_errors` gives later."
    os.write(2, b"interrupted\n")
    os._exit(130)


# A command's script imports the package first. `cli` takes the handler away when it starts to work.
COMMANDS = {"cnx_train", "cnx_data", "cnx_bench", "cnx_eval", "cnx_predict", "cnx_proof"}
_script = os.path.splitext(os.path.basename("".join(sys.argv[:1])))[0]  # without .exe or .py
if _script in COMMANDS and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, end_at_once)
