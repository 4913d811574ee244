"""Ask a trained policy.

python scripts/predict.py "Will I be rich?"
python scripts/predict.py --file questions.txt --model_name_or_path runs/sft --sample
"""

import sys

from eightball_ppo.cli import main
from eightball_ppo.configs import PredictConfig

if __name__ == "__main__":
    argv = sys.argv[1:]
    if argv and not argv[0].startswith("-"):
        argv = ["--question", *argv]
    main(PredictConfig, "eightball_ppo.methods.predict:run", argv)
