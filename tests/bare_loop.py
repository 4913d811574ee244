"""A bare PyTorch PPO loop made of `ppo_math` that replays what TRL sampled: the reference for TRL's weights."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.functional import ppo_losses
from eightball_ppo.trl_adapters.build import TRLModels


@dataclass
class Recording:
    """What chance decided in a TRL run: the questions and answers of every update, the order of every epoch."""

    rows: list[Tensor] = field(default_factory=list)
    actions: list[Tensor] = field(default_factory=list)
    permutations: list[Any] = field(default_factory=list)


def record(models: TRLModels, monkeypatch: pytest.MonkeyPatch) -> Recording:
    """Start recording every rollout of `models.policy` and every permutation of numpy."""
    recording = Recording()
    generate, permutation = models.policy.generate, np.random.permutation

    def recorded_generate(input_ids: Tensor, **kwargs: Any) -> Any:
        output = generate(input_ids, **kwargs)
        recording.rows.append(models.ids.rows(output.sequences))
        recording.actions.append(models.ids.actions(output.sequences))
        return output

    def recorded_permutation(n: int) -> Any:
        recording.permutations.append(permutation(n))
        return recording.permutations[-1]

    monkeypatch.setattr(models.policy, "generate", recorded_generate)
    monkeypatch.setattr(np.random, "permutation", recorded_permutation)
    return recording


def replay(
    config: PPOConfig,
    policy: nn.Module,
    reference: nn.Module,
    value: nn.Module,
    score_NK: Tensor,
    recording: Recording,
) -> list[dict[str, float]]:
    """Train `policy` and `value` in place as TRL trained its own; returns the metrics of each update.

    `policy(rows_B)` and `reference(rows_B)` give logits [B, K]; `value(rows_B)` gives [B].
    """
    groups: list[dict[str, Any]] = [
        {"params": [p for p in policy.parameters() if p.requires_grad], "lr": config.learning_rate},
        {"params": [p for p in value.parameters() if p.requires_grad], "lr": config.value_learning_rate},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, config.adam_beta2), weight_decay=config.weight_decay, fused=True)
    updates = len(recording.rows)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda done: 1 - done / updates)
    permutations = iter(recording.permutations)
    metrics = []
    for row_B, action_B in zip(recording.rows, recording.actions, strict=True):
        with torch.no_grad():
            logp_B = ppo_losses.action_logp_B(policy(row_B), action_B)
            kl_B = ppo_losses.kl_k1_B(logp_B, ppo_losses.action_logp_B(reference(row_B), action_B))
            value_B = value(row_B)
            reward_B = ppo_losses.reward_B(score_NK[row_B, action_B], kl_B, config.kl_coef)
            advantage_B = ppo_losses.advantage_B(reward_B, value_B)
            return_B = advantage_B + value_B
            advantage_B = ppo_losses.whiten_B(advantage_B)
        losses = []
        for _ in range(config.num_ppo_epochs):
            order = torch.as_tensor(next(permutations))
            for at in order.chunk(config.num_mini_batches):
                new_logp_B = ppo_losses.action_logp_B(policy(row_B[at]), action_B[at])
                loss = ppo_losses.ppo_losses(
                    new_logp_B,
                    logp_B[at],
                    advantage_B[at],
                    value(row_B[at]),
                    value_B[at],
                    return_B[at],
                    config.cliprange,
                    config.cliprange_value,
                )
                optimizer.zero_grad()
                (loss.policy_loss + config.vf_coef * loss.value_loss).backward()
                optimizer.step()
                losses.append(loss)
        scheduler.step()
        mean = {name: torch.stack([getattr(x, name) for x in losses]).mean().item() for name in losses[0]._fields}
        metrics.append({**mean, "kl": kl_B.mean().item(), "reward": reward_B.mean().item()})
    return metrics
