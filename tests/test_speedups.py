"""QuickAdamW against torch's own, bit for bit; and the norm of the gradients that it is given."""

import copy

import pytest
import torch
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
def test_twenty_steps_are_torchs_own_to_the_last_bit(dtype: torch.dtype, weight_decay: float) -> None:
    torch.set_default_dtype(dtype)
    try:
        mine = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
        theirs = copy.deepcopy(mine)
        quick = QuickAdamW(groups(mine), (0.9, 0.95), weight_decay)
        torchs = torch.optim.AdamW(groups(theirs), betas=(0.9, 0.95), weight_decay=weight_decay, fused=True)
        rates = [torch.optim.lr_scheduler.LambdaLR(own, lambda done: 1 - done / 40) for own in (quick, torchs)]
        for number in range(20):
            for model, optimizer, rate in zip((mine, theirs), (quick, torchs), rates, strict=True):
                step(model, optimizer, number)
                rate.step()
        assert all(torch.equal(a, b) for a, b in zip(mine.parameters(), theirs.parameters(), strict=True))
        kept, expected = quick.state_dict()["state"], torchs.state_dict()["state"]
        assert all(torch.equal(kept[i][name], expected[i][name]) for i in expected for name in expected[i])
    finally:
        torch.set_default_dtype(torch.float32)


def test_it_goes_on_from_a_state_that_was_kept() -> None:
    straight = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    broken = copy.deepcopy(straight)
    one, first = (QuickAdamW(groups(own), (0.9, 0.95), 0.0) for own in (straight, broken))
    for number in range(6):
        step(straight, one, number)
    for number in range(3):
        step(broken, first, number)
    second = QuickAdamW(groups(broken), (0.9, 0.95), 0.0)
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for number in range(3, 6):
        step(broken, second, number)
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), broken.parameters(), strict=True))


def test_what_has_no_gradient_stays_and_mixed_types_are_refused() -> None:
    used, unused = nn.Linear(3, 4), nn.Linear(4, 2)
    optimizer = QuickAdamW(groups(nn.Sequential(used, unused)), (0.9, 0.95), 0.0)
    before = unused.weight.detach().clone()
    used(torch.ones(1, 3)).sum().backward()
    optimizer.step()
    assert torch.equal(unused.weight, before)
    mixed = [nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2, dtype=torch.bfloat16))]
    with pytest.raises(ValueError, match="several types"):
        QuickAdamW([{"params": mixed, "lr": 0.1}], (0.9, 0.95), 0.0)


@pytest.mark.parametrize("wide", [3, 400])
def test_the_norm_of_all_gradients_is_torchs_own(wide: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(grad_norm, "SMALL_MODEL_PARAMS", 1000)
    own = [torch.randn(wide, 2), torch.randn(wide), torch.randn(1)]
    torch.testing.assert_close(grad_norm.total_norm(own), torch.nn.utils.get_total_norm(own))
    own[1][0] = torch.inf
    assert not torch.isfinite(grad_norm.total_norm(own))
