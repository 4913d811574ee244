"""Train the reward model, a BERT that predicts the answer that the asker hopes for, and calibrate it.

accelerate launch scripts/reward.py
python scripts/reward.py --use_peft --learning_rate 2e-3 --output_dir runs/reward-lora
python scripts/reward.py --model_name_or_path google-bert/bert-base-uncased --output_dir runs/reward-bert-base
"""

from eightball_ppo.cli.commands import run

if __name__ == "__main__":
    run("reward")
