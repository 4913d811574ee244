"""Fine-tune the small classifier on questions with random 8-ball answers: the reference policy.

accelerate launch scripts/sft.py
python scripts/sft.py --tokenizer whitespace --output_dir runs/sft-whitespace
"""

from eightball_ppo.cli.commands import run

if __name__ == "__main__":
    run("sft")
