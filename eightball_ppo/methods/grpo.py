"""GRPO: TRL's `GRPOTrainer` on adapters of a classifier; see `groups.py`."""

from pathlib import Path

from eightball_ppo.config.methods import GRPOConfig
from eightball_ppo.methods import groups


def train(config: GRPOConfig) -> Path:
    """Train the policy into `config.output_dir` and return it. Raises as `groups.train`."""
    return groups.train(config, "grpo")
