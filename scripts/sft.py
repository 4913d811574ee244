"""Fine-tune the small classifier on questions with random 8-ball answers: the reference policy.

accelerate launch scripts/sft.py
python scripts/sft.py --tokenizer whitespace --output_dir runs/sft-whitespace
"""

from eightball_ppo.cli import main
from eightball_ppo.configs import SFTConfig

if __name__ == "__main__":
    main(SFTConfig, "eightball_ppo.methods.sft:train")
