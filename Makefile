# Runs with GNU make 3.81 and newer (macOS ships 3.81) and bash 3.2 and newer.
SHELL := /bin/bash
PYTHON ?= python3

SEED ?= 0
RUN := demo$(if $(filter-out 0,$(SEED)),-seed$(SEED))
RUN_FOLDER := $(if $(GANSEG_OUTPUTS),$(GANSEG_OUTPUTS),outputs)/creatures/$(RUN)

.PHONY: help demo test lab lock shipped-model

help:
	@echo "make demo   train, distill and evaluate on the generated creatures, from nothing, on this computer"
	@echo "            SEED=1 uses another seed (run demo-seed1); FRESH=1 deletes the run first instead of continuing it"
	@echo "make lab    open copies of the notebooks, and all else of the project, in JupyterLab"
	@echo "make test   check the style, then run all tests and notebooks"
	@echo "make shipped-model   make the run creatures/demo the model that ships with the package"
	@echo "make lock   pin the dependencies of pyproject.toml anew in requirements.lock"
	@echo "Each command first makes .venv if it is missing. PYTHON=python3.12 says which Python makes it."

demo: .venv/.installed
	@if [ -n "$(FRESH)" ]; then rm -rf "$(RUN_FOLDER)"; fi
	@if [ -e "$(RUN_FOLDER)" ]; then \
	  echo "$(RUN_FOLDER) exists and is continued. 'make demo SEED=$(SEED) FRESH=1' deletes it and starts again."; fi
	.venv/bin/ganseg train -p dataset creatures -p seed $(SEED) --run $(RUN)
	.venv/bin/ganseg distill -p dataset creatures -p seed $(SEED) --run $(RUN)
	.venv/bin/ganseg evaluate -p dataset creatures -p seed $(SEED) --run $(RUN)

test: .venv/.installed
	.venv/bin/ruff check .
	@.venv/bin/nbstripout --verify --keep-count notebooks/*.ipynb || { \
	  echo "Strip these notebooks before committing: .venv/bin/nbstripout --keep-count notebooks/*.ipynb"; exit 1; }
	@outputs="$$(mktemp -d)" && trap 'rm -rf "$$outputs"' EXIT && \
	  GANSEG_OUTPUTS="$$outputs" .venv/bin/python -m pytest -rs --nbval-lax --nbval-current-env \
	  -n logical --maxprocesses 4 --dist loadfile tests notebooks  # a process per core; each of them holds a network

# Lab works on copies, since it saves what it runs. A copy is made anew where the original is newer, and the old one kept.
lab: .venv/.installed $(patsubst notebooks/%,outputs/lab/%,$(wildcard notebooks/*.ipynb))
	@cp notebooks/README.md outputs/lab/
	@mkdir -p .venv/share/jupyter/lab/settings
	@echo '{"@jupyterlab/docmanager-extension:plugin": {"defaultViewers": {"markdown": "Markdown Preview"}}}' \
	  > .venv/share/jupyter/lab/settings/overrides.json
	.venv/bin/jupyter-lab --LabApp.default_url=/lab/tree/outputs/lab/README.md

outputs/lab/%.ipynb: notebooks/%.ipynb
	@mkdir -p $(@D)
	@if [ -e $@ ]; then mv $@ $(@:.ipynb=-old.ipynb); fi
	@cp $< $@

# Run it after make demo, or name another run with RUN=DATASET/NAME. Notebooks that need a run open with this model.
shipped-model: .venv/.installed
	.venv/bin/python .ci/ship_model $(if $(findstring /,$(RUN)),$(RUN),creatures/$(RUN))

# Each pin that still fits stays. To upgrade one, run this uv command with --upgrade-package NAME.
lock: .venv/.installed
	.venv/bin/uv pip compile pyproject.toml --all-extras --universal --python-version 3.11 \
	  --generate-hashes --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
	  --quiet --output-file requirements.lock

# The package is installed again when the pins or its metadata change.
.venv: .venv/.installed
.venv/.installed: requirements.lock pyproject.toml tests/readers.lock
	@fits() { "$$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' 2>/dev/null; }; \
	  if ! fits .venv/bin/python; then \
	    fits "$(PYTHON)" || { echo "$(PYTHON) is not Python 3.11 to 3.14, which ganseg needs:" \
	      "name another, as in 'make test PYTHON=python3.12'."; exit 1; }; \
	    "$(PYTHON)" -m venv --clear .venv; fi
	@echo "Installing requirements.lock into .venv (some minutes; on Linux several GB, PyTorch with CUDA)"
	@set -o pipefail; PYTHONUNBUFFERED=1 .venv/bin/python -m pip install --disable-pip-version-check -r requirements.lock \
	  | awk '/metadata/ {next} /Downloading|Using cached|Building|Installing|Successfully/ {print substr($$0, 1, 110); fflush()}'
	@.venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --require-hashes -r tests/readers.lock
	@.venv/bin/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation -e .
	@touch $@
