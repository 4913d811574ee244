#!/usr/bin/env bash
# The effect of an encoder: recipes/minilm_lora.yaml and the small classifier at the same beta, and recipes/own_data.yaml
# with PPO and with distillation. Three seeds of every stage into runs/encoders (about an hour on one core), then the tables.
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
PYTHON=${PYTHON:-.venv/bin/python}
OUT=${OUT:-runs/encoders}
made() { # DIRECTORY SCRIPT FLAGS...: a run and the output of /usr/bin/time, unless it exists
  [ -e "$1" ] || /usr/bin/time -v -o "$1.time" $PYTHON "${@:2}" --disable_tqdm --seed "$seed" --output_dir "$1" >/dev/null
}
for seed in ${SEEDS:-0 1 2}; do
  at="$OUT/seed$seed"
  mkdir -p "$at"
  grader="--reward_model_path $at/reward"
  made "$at/reward" scripts/reward.py
  made "$at/minilm-ppo" scripts/ppo.py --config recipes/minilm_lora.yaml --sft_model_path "$at/minilm-sft" $grader
  made "$at/small-sft" scripts/sft.py
  made "$at/small-ppo" scripts/ppo.py --kl_coef 0.5 --sft_model_path "$at/small-sft" $grader
  recipe="--config recipes/own_data.yaml --sft_model_path $at/tickets-sft --reward_model_path $at/tickets-reward"
  made "$at/tickets-ppo" scripts/ppo.py $recipe
  made "$at/tickets-distill" scripts/distill.py $recipe
done
$PYTHON scripts/report.py "$OUT"/seed*/*/
echo
for file in "$OUT"/seed*/*.time; do
  awk -v run="$file" '/Elapsed/ { wall = $NF } /Maximum resident/ { printf "%s: %s wall, %.2f GB at its peak\n", run, wall, $NF / 1e6 }' "$file"
done
