# Two commands: `make reproduce` runs the whole study, `make test` checks it. Both make .venv first.
PROFILE ?= tiny
ONLY ?=
GPUS ?= 1
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := $(BIN)/vsr run --profile $(PROFILE) --gpus $(GPUS) $(if $(ONLY),--only $(ONLY))

.PHONY: reproduce test lab clean

reproduce: $(VENV)/.installed
	$(RUN)

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest --numprocesses auto --dist loadfile --no-loadscope-reorder --durations 10

lab: $(VENV)/.installed
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

# pip keeps what it has downloaded; the mark is set only after a complete installation
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) data results/smoke figures/smoke
