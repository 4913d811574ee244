"""AdamW for networks so small that the bookkeeping around its kernel takes longer than the kernel."""

from typing import Any

import torch
from torch import Tensor


class QuickAdamW(torch.optim.AdamW):
    """`torch.optim.AdamW(fused=True)`, bit for bit, without sorting and checking its tensors anew at every step.

    A parameter group holds parameters of one type and device. State and `state_dict()` are those of `AdamW`; without
    `amsgrad`, `maximize` and a learning rate in a tensor, which nobody here asks for.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], weight_decay: float):
        super().__init__(groups, betas=betas, weight_decay=weight_decay, fused=True)
        for group in self.param_groups:
            if len({(own.dtype, own.device) for own in group["params"]}) > 1:
                raise ValueError("a parameter group holds several types or devices")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [own for own in group["params"] if own.grad is not None]
            if not parameters:
                continue
            states = [self.state[own] or self._started(own) for own in parameters]
            steps = [own["step"] for own in states]
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                parameters,
                [own.grad for own in parameters],
                [own["exp_avg"] for own in states],
                [own["exp_avg_sq"] for own in states],
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def _started(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state
