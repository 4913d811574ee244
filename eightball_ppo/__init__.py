"""Train a small text classifier with a bigger model's grades, by PPO, and measure it against plain distillation."""

from eightball_ppo import autoload

__version__ = "0.1.0"

autoload.install()
