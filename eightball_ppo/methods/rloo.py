"""RLOO: TRL's `RLOOTrainer` on adapters of a classifier; see `groups.py`."""

from pathlib import Path

from eightball_ppo.config.methods import RLOOConfig
from eightball_ppo.methods import groups


def train(config: RLOOConfig) -> Path:
    """Train the policy into `config.output_dir` and return it. Raises as `groups.train`."""
    return groups.train(config, "rloo")
