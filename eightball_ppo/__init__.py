"""Train a small text classifier with a bigger model's grades, by PPO, and measure it against plain distillation."""

from eightball_ppo.models import auto_registration

__version__ = "0.1.0"

auto_registration.install()
