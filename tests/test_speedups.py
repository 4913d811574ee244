"""QuickAdamW against torch's AdamW, bit for bit, and the norm of all gradients."""

import copy

import pytest
import torch
from pytest import MonkeyPatch
from torch import nn

from eightball_ppo.training import grad_norm
from eightball_ppo.trl_adapters.speedups import QuickAdamW


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_twenty_steps_equal_torchs_adamw_bit_for_bit(dtype: torch.dtype, weight_decay: float) -> None:
    ours = nn.Sequential(nn.Linear(3, 4, dtype=dtype), nn.Linear(4, 2, dtype=dtype), nn.Linear(2, 2, dtype=dtype))
    theirs = copy.deepcopy(ours)
    optimizers = []
    for model, kind in ((ours, QuickAdamW), (theirs, torch.optim.AdamW)):
        groups = [{"params": list(model[i].parameters()), "lr": 0.1 / (i + 1)} for i in (0, 1, 2)]
        optimizers.append(kind(groups, betas=(0.9, 0.95), weight_decay=weight_decay, fused=True))
    rates = [torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / 40) for optimizer in optimizers]
    for number in range(20):
        x = torch.randn(5, 3, generator=torch.Generator().manual_seed(number), dtype=dtype)
        for model, optimizer, rate in zip((ours, theirs), optimizers, rates, strict=True):
            optimizer.zero_grad()
            model[:2](x).square().sum().backward()  # the last layer has no gradient
            optimizer.step()
            rate.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))
    state, expected = (optimizer.state_dict()["state"] for optimizer in optimizers)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[i][name], expected[i][name]) for i in expected for name in expected[i])


@pytest.mark.parametrize("wide", [3, 400])
def test_norm_of_all_gradients_equals_torchs(wide: int, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(grad_norm, "SMALL_MODEL_PARAMS", 1000)
    gradients = [torch.randn(wide, 2), torch.randn(wide), torch.randn(1)]
    torch.testing.assert_close(grad_norm.total_norm(gradients), torch.nn.utils.get_total_norm(gradients))
    gradients[1][0] = torch.inf
    assert not torch.isfinite(grad_norm.total_norm(gradients))
