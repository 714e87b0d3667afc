# Two commands from nothing: make demo, make test. Both make .venv first.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
DEMO := data/demo

.PHONY: setup demo test lint format notebooks results clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=24"
	# torch first and by exact version: which build pip takes depends on the index that is configured
	$(BIN)/python -m pip install --quiet torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@

demo: setup
	$(BIN)/attnrec sample $(DEMO)
	$(BIN)/attnrec daily pipelines/experiments/demo.toml

# the flows wait for processes and servers most of the time: beside them the library's tests cost little
test: setup
	@export OMP_NUM_THREADS=1; \
	$(BIN)/python -m pytest -p no:cacheprovider tests/pipelines & flows=$$!; \
	$(BIN)/python -m pytest --ignore tests/pipelines; library=$$?; \
	wait $$flows; exit $$((library + $$?))

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# in place, so that what is committed is what they show
notebooks: setup
	$(BIN)/python notebooks/execute.py

results: setup
	$(BIN)/python benchmarks/results_table.py
	$(BIN)/python benchmarks/faithfulness_page.py

clean:
	rm -rf $(VENV) $(DEMO)
