#!/usr/bin/env bash
# Where each method wins: the runs behind docs/experiments.md, about 15 minutes on two cores. `make compare` is the first one.
set -euo pipefail
cd "$(dirname "$0")/.."
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-runs/experiments}
compare() { # NAME FLAGS...
  $PYTHON scripts/compare.py --disable_tqdm --kl_coefs 0.1 --output_dir "$OUT/$1" "${@:2}"
}
# label noise on 10 and 30 % of the questions
compare noise --label_noise 0 0.1 0.3 --methods sft distill distill_soft distill_boltzmann ppo exact
# 0.5, 1, 2 and 3 calls a question; a call grades one answer, so 3 grade all
compare budget --grader_call_budgets 300 600 1200 1800 --methods sft distill distill_boltzmann ppo exact
# thresholds that are too high; no question reaches the last one: a failed run, and exit code 3
compare threshold --thresholds 0 0.9 0.99 0.994 0.9945 0.999 --methods sft distill ppo || [ $? -eq 3 ]
