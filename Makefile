# Everything works in .venv; every target may be run again at any time.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup demo test lint acceptance bench clean-runs

setup: .venv/.installed

.venv/.installed: pyproject.toml
	@sh infra/check_system.sh $(PYTHON)
	@echo "setup: making .venv and installing sar3d with its development tools (two to five minutes the first time)"
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@
	@echo "setup: done"

demo: setup
	@echo "demo: built-in objects are drawn, a tokenizer, two generators and a captioner are trained on them, 3D files are made and described; output goes to runs/demo"
	@$(BIN)/sar3d run --config configs/demo.yaml

test: setup
	@echo "test: the default suite (not slow, gpu or net); development data beside the checkout is used if it is there"
	@$(BIN)/python -m pytest -m "not slow and not gpu and not net"

lint: setup
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports

# All of it, or a part: make acceptance ONLY="tests/acceptance/test_generator.py -k prompts"
ONLY ?=

acceptance: setup
	@echo "acceptance: every line of what the project promises, two to three hours, or those in ONLY; results go to docs/results"
	@$(BIN)/python -m pytest -m "slow or acceptance" --acceptance-report=docs/results $(ONLY)

bench: setup
	@for file in benchmarks/bench_*.py; do echo "$$file"; $(BIN)/python $$file || exit 1; done
