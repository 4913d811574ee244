"""Each function of PPO against numbers derived by hand; `test_trl_parity.py` compares them with TRL."""

import math

import pytest
import torch

from eightball_ppo.functional import ppo_losses


def test_kl_penalty_is_subtracted_from_the_score() -> None:
    kl_B = ppo_losses.kl_k1_B(torch.tensor([-1.0, -2.0]), torch.tensor([-1.5, -1.0]))
    assert kl_B.tolist() == [0.5, -1.0]  # a single sample may be negative
    assert ppo_losses.reward_B(torch.tensor([2.0, 1.0]), kl_B, 0.1).tolist() == pytest.approx([1.95, 1.1])
    assert ppo_losses.advantage_B(torch.tensor([1.95]), torch.tensor([0.45])).item() == pytest.approx(1.5)


def test_action_logp_and_whitening() -> None:
    logits_BK = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.6, 0.3]]).double().log()
    logp_B = ppo_losses.action_logp_B(logits_BK, torch.tensor([0, 2]))
    assert logp_B.exp().tolist() == pytest.approx([0.5, 0.3], abs=1e-6)
    # mean 2, unbiased variance (1 + 0 + 1) / 2 = 1
    assert ppo_losses.whiten_B(torch.tensor([1.0, 2.0, 3.0])).tolist() == pytest.approx([-1, 0, 1], abs=1e-6)


def test_losses_equal_hand_computed_numbers() -> None:
    """
    ratio       advantage   unclipped   clipped at 0.2     max
    e^0   = 1      1           -1          -1               -1
    e^0.5 = 1.65   1           -1.65       -1.2             -1.2    clipped
    e^0.5 = 1.65  -1            1.65        1.2              1.65
    """
    losses = ppo_losses.ppo_losses(
        new_logp_B=torch.tensor([0.0, 0.5, 0.5]),
        logp_B=torch.zeros(3),
        advantage_B=torch.tensor([1.0, 1.0, -1.0]),
        new_value_B=torch.tensor([0.0, 1.0, 0.5]),
        value_B=torch.zeros(3),
        return_B=torch.tensor([1.0, 1.0, 0.0]),
        cliprange=0.2,
        cliprange_value=0.4,
    )
    assert losses.policy_loss.item() == pytest.approx((-1 - 1.2 + math.exp(0.5)) / 3)
    assert losses.policy_clipfrac.item() == pytest.approx(1 / 3)
    # value errors 1, 0, 0.25; clipped to 0.4 of the old value: 1, 0.36, 0.16; the larger: 1, 0.36, 0.25
    assert losses.value_loss.item() == pytest.approx(0.5 * (1 + 0.36 + 0.25) / 3)
    assert losses.value_clipfrac.item() == pytest.approx(1 / 3)
    assert losses.approx_kl.item() == pytest.approx(0.5 * (0 + 0.25 + 0.25) / 3)
    assert losses.ratio.item() == pytest.approx((1 + 2 * math.exp(0.5)) / 3)
