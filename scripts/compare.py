"""Compare all methods on the same grades, with several seeds: which is ahead, by how much, with which confidence.

python scripts/compare.py
python scripts/compare.py --methods distill ppo exact --seeds 0 1 2 3 4 --output_dir runs/compare-5
python scripts/compare.py --label_noise 0 0.3:call --methods distill ppo --output_dir runs/compare-noise
"""

from eightball_ppo.cli.commands import run

if __name__ == "__main__":
    run("compare")
