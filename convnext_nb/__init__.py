__version__ = "0.1.0"

import os

# Threads that wait shall sleep; spinning, they would take the core that another thread needs.
# OpenMP reads this when torch is loaded (see the notebook on the machine, 255_device).
os.environ.setdefault("OMP_WAIT_POLICY", "passive")
