"""Exact sums over K labels against autograd and other policies."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eightball_ppo.functional import objective


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor, float]:
    """(policy log-probs, reference log-probs, scores, beta) with N in 1..4 and K in 2..50, float64."""
    n, k = draw(st.integers(1, 4)), draw(st.integers(2, 6) | st.integers(7, 50))
    seed = draw(st.integers(0, 2**31))
    spread = draw(st.floats(0.1, 5))
    generator = torch.Generator().manual_seed(seed)
    policy, reference, scores = (spread * torch.randn(n, k, generator=generator, dtype=torch.float64) for _ in range(3))
    return policy.log_softmax(-1), reference.log_softmax(-1), scores, draw(st.floats(0.05, 5))


@given(problems())
def test_kl_is_not_negative_and_zero_at_the_reference(problem: tuple[Tensor, Tensor, Tensor, float]) -> None:
    logp_NK, ref_logp_NK, _, _ = problem
    assert (objective.kl_exact_N(logp_NK, ref_logp_NK) >= -1e-12).all()
    assert torch.equal(objective.kl_exact_N(ref_logp_NK, ref_logp_NK), torch.zeros(len(ref_logp_NK)).double())


@given(problems())
def test_optimum_beats_any_policy_and_reaches_its_value(problem: tuple[Tensor, Tensor, Tensor, float]) -> None:
    logp_NK, ref_logp_NK, score_NK, beta = problem
    best_N = objective.optimum_objective_N(ref_logp_NK, score_NK, beta)
    optimum_NK = objective.optimum_logp_NK(ref_logp_NK, score_NK, beta)
    torch.testing.assert_close(objective.objective_N(optimum_NK, ref_logp_NK, score_NK, beta), best_N)
    assert (objective.objective_N(logp_NK, ref_logp_NK, score_NK, beta) <= best_N + 1e-9).all()


@given(problems())
def test_regret_is_beta_times_kl_to_the_optimum(problem: tuple[Tensor, Tensor, Tensor, float]) -> None:
    logp_NK, ref_logp_NK, score_NK, beta = problem
    regret_N = objective.optimum_objective_N(ref_logp_NK, score_NK, beta) - objective.objective_N(
        logp_NK, ref_logp_NK, score_NK, beta
    )
    kl_N = objective.kl_exact_N(logp_NK, objective.optimum_logp_NK(ref_logp_NK, score_NK, beta))
    torch.testing.assert_close(regret_N, beta * kl_N, atol=1e-8, rtol=1e-6)


@given(problems())
@settings(deadline=None)
def test_the_closed_form_gradient_equals_autograd(problem: tuple[Tensor, Tensor, Tensor, float]) -> None:
    logp_NK, ref_logp_NK, score_NK, beta = problem
    logits_NK = logp_NK.clone().requires_grad_()
    objective.objective_N(logits_NK.log_softmax(-1), ref_logp_NK, score_NK, beta).mean().backward()
    closed_NK = objective.objective_gradient_NK(logp_NK, ref_logp_NK, score_NK, beta)
    torch.testing.assert_close(closed_NK, logits_NK.grad, atol=1e-9, rtol=1e-7)


@given(problems())
def test_the_optimum_fraction_is_at_most_1(problem: tuple[Tensor, Tensor, Tensor, float]) -> None:
    logp_NK, ref_logp_NK, score_NK, beta = problem
    fraction = objective.optimum_fraction(logp_NK, ref_logp_NK, score_NK, beta)
    assert fraction is None or fraction <= 1 + 1e-9
    optimum_NK = objective.optimum_logp_NK(ref_logp_NK, score_NK, beta)
    best = objective.optimum_fraction(optimum_NK, ref_logp_NK, score_NK, beta)
    assert best is None or best == pytest.approx(1, abs=1e-6)


def test_the_optimum_fraction_by_hand() -> None:
    """Uniform reference over two labels, scores 1 and 0, beta 1: J* = log((e + 1) / 2), J(ref) = 1/2."""
    ref_logp_NK, score_NK = torch.tensor([[0.5, 0.5]]).double().log(), torch.tensor([[1.0, 0.0]]).double()
    best = objective.optimum_objective_N(ref_logp_NK, score_NK, 1.0)
    assert best.item() == pytest.approx(0.6201145, abs=1e-6)
    assert objective.optimum_fraction(ref_logp_NK, ref_logp_NK, score_NK, 1.0) == 0
    optimum_NK = objective.optimum_logp_NK(ref_logp_NK, score_NK, 1.0)
    assert objective.optimum_fraction(optimum_NK, ref_logp_NK, score_NK, 1.0) == pytest.approx(1)
    assert optimum_NK.exp()[0, 0].item() == pytest.approx(0.7310586, abs=1e-6)


def test_beta_zero_and_equal_scores() -> None:
    ref_logp_NK, score_NK = torch.tensor([[0.5, 0.5]]).log(), torch.tensor([[1.0, 0.0]])
    assert objective.optimum_objective_N(ref_logp_NK, score_NK, 0.0).item() == 1
    assert objective.optimum_fraction(ref_logp_NK, ref_logp_NK, torch.ones(1, 2), 0.5) is None
    with pytest.raises(ValueError, match="beta must be > 0"):
        objective.optimum_logp_NK(ref_logp_NK, score_NK, 0.0)
