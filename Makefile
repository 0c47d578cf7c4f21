# Everything runs in .venv, which is made the first time a target needs it.
# What you may set: DATA and OUT (make train), PYTHON (the interpreter for .venv), ARGS (make lab, bench, outputs).
DATA ?= auto
OUT ?= out
PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11 python; do \
	$$p -c "import sys; sys.exit(sys.version_info < (3, 11))" 2>/dev/null && echo $$p && break; done)
# Threads that wait shall spin for a fraction of a millisecond, and then sleep.
ifndef OMP_WAIT_POLICY
export GOMP_SPINCOUNT ?= 20000
endif
BIN := .venv/bin
READY := .venv/.ready

.PHONY: help train test lab docs bench outputs results headline kills clean here

help:
	@echo "make train  run nbs/320_final.ipynb; notebook, run folder and loss curve go to OUT=$(OUT)"
	@echo "            DATA=auto|tiny|shapes|PATH; auto takes Tiny-ImageNet where there is one, else drawn shapes"
	@echo "make lab    trust the notebooks here, so that their sliders work, and open the walk in JupyterLab"
	@echo "make test   run every check and count them: export, clean, ruff, README, notebooks, pytest, docs,"
	@echo "            and the plain package in a new environment"
	@echo "make docs   build the site from nbs/ into _docs/"
	@echo "make bench  time the library on this machine"
	@echo "make results  list the runs in nbs/runs with their results; make all tables and figures again"
	@echo "make headline  train ConvNeXt-T, ResNet-50 and Swin-T for 40 epochs (for a GPU)"
	@echo "make kills  kill and resume a small training 20 times; its result must not change by a bit"
	@echo "make outputs  run the notebooks and keep their outputs (ARGS=nbs/160_macro.ipynb: only that one)"
	@echo "make clean  remove what docs and tests left behind; .venv, out/ and data/ stay"
	@echo "The first target that you make builds .venv: 3 GB to download, 6 GB on disk (on Linux, torch with CUDA)."

train: $(READY)
	@$(BIN)/python tools/train.py --data "$(DATA)" --out "$(OUT)"

test: $(READY)
	@$(BIN)/python tools/check.py

lab: $(READY)
	@$(BIN)/jupyter trust nbs/*.ipynb >/dev/null || echo "   (notebooks are not trusted: widgets show after a run)"
	@echo "== JupyterLab on nbs/index.ipynb; Ctrl-C twice ends it"
	@PATH="$(CURDIR)/$(BIN):$$PATH" $(BIN)/jupyter lab --ServerApp.root_dir=. --LabApp.default_url=/lab/tree/nbs/index.ipynb \
		$(if $(filter 0,$(shell id -u)),--allow-root) $(ARGS)

docs: $(READY)
	@$(BIN)/python tools/docs.py

bench: $(READY)
	@$(BIN)/cnx_bench $(ARGS)

outputs: $(READY)
	@$(BIN)/python tools/execute.py $(ARGS)
	@$(BIN)/nbdev_clean
	@$(BIN)/python tools/fold.py
	@$(BIN)/python tools/readme.py

results: $(READY)
	@$(BIN)/python tools/results.py
	@names="$$($(BIN)/python tools/results.py --readers)" && $(MAKE) outputs ARGS="$$names"

headline: $(READY)
	@$(BIN)/python tools/headline.py $(ARGS)

kills: $(READY)
	@$(BIN)/python tools/kills.py $(ARGS)

clean:
	rm -rf _proc _docs build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -not -path "./.venv/*" -prune -exec rm -rf {} +

# A copied or renamed folder would go on with the library of the old one.
here:
	@made=$$(cat $(READY) 2>/dev/null); test -z "$$made" || test "$$made" = "$(CURDIR)" || { \
		echo ".venv belongs to $$made: remove .venv, then it is made again here" >&2; exit 1; }

$(READY): settings.ini setup.py | here
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found. Install one," \
		"or name it: make PYTHON=/path/to/python3.12" >&2; exit 1; }
	@echo "== Making .venv with $(PYTHON) ($$($(PYTHON) --version)). The first time this downloads"
	@echo "   about 3 GB, 6 GB on disk (torch with CUDA, on Linux), and takes minutes; an update, seconds."
	@$(PYTHON) -m venv .venv || { echo "Python's venv module is incomplete." \
		"On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	@$(BIN)/python -m pip install --editable ".[dev]"
	@echo "$(CURDIR)" > $@
