"""PPO ends near the closed-form optimum on problems whose optimum is known."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from eightball_ppo.functional import objective
from eightball_ppo.methods import ppo
from eightball_ppo.models.loading import predict_logits_NK


def regret_and_distance(model: Any, table: Any, score_NK: torch.Tensor, beta: float, tmp_path: Path, **recipe: Any):
    """(1 - optimum fraction, mean total variation to the optimum) after training."""
    settings = tiny.config(kl_coef=beta, **recipe)
    ref_logp_NK = predict_logits_NK(model, table).log_softmax(-1)
    trainer, models = tiny.trainer(settings, model, table, score_NK, tmp_path)
    ppo.run_trainer(trainer, settings)
    logp_NK = predict_logits_NK(models.policy.by_row.classifier, table).log_softmax(-1)
    optimum_NK = objective.optimum_logp_NK(ref_logp_NK, score_NK, beta)
    fraction = objective.optimum_fraction(logp_NK, ref_logp_NK, score_NK, beta)
    assert fraction is not None
    return 1 - fraction, (0.5 * (logp_NK.exp() - optimum_NK.exp()).abs().sum(1)).mean().item()


def test_a_table_of_logits_reaches_the_optimum(tmp_path: Path) -> None:
    regret, distance = regret_and_distance(
        tiny.Tabular(torch.zeros(64, 3)),
        tiny.row_tokens(64),
        tiny.scores(64),
        0.5,
        tmp_path,
        repeats_per_epoch=8,
        total_episodes=51_200,
        learning_rate=0.03,
    )
    assert regret < 0.005 and distance < 0.01


@pytest.mark.parametrize(("labels", "bound"), [(2, 0.02), (5, 0.08)])
def test_the_small_classifier_gets_near_it(tmp_path: Path, labels: int, bound: float) -> None:
    """Seeds 0 to 2 end at 0.0004 to 0.001 with 2 labels, at 0.036 to 0.044 with 5 (the network is 8 wide)."""
    regret, _ = regret_and_distance(
        tiny.classifier(labels),
        tiny.tokens(32),
        tiny.scores(32, labels),
        0.5,
        tmp_path,
        repeats_per_epoch=16,
        num_mini_batches=4,
        total_episodes=40_960,
        learning_rate=0.02,
        value_learning_rate=0.004,
    )
    assert regret < bound


def test_a_high_price_keeps_the_reference(tmp_path: Path) -> None:
    model, table, score_NK = tiny.Tabular(tiny.scores(32, seed=5)), tiny.row_tokens(32), tiny.scores(32)
    settings = tiny.config(kl_coef=100.0, repeats_per_epoch=16, total_episodes=10_240, learning_rate=0.003)
    trainer, models = tiny.trainer(settings, model, table, score_NK, tmp_path)
    ppo.run_trainer(trainer, settings)
    logp_NK = predict_logits_NK(models.policy.by_row.classifier, table).log_softmax(-1)
    ref_logp_NK = predict_logits_NK(model, table).log_softmax(-1)
    assert objective.kl_exact_N(logp_NK, ref_logp_NK).mean() < 0.01
