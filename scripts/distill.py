"""Thresholded distillation on the same questions and the same grades as PPO.

accelerate launch scripts/distill.py
python scripts/distill.py --threshold 0.9 --output_dir runs/distill-0.9
python scripts/distill.py --preset original --grader random-head --output_dir runs/distill-original
"""

from eightball_ppo.cli.commands import run

if __name__ == "__main__":
    run("distill")
