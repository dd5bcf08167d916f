# Everything works in .venv; every target may be run again at any time.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help setup demo test lint acceptance bench

help:  ## list what can be made
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1|\2/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r target what; do printf '  make %-12s %s\n' "$$target" "$$what"; done
	@echo "  PYTHON=python3.12 chooses the interpreter of a new .venv; ONLY='-k kills' some of the acceptance tests"

setup: .venv/.installed  ## make .venv and install the package with its development tools

.venv/.installed: pyproject.toml
	@sh infra/check_system.sh $(PYTHON)
	@echo "setup: making .venv and installing sar3d with its development tools (two to five minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
	@echo "setup: done"

demo: setup  ## the tour: built-in objects to generated, described 3D files, in ten to twenty minutes on two CPU cores
	@echo "demo: built-in objects are drawn, a tokenizer, two generators and a captioner are trained on them, 3D files are made and described; output goes to runs/demo"
	@$(BIN)/sar3d run --config configs/demo.yaml

test: setup  ## the default test suite, about ten minutes on two cores
	@echo "test: the default suite (not slow, gpu or net) in two processes; development data beside the checkout is used if it is there"
	@$(BIN)/python -m pytest -n 2 --dist loadfile -m "not slow and not gpu and not net"

lint: setup  ## ruff, mypy and the import contracts
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

# All of it, or a part: make acceptance ONLY="tests/acceptance/test_generator.py -k prompts"
ONLY ?=

acceptance: setup  ## the long proofs, some hours (each line at most one); a dated table goes to docs/results
	@echo "acceptance: every line of what the project promises, some hours, or those in ONLY; results go to docs/results"
	@$(BIN)/python -m pytest -m "slow or acceptance" --acceptance-report=docs/results $(ONLY)

bench: setup  ## all benchmarks
	@for file in benchmarks/bench_*.py; do echo "$$file"; $(BIN)/python $$file || exit 1; done
