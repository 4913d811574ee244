"""Audit a grader before any training on its grades: accuracy, calibration, stability, order, injections, cost.

python scripts/audit.py --grader bert --gold_file datasets/eightball/heldout.jsonl
python scripts/audit.py --grader llm --grader_model models/judge --gold_file heldout.jsonl --output_dir runs/audit-judge
EIGHTBALL_API_KEY=... python scripts/audit.py --grader api --grader_model NAME --grader_base_url https://HOST/v1
"""

from eightball_ppo.cli.commands import run

if __name__ == "__main__":
    run("audit")
