"""Finished runs as Markdown tables (mean over seeds, lowest and highest), or the page of a comparison again.

python scripts/report.py runs/ppo runs/distill
python scripts/report.py runs/compare
"""

from eightball_ppo.cli.commands import run

if __name__ == "__main__":
    run("report")
