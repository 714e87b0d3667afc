# To start: make demo, make test. Both create .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check

.PHONY: setup demo test lint format notebooks images results clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	@echo "creating $(VENV) and installing attnrec (about 2 GB, 3 to 10 minutes)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) --upgrade "pip>=24"
	@# torch first and by exact version: which build pip takes depends on the index that is configured
	@$(PIP) torch==2.13.0
	@$(PIP) --constraint constraints.txt --editable ".[dev]"
	@# type checkers do not see the mapping attnrec_pipelines -> pipelines/ of an editable install
	@mkdir -p $(VENV)/typing && ln -sfn ../../pipelines $(VENV)/typing/attnrec_pipelines
	@touch $@

demo: setup
	@$(BIN)/attnrec daily demo

# two processes; OMP_NUM_THREADS=1, because two OpenMP threads in each collapse on two cores
test: setup
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --no-loadscope-reorder --cov --cov-report=term

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# executed in place, so that the committed outputs are up to date
notebooks: setup
	$(BIN)/python notebooks/execute.py

# the picture in the README
images: setup
	OMP_NUM_THREADS=1 $(BIN)/python docs/images.py

results: setup
	$(BIN)/python benchmarks/results_table.py
	$(BIN)/python benchmarks/faithfulness_page.py

clean:
	rm -rf $(VENV)
