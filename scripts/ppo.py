"""The main job: SFT and reward model if they are missing, then PPO.

accelerate launch scripts/ppo.py
accelerate launch scripts/ppo.py --kl_coef 0.5 --seed 1 --output_dir runs/ppo-beta0.5-seed1
accelerate launch scripts/ppo.py --grader rule:Yes --kl_coef 0.05 --output_dir runs/ppo-yes
"""

from eightball_ppo.cli.commands import run

if __name__ == "__main__":
    run("ppo")
