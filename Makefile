# Every target is one line over scripts/ or pytest. `make run` and `make test` install what they need first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup run test quality clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

run: setup
	$(BIN)/accelerate launch --config_file accelerate_config.yaml scripts/ppo.py

test: setup
	$(BIN)/python -m pytest

quality: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build *.egg-info
