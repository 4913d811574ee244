"""Upload a finished run to the Hugging Face Hub: a model, a dataset of grades, a comparison, or the demo as a Space.

python scripts/push_to_hub.py runs/ppo --repo_id ME/eight-ball --dry_run
python scripts/push_to_hub.py runs/distill runs/ppo --repo_id ME/ask-the-ball --space
"""

from eightball_ppo.cli.commands import run

if __name__ == "__main__":
    run("push")
