"""The random choices of a run of TRL's PPO, to be replayed by another loop."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from pytest import MonkeyPatch
from torch import Tensor

from eightball_ppo.trl_adapters.build import TRLModels


@dataclass
class Recording:
    """The questions [B] and answers [B] of every update, the order [B] of every epoch."""

    rows: list[Tensor] = field(default_factory=list)
    actions: list[Tensor] = field(default_factory=list)
    permutations: list[Tensor] = field(default_factory=list)


def record(models: TRLModels, monkeypatch: MonkeyPatch) -> Recording:
    """Start recording every rollout of `models.policy` and every permutation of numpy."""
    recording = Recording()
    generate, permutation = models.policy.generate, np.random.permutation

    def recorded_generate(input_ids: Tensor, **kwargs: Any) -> Any:
        output = generate(input_ids, **kwargs)
        recording.rows.append(models.ids.rows(output.sequences))
        recording.actions.append(models.ids.actions(output.sequences))
        return output

    def recorded_permutation(n: int) -> Any:
        order = permutation(n)
        recording.permutations.append(torch.from_numpy(order.copy()))
        return order

    monkeypatch.setattr(models.policy, "generate", recorded_generate)
    monkeypatch.setattr(np.random, "permutation", recorded_permutation)
    return recording
