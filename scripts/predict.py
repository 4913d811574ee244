"""Ask a trained policy.

python scripts/predict.py "Will I be rich?"
python scripts/predict.py --file questions.txt --model_name_or_path runs/sft --sample
"""

from eightball_ppo.cli.commands import run

if __name__ == "__main__":
    run("predict")
