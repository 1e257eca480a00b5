# Everything a newcomer types: `make demo`, `make test`. Needs Python 3.11 and make, nothing else.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
DEMO := study-demo
WHEELS := wheelhouse
# Small networks gain nothing from many threads, and sites share the machine.
export OMP_NUM_THREADS ?= 1

.PHONY: demo test nightly notebook lint clean

$(BIN)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	# torch first: a later install would otherwise choose a newer one with gigabytes of CUDA
	$(BIN)/pip install --quiet "torch>=2.13,<2.14"
	$(BIN)/pip install --quiet --editable ".[dev]"
	touch $@

demo: $(BIN)/.installed  ## a consortium of 8 simulated sites, from patients to report
	rm -rf $(DEMO)
	$(BIN)/vultus-simulate run --sites 8 --subjects 100 --rounds 30 --epsilon 3 --seed 1 --out $(DEMO)

test: $(BIN)/.installed  ## every test that can run here; says what it skipped and why
	# one process more than cores: a test of real processes waits most of its time
	$(BIN)/pytest -n 3 --dist loadfile --no-loadscope-reorder

nightly: $(BIN)/.installed  ## the tests that are too long for every change
	$(BIN)/pytest -m nightly

notebook: $(BIN)/.installed  ## the researcher's walk-through, run from top to bottom
	$(BIN)/jupyter-execute notebooks/walkthrough.ipynb --output=walkthrough-executed
	@echo "Open notebooks/walkthrough-executed.ipynb in Jupyter or an editor that shows notebooks."

lint: $(BIN)/.installed  ## style, types, layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

wheelhouse: $(BIN)/.installed  ## every package of site and coordinator, for machines without Internet
	rm -rf $(WHEELS)
	mkdir $(WHEELS)
	# The very versions that the tests of this environment ran with.
	$(BIN)/pip freeze --exclude-editable | grep -v ' @ ' > $(WHEELS)/constraints.txt
	$(BIN)/pip wheel --quiet --wheel-dir $(WHEELS) --constraint $(WHEELS)/constraints.txt ".[site,coordinator]"
	cd $(WHEELS) && sha256sum constraints.txt *.whl > SHA256SUMS
	@echo "$(WHEELS)/ is complete; docs/operations_coordinator.md says how to sign and hand it on."

clean:
	rm -rf $(VENV) $(DEMO) $(WHEELS) build dist .pytest_cache .mypy_cache .ruff_cache
