"""Checks every gradient before the optimizer uses it."""

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

SMALL_MODEL_PARAMS = 1_000_000  # up to so many are concatenated, which is faster than a norm of each tensor


def total_norm(gradients: list[Tensor]) -> Tensor:
    """Euclidean norm of all gradients together: `torch.nn.utils.get_total_norm`, but faster for small models."""
    if sum(gradient.numel() for gradient in gradients) > SMALL_MODEL_PARAMS:
        return torch.nn.utils.get_total_norm(gradients)
    return torch.linalg.vector_norm(torch.cat([gradient.flatten() for gradient in gradients]))


class GradNormCallback(TrainerCallback):
    """Records the norm of every gradient before the optimizer step, clips it, and refuses one that is not finite.

    TRL's loop never clips. Gradients are averaged over the ranks by then, so all of them compute the same norm.

    Args:
        max_norm: Norm at which gradients are clipped; None does not clip.
        fault: Makes the error that is raised where a gradient is not finite.
    """

    def __init__(self, max_norm: float | None, fault: Callable[[str], TrainingDivergedError]):
        self.max_norm, self.fault = max_norm, fault
        self._norms: list[Tensor] = []  # of the present update, or of the last one
        self._ended = False

    def on_train_begin(self, args: Any, state: Any, control: Any, optimizer: Any = None, **_: Any) -> None:
        """Registers the check as a hook of the optimizer."""
        if AcceleratorState().mixed_precision == "fp16":  # gradients are scaled here, and overflow as a rule
            require(self.max_norm is None, "--max_grad_norm: not with --mixed_precision fp16; use bf16")
            return
        optimizer = unwrap_optimizer(optimizer)
        parameters = [p for group in optimizer.param_groups for p in group["params"]]

        def check_gradients(*_: Any) -> None:
            norm = total_norm([p.grad for p in parameters if p.grad is not None])
            if self._ended:
                self._norms, self._ended = [], False
            self._norms.append(norm)
            if norm.device.type == "cpu":  # an accelerator would have to be waited for: `on_step_end`
                self._require_finite(norm)
            if self.max_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, self.max_norm, norm)

        optimizer.register_step_pre_hook(check_gradients)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Checks the gradients of an accelerator once per update, before anything is saved."""
        if self._norms and self._norms[-1].device.type != "cpu":
            self._require_finite(torch.stack(self._norms).sum())
        self._ended = True

    def _require_finite(self, norm: Tensor) -> None:
        if not math.isfinite(norm.item()):
            raise self.fault("the gradient")

    def mean(self) -> float | None:
        """Mean norm of this update's steps, before clipping; None if there was no step."""
        return torch.stack(self._norms).mean().item() if self._norms else None
