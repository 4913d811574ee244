"""PPO ends near the closed-form optimum on problems whose optimum is known."""

from pathlib import Path
from typing import Any

import pytest
import torch

import tiny
from eightball_ppo.functional import objective
from eightball_ppo.methods import ppo
from eightball_ppo.models.loading import predict_logits_NK


def train(model: Any, table: Any, score_NK: torch.Tensor, tmp_path: Path, **options: Any) -> tuple[Any, Any]:
    """Log-probabilities [N, K] of the policy and of its reference after PPO."""
    settings = tiny.config(**options)
    trainer, models = tiny.trainer(settings, model, table, score_NK, tmp_path)
    ppo.run_trainer(trainer, settings)
    classifiers = (models.policy.backbone.classifier, model)
    policy_NK, reference_NK = (predict_logits_NK(classifier, table).log_softmax(-1) for classifier in classifiers)
    return policy_NK, reference_NK


def test_table_of_logits_reaches_the_optimum(tmp_path: Path) -> None:
    score_NK, options = tiny.scores(64), {"repeats_per_epoch": 8, "total_episodes": 40_960, "learning_rate": 0.03}
    logp_NK, ref_logp_NK = train(tiny.Tabular(torch.zeros(64, 3)), tiny.row_tokens(64), score_NK, tmp_path, **options)
    fraction = objective.optimum_fraction(logp_NK, ref_logp_NK, score_NK, 0.5)
    optimum_NK = objective.optimum_logp_NK(ref_logp_NK, score_NK, 0.5)
    distance = (0.5 * (logp_NK.exp() - optimum_NK.exp()).abs().sum(1)).mean().item()
    assert fraction is not None and fraction > 0.995 and distance < 0.01


def test_high_kl_coef_keeps_the_reference(tmp_path: Path) -> None:
    model, score_NK = tiny.Tabular(tiny.scores(32, seed=5)), tiny.scores(32)
    options = {"kl_coef": 100.0, "repeats_per_epoch": 16, "total_episodes": 10_240, "learning_rate": 0.003}
    logp_NK, ref_logp_NK = train(model, tiny.row_tokens(32), score_NK, tmp_path, **options)
    assert not torch.equal(logp_NK, ref_logp_NK)
    assert objective.kl_exact_N(logp_NK, ref_logp_NK).mean() < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(("labels", "max_regret"), [(2, 0.02), (5, 0.08)])
def test_small_classifier_nears_the_optimum(tmp_path: Path, labels: int, max_regret: float) -> None:
    """Seeds 0 to 2 end at 0.0004 to 0.001 with 2 labels, at 0.036 to 0.044 with 5 (the network is 8 wide)."""
    model, score_NK = tiny.classifier(labels), tiny.scores(32, labels)
    options = {"repeats_per_epoch": 16, "num_mini_batches": 4, "total_episodes": 40_960, "learning_rate": 0.02}
    logp_NK, ref_logp_NK = train(model, tiny.tokens(32), score_NK, tmp_path, value_learning_rate=0.004, **options)
    fraction = objective.optimum_fraction(logp_NK, ref_logp_NK, score_NK, 0.5)
    assert fraction is not None and 1 - fraction < max_regret
