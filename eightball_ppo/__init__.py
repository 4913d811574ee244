"""Trains a small text classifier on a bigger model's grades by PPO and compares it with distillation."""

from eightball_ppo.models import auto_registration

__version__ = "0.1.0"

auto_registration.install()
