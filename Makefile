# Two commands: `make reproduce` runs the whole study, `make test` checks it. Both make .venv first.
PROFILE ?= tiny
ONLY ?=
GPUS ?= 1
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# one process more than cores: tests wait for notebooks' kernels, jobs and locks
PYTEST = $(BIN)/pytest --numprocesses $$(($$(getconf _NPROCESSORS_ONLN) + 1)) --dist loadfile --no-loadscope-reorder
RUN := $(BIN)/vsr run --profile $(PROFILE) --gpus $(GPUS) $(if $(ONLY),--only $(ONLY))

.PHONY: reproduce test book kernels lab lock clean

reproduce: $(VENV)/.installed
	$(RUN)

test: $(VENV)/.installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(PYTEST) --durations 10

# the executed notebooks, the documents and the reference as static pages: build/book/index.html
book: $(VENV)/.installed
	$(BIN)/python docs/book.py

# the suite with the arithmetic of processors without vectors, and of those with AVX2
kernels: $(VENV)/.installed
	ATEN_CPU_CAPABILITY=default MKL_CBWR=COMPATIBLE OPENBLAS_CORETYPE=Prescott ONEDNN_MAX_CPU_ISA=SSE41 \
		NPY_DISABLE_CPU_FEATURES="AVX2 FMA3" $(PYTEST)
	ATEN_CPU_CAPABILITY=avx2 MKL_CBWR=AVX2 OPENBLAS_CORETYPE=Haswell ONEDNN_MAX_CPU_ISA=AVX2 $(PYTEST)

lab: $(VENV)/.installed
	$(BIN)/jupyter lab notebooks/00_start_here.ipynb

# constraints.txt for every platform and with hashes; pip install --require-hashes -r requirements.lock takes nothing else
lock:
	pipx run uv pip compile --quiet --universal --python-version 3.11.5 --extra dev --constraints constraints.txt \
		--generate-hashes --no-annotate --custom-compile-command "make lock" --output-file requirements.lock pyproject.toml

# pip keeps what it has downloaded; the mark is set only after a complete installation
$(VENV)/.installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "needs Python 3.11 or newer: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

clean:
	rm -rf $(VENV) data results/smoke figures/smoke results/real figures/real
