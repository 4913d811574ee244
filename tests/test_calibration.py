"""Proper scores, calibration error and risk-coverage against definitions and other libraries; equal KL."""

import numpy as np
import pytest
import torch
from sklearn.metrics import brier_score_loss, log_loss

from eightball_ppo.functional import calibration as c
from eightball_ppo.functional import objective

Pair = tuple[torch.Tensor, torch.Tensor]


def classifier(N: int = 400, K: int = 3, seed: int = 0) -> Pair:
    """Log-probabilities [N, K] of a calibrated classifier and labels [N] drawn from them."""
    generator = torch.Generator().manual_seed(seed)
    logp_NK = torch.randn(N, K, generator=generator).double().log_softmax(-1)
    return logp_NK, torch.multinomial(logp_NK.exp(), 1, generator=generator)[:, 0]


def test_brier_score_and_likelihood_are_those_of_scikit_learn() -> None:
    logp_NK, label_N = classifier()
    p_NK, labels = logp_NK.exp().numpy(), [0, 1, 2]
    assert c.nll_N(logp_NK, label_N).mean().item() == pytest.approx(log_loss(label_N, p_NK, labels=labels))
    mine, theirs = c.brier_N(logp_NK, label_N).mean().item(), brier_score_loss(label_N, p_NK, labels=labels)
    assert mine == pytest.approx(theirs)
    certain_NK = torch.tensor([[0.0, -torch.inf], [0.0, -torch.inf]])
    assert c.brier_N(certain_NK, torch.tensor([0, 1])).tolist() == [0.0, 2.0]


def test_ece_by_hand_with_bins_of_equal_mass() -> None:
    """30 questions, two a bin; the confidences 0.50 and 0.52 form the first bin, of which one is right."""
    confidence_N = 0.5 + 0.02 * np.arange(30) / 2
    correct_N = np.ones(30)
    correct_N[0] = 0
    gaps = [1 - confidence_N[2 * b : 2 * b + 2].mean() for b in range(15)]
    gaps[0] = abs(0.5 - confidence_N[:2].mean())
    assert c.ece_N(confidence_N, correct_N).mean() == pytest.approx(np.mean(gaps))
    bins = c.reliability_bins(confidence_N, correct_N)
    assert [bin_["share"] for bin_ in bins] == pytest.approx([1 / 15] * 15) and bins[0]["accuracy"] == 0.5
    same = c.ece_N(np.full(30, 0.9), correct_N)  # equal confidences share a bin, whatever their order
    assert same.mean() == pytest.approx(29 / 30 - 0.9)


def test_ece_is_near_zero_for_a_calibrated_and_large_for_an_overconfident_classifier() -> None:
    logp_NK, label_N = classifier(50_000)
    assert c.ece_N(*c.confidence_and_correct(logp_NK, label_N)).mean() < 0.01
    assert c.ece_N(*c.confidence_and_correct((5 * logp_NK).log_softmax(-1), label_N)).mean() > 0.2


def test_the_area_under_risk_coverage_is_the_mean_of_its_curve_in_any_order() -> None:
    confidence_N, correct_N = c.confidence_and_correct(*classifier(60))
    order_N = np.argsort(-confidence_N)
    risks = [1 - correct_N[order_N[:n]].mean() for n in range(1, 61)]
    coverage_N, risk_N = c.risk_coverage(confidence_N, correct_N)
    assert risk_N == pytest.approx(risks) and coverage_N[-1] == 1
    assert c.aurc_N(confidence_N, correct_N).mean() == pytest.approx(np.mean(risks))
    mixed = np.random.default_rng(0).permutation(60)
    ties_N = np.round(confidence_N, 1)
    moved = c.aurc_N(ties_N[mixed], correct_N[mixed]).mean()
    assert moved == pytest.approx(c.aurc_N(ties_N, correct_N).mean())
    assert c.aurc_N(np.full(60, 0.5), correct_N).mean() == pytest.approx(1 - correct_N.mean())


def test_the_values_of_the_area_spread_as_it_does_over_samples() -> None:
    """The delta method's standard error against that of fresh samples."""
    found = [c.aurc_N(*c.confidence_and_correct(*classifier(300, seed=seed))) for seed in range(200)]
    spread = np.std([value_N.mean() for value_N in found])
    assert np.mean([value_N.std() / 300**0.5 for value_N in found]) == pytest.approx(spread, rel=0.15)


def test_temperature_recovers_the_one_that_was_applied_to_labels_and_to_probabilities() -> None:
    logp_NK, label_N = classifier(20_000)
    assert c.fit_temperature(3 * logp_NK, label_N) == pytest.approx(3, abs=0.15)
    assert c.fit_temperature(3 * logp_NK, logp_NK.exp()) == pytest.approx(3, abs=1e-3)
    assert c.fit_temperature(torch.eye(3), torch.arange(3)) == pytest.approx(1, abs=1e-3)  # without an error


def test_a_mixture_with_the_reference_changes_nothing_at_a_kl_that_both_reach() -> None:
    (logp_NK, _), (ref_logp_NK, _) = classifier(seed=1), classifier(seed=2)
    mixed_NK = objective.geometric_path_logp_NK(logp_NK, ref_logp_NK, 0.4)
    reached = objective.kl_exact_N(mixed_NK, ref_logp_NK).mean().item()
    for kl in (reached, reached / 3):
        read = [objective.path_logp_at_kl_NK(policy, ref_logp_NK, kl) for policy in (logp_NK, mixed_NK)]
        assert torch.allclose(read[0], read[1], atol=1e-9)
        assert objective.kl_exact_N(read[0], ref_logp_NK).mean().item() == pytest.approx(kl, rel=1e-9)
    ends = [objective.path_logp_at_kl_NK(logp_NK, ref_logp_NK, kl) for kl in (0.0, 99.0)]
    assert torch.allclose(ends[0], ref_logp_NK) and torch.allclose(ends[1], logp_NK)
