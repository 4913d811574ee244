#!/usr/bin/env bash
# Personas, end to end, on a judge that can follow them (the scripted server of the tests), and the rule grader: PPO on the
# grades, then the policy's mean probability of each label on held-out questions. About 2 minutes on one core.
# Environment: OUT, PYTHON.
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=${OUT:-runs/personas}
PYTHON=${PYTHON:-.venv/bin/python}
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-1}
mkdir -p "$OUT"
"$PYTHON" tests/judge_server.py --port 0 >"$OUT/address" &
server=$!
trap 'kill $server' EXIT
until [ -s "$OUT/address" ]; do sleep 0.1; done
common=(--kl_coef 0.05 --allow_weak_grader --disable_tqdm --overwrite_output_dir --sft_model_path "$OUT/sft")
[ -e "$OUT/sft" ] || "$PYTHON" scripts/sft.py --output_dir "$OUT/sft" --disable_tqdm >/dev/null
for prompt in wanted_answer optimist pessimist hedger; do
    "$PYTHON" scripts/ppo.py "${common[@]}" --output_dir "$OUT/$prompt" --grader api --grader_model scripted \
        --grader_base_url "$(cat "$OUT/address")" --grader_prompt "$prompt" >/dev/null
done
"$PYTHON" scripts/ppo.py "${common[@]}" --output_dir "$OUT/rule" --grader rule:Yes >/dev/null
"$PYTHON" - "$OUT" <<'END'
import json, sys
for name in ("sft", "wanted_answer", "optimist", "pessimist", "hedger", "rule"):
    split = json.load(open(f"{sys.argv[1]}/{name}/results.json"))["splits"]["heldout"]
    print(name, {label: round(p, 3) for label, p in split["label_histogram"].items()})
END
