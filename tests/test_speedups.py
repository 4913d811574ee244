"""QuickAdamW against torch's AdamW, bit for bit, and the norm of all gradients."""

import copy

import pytest
import torch
from pytest import MonkeyPatch
from torch import nn

from eightball_ppo.training import grad_norm
from eightball_ppo.trl_adapters.speedups import QuickAdamW


def groups(model: nn.Sequential) -> list[dict[str, object]]:
    return [{"params": list(model[0].parameters()), "lr": 0.1}, {"params": list(model[1].parameters()), "lr": 0.01}]


def step(model: nn.Module, optimizer: torch.optim.Optimizer, number: int) -> None:
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(number))
    optimizer.zero_grad()
    model(x).square().sum().backward()
    optimizer.step()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_twenty_steps_equal_torchs_adamw_bit_for_bit(dtype: torch.dtype, weight_decay: float) -> None:
    torch.set_default_dtype(dtype)
    try:
        ours = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        reference = copy.deepcopy(ours)
        quick = QuickAdamW(groups(ours), (0.9, 0.95), weight_decay)
        torchs = torch.optim.AdamW(groups(reference), betas=(0.9, 0.95), weight_decay=weight_decay, fused=True)
        rates = [torch.optim.lr_scheduler.LambdaLR(o, lambda done: 1 - done / 40) for o in (quick, torchs)]
        for number in range(20):
            for model, optimizer, rate in zip((ours, reference), (quick, torchs), rates, strict=True):
                step(model, optimizer, number)
                rate.step()
        assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), reference.parameters(), strict=True))
        kept, expected = quick.state_dict()["state"], torchs.state_dict()["state"]
        assert all(torch.equal(kept[i][name], expected[i][name]) for i in expected for name in expected[i])
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.parametrize("wide", [3, 400])
def test_norm_of_all_gradients_equals_torchs(wide: int, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr(grad_norm, "SMALL_MODEL_PARAMS", 1000)
    gradients = [torch.randn(wide, 2), torch.randn(wide), torch.randn(1)]
    torch.testing.assert_close(grad_norm.total_norm(gradients), torch.nn.utils.get_total_norm(gradients))
    gradients[1][0] = torch.inf
    assert not torch.isfinite(grad_norm.total_norm(gradients))
