#!/usr/bin/env bash
# Where each method wins: the runs behind docs/experiments.md, about 40 minutes on two cores. `make compare` is the first one.
set -euo pipefail
cd "$(dirname "$0")/.."
compare() { python scripts/compare.py --output_dir "runs/experiments/$1" "${@:2}"; }

# a grader that is wrong about 10 and 30 % of the questions
compare noise --grader_noise 0 0.1 0.3 --kl_coefs 0.1 --methods sft distill distill_soft distill_boltzmann ppo rloo exact

# 0.5, 1 and 2 calls a question, each of which grades one answer; 3 are all of them
compare budget --grader_call_budgets 300 600 1200 1800 --kl_coefs 0.1 \
    --methods sft distill distill_boltzmann ppo rloo exact

# a threshold that is too high, beside one that is chosen
compare threshold --thresholds 0 0.9 0.99 0.995 0.999 --kl_coefs 0.1 --methods sft distill ppo
