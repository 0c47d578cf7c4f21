__version__ = "0.1.0"

import os

# Threads that wait shall spin for microseconds, not longer, and then sleep. OpenMP reads this when
# torch is loaded (see the notebook on the machine, 255_device).
if "OMP_WAIT_POLICY" not in os.environ: os.environ.setdefault("GOMP_SPINCOUNT", "20000")
