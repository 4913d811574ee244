#!/usr/bin/env bash
# Prints the numbers of docs/LOG.md, with the models of seed 0 of readme_table.sh (about 10 minutes on one core).
set -euo pipefail
cd "$(dirname "$0")/.."
export OMP_NUM_THREADS=1
PYTHON=${PYTHON:-.venv/bin/python}
EIGHTBALL=${EIGHTBALL:-.venv/bin/eightball}
OUT=${OUT:-runs/table}
models="--disable_tqdm --sft_model_path $OUT/seed0/sft --reward_model_path $OUT/seed0/reward"
at="$OUT/ablation"
run() { # NAME COMMAND FLAGS...
  local name=$1 command=$2
  shift 2
  [ -e "$at/$name" ] || $EIGHTBALL "$command" $models "$@" --output_dir "$at/$name" >/dev/null
}
for beta in 0.1 0.5; do
  run "trl-like-$beta" ppo --kl_coef $beta --value_learning_rate 0.012 --adam_beta2 0.999 --cliprange 0.2 --num_mini_batches 4
  run "fast-critic-$beta" ppo --kl_coef $beta --value_learning_rate 0.012
  run "long-memory-$beta" ppo --kl_coef $beta --adam_beta2 0.999
  run "exact-plain-$beta" exact --kl_coef $beta --anneal_fraction 0
  run "rloo-plain-$beta" rloo --kl_coef $beta --anneal_fraction 0
  run "grpo-plain-$beta" grpo --kl_coef $beta --anneal_fraction 0
  run "grpo-kl-in-loss-$beta" grpo --kl_coef $beta --kl_in_reward False
done
run high-beta-fixed-rate ppo --grader rule:Yes --kl_coef 100 --learning_rate 0.012
for seed in 0 1 2 3 4 5; do
  run "noise-$seed" distill --preset original --grader "random-head:$seed"
done
$PYTHON - "$at" <<'PYTHON_CODE'
import json, pathlib, sys

for directory in sorted(pathlib.Path(sys.argv[1]).iterdir()):
    results = json.loads((directory / "results.json").read_text())
    train, heldout, before = results["splits"]["train"], results["splits"]["heldout"], results["reference"]["heldout"]
    line = f"{directory.name:20} train optimum_fraction {train['optimum_fraction']:.3f}  held-out KL {heldout['kl']:.4f}"
    for who, histogram in (
        ("grader", heldout["grader_histogram"]),
        ("policy before", before["greedy_histogram"]),
        ("policy after", heldout["greedy_histogram"]),
    ):
        answer = max(histogram, key=histogram.get)
        line += f"  {who}: {answer} {histogram[answer]:.2f}"
    print(line + (f"  coverage {results['coverage']:.2f}" if "coverage" in results else ""))
PYTHON_CODE
