#!/usr/bin/env bash
# Three seeds of every stage into runs/table (about 20 minutes on one core), then the tables.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-runs/table}
for seed in ${SEEDS:-0 1 2}; do
  at="$OUT/seed$seed"
  flags="--seed $seed --disable_tqdm"
  models="--sft_model_path $at/sft --reward_model_path $at/reward"
  [ -e "$at/sft" ] || $PYTHON scripts/sft.py $flags --output_dir "$at/sft" >/dev/null
  [ -e "$at/reward" ] || $PYTHON scripts/reward.py $flags --output_dir "$at/reward" >/dev/null
  for beta in 0.1 0.5; do
    [ -e "$at/ppo-$beta" ] || $PYTHON scripts/ppo.py $flags $models --kl_coef $beta --output_dir "$at/ppo-$beta" >/dev/null
    [ -e "$at/distill-$beta" ] || $PYTHON scripts/distill.py $flags $models --kl_coef $beta --output_dir "$at/distill-$beta" >/dev/null
  done
done
sft="--seed 0 --disable_tqdm --sft_model_path $OUT/seed0/sft"
[ -e "$OUT/yes-low-beta" ] || $PYTHON scripts/ppo.py $sft --grader rule:Yes --kl_coef 0.05 --output_dir "$OUT/yes-low-beta" >/dev/null
[ -e "$OUT/yes-high-beta" ] || $PYTHON scripts/ppo.py $sft --grader rule:Yes --kl_coef 100 --output_dir "$OUT/yes-high-beta" >/dev/null
[ -e "$OUT/noise" ] || $PYTHON scripts/distill.py $sft --grader random-head --preset original --output_dir "$OUT/noise" >/dev/null
[ -e "$OUT/noise-longer" ] || $PYTHON scripts/distill.py $sft --grader random-head --threshold 0.4 --output_dir "$OUT/noise-longer" >/dev/null
$PYTHON scripts/report.py "$OUT"/seed*/* "$OUT"/yes-* "$OUT"/noise*
