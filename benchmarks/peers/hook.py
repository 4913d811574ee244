"""A callback for the measurements in TRL's trainers."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from transformers import TrainerCallback

from .task import OnUpdate


class UpdateHook(TrainerCallback):
    """Calls `on_update` after every update; `logits_NK()` computes the policy's logits of all questions."""

    def __init__(self, on_update: OnUpdate, logits_NK: Callable[[], Tensor]):
        self.on_update, self.logits_NK = on_update, logits_NK

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        with torch.no_grad():
            self.on_update(state.episode, self.logits_NK)
