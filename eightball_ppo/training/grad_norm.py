"""Every gradient is looked at before it is used."""

import math
from collections.abc import Callable
from typing import Any

import torch
from accelerate.state import AcceleratorState
from torch import Tensor
from transformers import TrainerCallback

from eightball_ppo.config.fields import require
from eightball_ppo.errors import TrainingDivergedError
from eightball_ppo.training.state import unwrap_optimizer

SMALL_MODEL_PARAMS = 1_000_000  # so few are concatenated faster than summed apart


def total_norm(gradients: list[Tensor]) -> Tensor:
    """The norm of all gradients together, as `torch.nn.utils.get_total_norm` has it, quicker where they are few."""
    if sum(own.numel() for own in gradients) > SMALL_MODEL_PARAMS:
        return torch.nn.utils.get_total_norm(gradients)
    return torch.linalg.vector_norm(torch.cat([own.flatten() for own in gradients]))


class GradNormCallback(TrainerCallback):
    """The norm of every gradient before it is used: kept, clipped at `max_norm`, refused if it is not finite.

    TRL's loop never clips. The ranks' gradients are averaged by then, so all of them see the same one.

    Args:
        max_norm: None does not clip.
        fault: what to raise where a gradient is not finite.
    """

    def __init__(self, max_norm: float | None, fault: Callable[[str], TrainingDivergedError]):
        self.max_norm, self.fault = max_norm, fault
        self._norms: list[Tensor] = []  # of the update that is going on, or that ended last
        self._ended = False

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        if AcceleratorState().mixed_precision == "fp16":  # gradients are scaled here, and overflow as a rule
            require(self.max_norm is None, "--max_grad_norm: not with --mixed_precision fp16; use bf16")
            return
        optimizer = unwrap_optimizer(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def look(*_: Any) -> None:
            norm = total_norm([p.grad for p in parameters if p.grad is not None])
            if self._ended:
                self._norms, self._ended = [], False
            self._norms.append(norm)
            if norm.device.type == "cpu":  # an accelerator would have to be waited for: `on_step_end`
                self._require_finite(norm)
            if self.max_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.max_norm, norm)

        optimizer.register_step_pre_hook(look)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """After an update of PPO, or a step of any other fit: before anything is saved."""
        if self._norms and self._norms[-1].device.type != "cpu":
            self._require_finite(torch.stack(self._norms).sum())
        self._ended = True

    def _require_finite(self, norm: Tensor) -> None:
        if not math.isfinite(norm.item()):
            raise self.fault("the gradient")

    def mean(self) -> float | None:
        """The mean norm of the steps of this update, before clipping; None if there was none."""
        return torch.stack(self._norms).mean().item() if self._norms else None
