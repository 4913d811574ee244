#!/usr/bin/env bash
# docs/LOG.md: PPO without the two settings that decide the result, on seed 0's models of readme_table.sh (4 minutes).
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-runs/table}
models="--disable_tqdm --sft_model_path $OUT/seed0/sft --reward_model_path $OUT/seed0/reward"
trl_like="--value_learning_rate 0.012 --adam_beta2 0.999 --cliprange 0.2 --num_mini_batches 4"
for beta in 0.1 0.5; do
  $PYTHON scripts/ppo.py $models --kl_coef $beta $trl_like --output_dir "$OUT/ablation/trl-like-$beta" >/dev/null
  $PYTHON scripts/ppo.py $models --kl_coef $beta --value_learning_rate 0.012 --output_dir "$OUT/ablation/fast-critic-$beta" >/dev/null
  $PYTHON scripts/ppo.py $models --kl_coef $beta --adam_beta2 0.999 --output_dir "$OUT/ablation/long-memory-$beta" >/dev/null
done
for run in "$OUT"/ablation/*; do
  echo "$(basename "$run")"
  $PYTHON scripts/summarize.py "$run" | tail -1
done
