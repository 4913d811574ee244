"""Finished runs as Markdown tables, mean over seeds with the lowest and the highest; the page of a comparison anew.

python scripts/report.py runs/ppo runs/distill
python scripts/report.py runs/compare
"""

from eightball_ppo.cli.commands import run

if __name__ == "__main__":
    run("report")
