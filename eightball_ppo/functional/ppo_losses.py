"""What TRL's PPO loop computes for one-step episodes, as pure functions of tensors.

TRL does not use this file; `examples/ppo_loop.py` and the tests do. It is the independent implementation that the tests
compare TRL with, and the place to read what happens between a sampled answer and a gradient. Letters: B episodes of the
(mini)batch, K labels.

Matched details of trl 1.12.0 (`trl/experimental/ppo/ppo_trainer.py`), with the paper each comes from:
- the KL penalty is the k1 estimate inside the reward (Ziegler et al. 2019, arXiv:1909.08593, equation 2);
- with one action per episode GAE (Schulman et al. 2016, arXiv:1506.02438) is `reward - value` for any gamma and lambda;
- advantages are always whitened over the process's batch, with Bessel's correction and 1e-8 under the root;
- clipped policy and value losses (Schulman et al. 2017, arXiv:1707.06347, equation 7 and its value counterpart);
- approx-KL is the k2 estimate `0.5 (new_logp - logp)^2`.
"""

from typing import NamedTuple

import torch
from torch import Tensor

TRL_TEMPERATURE_SHIFT = 1e-7  # TRL divides logits by `temperature + 1e-7`, also at temperature 1


class PPOLosses(NamedTuple):
    """The minimised losses and the diagnostics of one minibatch, all scalars."""

    policy_loss: Tensor
    value_loss: Tensor
    policy_clipfrac: Tensor
    value_clipfrac: Tensor
    approx_kl: Tensor
    ratio: Tensor


def action_logp_B(logits_BK: Tensor, action_B: Tensor) -> Tensor:
    """Log-probability of each sampled label under TRL's temperature of `1 + 1e-7`; nats, shape [B]."""
    logp_BK = torch.log_softmax(logits_BK / (1.0 + TRL_TEMPERATURE_SHIFT), dim=-1)
    return logp_BK.gather(-1, action_B.unsqueeze(-1)).squeeze(-1)


def kl_k1_B(logp_B: Tensor, ref_logp_B: Tensor) -> Tensor:
    """The k1 estimate of KL(policy || reference), `logp - ref_logp`: unbiased, negative for some samples; shape [B]."""
    return logp_B - ref_logp_B


def reward_B(score_B: Tensor, kl_B: Tensor, beta: float) -> Tensor:
    """The reward that PPO maximises, `score - beta * kl`; shape [B]."""
    return score_B - beta * kl_B


def advantage_B(reward_B: Tensor, value_B: Tensor) -> Tensor:
    """GAE of a one-step episode, `reward - value`, before whitening; shape [B]."""
    return reward_B - value_B


def whiten_B(values_B: Tensor) -> Tensor:
    """Values with mean 0 and unbiased variance 1 (1e-8 under the root), of at least 2 values; shape [B]."""
    return (values_B - values_B.mean()) * torch.rsqrt(values_B.var(unbiased=True) + 1e-8)


def ppo_losses(
    new_logp_B: Tensor,
    logp_B: Tensor,
    advantage_B: Tensor,
    new_value_B: Tensor,
    value_B: Tensor,
    return_B: Tensor,
    cliprange: float,
    cliprange_value: float,
) -> PPOLosses:
    """Clipped surrogate and clipped value loss of one minibatch; TRL minimises `policy_loss + vf_coef * value_loss`.

    Args:
        new_logp_B: Log-probabilities of the actions now, with gradients; nats.
        logp_B: Log-probabilities of the actions when they were sampled; nats.
        advantage_B: Whitened advantages.
        new_value_B: Values now, with gradients.
        value_B: Values when the actions were sampled.
        return_B: Returns, `advantage + value` before whitening.
        cliprange: Clip range of the probability ratio around 1.
        cliprange_value: Clip range of a value around its old one.
    """
    log_ratio_B = new_logp_B - logp_B
    ratio_B = log_ratio_B.exp()
    unclipped_B = -advantage_B * ratio_B
    clipped_B = -advantage_B * ratio_B.clamp(1.0 - cliprange, 1.0 + cliprange)

    value_clipped_B = new_value_B.clamp(value_B - cliprange_value, value_B + cliprange_value)
    value_error_B = (new_value_B - return_B).square()
    value_error_clipped_B = (value_clipped_B - return_B).square()

    return PPOLosses(
        policy_loss=torch.max(unclipped_B, clipped_B).mean(),
        value_loss=0.5 * torch.max(value_error_B, value_error_clipped_B).mean(),
        policy_clipfrac=(clipped_B > unclipped_B).to(logp_B.dtype).mean(),
        value_clipfrac=(value_error_clipped_B > value_error_B).to(logp_B.dtype).mean(),
        approx_kl=0.5 * log_ratio_B.square().mean(),
        ratio=ratio_B.mean(),
    )
