"""Pure functions of tensors: the exact objective, PPO's losses, calibration, statistics."""
