"""The frontier, wins and best of n: closed forms against brute force."""

import itertools
import math

import pytest
import torch
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from torch import Tensor

from eightball_ppo.functional import objective

SETTINGS = settings(max_examples=60, deadline=None)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor]:
    """(policy log-probs, reference log-probs, scores), N 1..4, K 2..6: references down to e^-60, ties in scores."""
    n, k = draw(st.integers(1, 4)), draw(st.integers(2, 6))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    policy, reference, score_NK = (torch.randn(n, k, generator=generator, dtype=torch.float64) for _ in range(3))
    policy *= draw(st.sampled_from([0.1, 1.0, 5.0]))
    reference *= draw(st.sampled_from([0.0, 0.5, 2.0, 20.0]))
    if draw(st.booleans()):
        score_NK = score_NK.round()
    return policy.log_softmax(-1), reference.log_softmax(-1), score_NK * draw(st.sampled_from([0.01, 1.0, 100.0]))


def logs(probability_NK: list[list[float]]) -> Tensor:
    return torch.tensor(probability_NK, dtype=torch.float64).log()


def unit(score_NK: Tensor) -> float:
    """The largest range of one question's scores."""
    return (score_NK.max(-1).values - score_NK.min(-1).values).max().item()


def kl(logp_NK: Tensor, ref_logp_NK: Tensor) -> float:
    return objective.kl_exact_N(logp_NK, ref_logp_NK).mean().item()


def score(logp_NK: Tensor, score_NK: Tensor) -> float:
    return objective.expected_score_N(logp_NK, score_NK).mean().item()


def distance(logp_NK: Tensor, ref_logp_NK: Tensor, score_NK: Tensor) -> float:
    return objective.frontier_distance_N(logp_NK, ref_logp_NK, score_NK).mean().item()


@given(problems())
@SETTINGS
def test_the_optimum_at_the_frontier_beta_has_the_given_kl(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    logp_NK, ref_logp_NK, score_NK = problem
    asked = kl(logp_NK, ref_logp_NK)
    price = objective.frontier_beta(ref_logp_NK, score_NK, asked)
    lowest = objective.MIN_BETA * unit(score_NK)
    if price == 0:
        assert unit(score_NK) == 0 or kl(objective.optimum_logp_NK(ref_logp_NK, score_NK, lowest), ref_logp_NK) <= asked
    else:
        assert price >= lowest * (1 - 1e-9)
        optimum_NK = objective.optimum_logp_NK(ref_logp_NK, score_NK, price)
        assert kl(optimum_NK, ref_logp_NK) == pytest.approx(asked, rel=1e-6, abs=1e-9)


def test_frontier_beta_and_distance_by_hand() -> None:
    """Uniform reference, scores 1 and 0: the optimum of beta 1 is e / (e + 1), and 0.9 | 0.1 is that of 1 / log 9."""
    ref_logp_NK, score_NK = logs([[0.5, 0.5]]), torch.tensor([[1.0, 0.0]]).double()
    optimum_NK = objective.optimum_logp_NK(ref_logp_NK, score_NK, 1.0)
    assert objective.frontier_beta(ref_logp_NK, score_NK, kl(optimum_NK, ref_logp_NK)) == pytest.approx(1)
    wrong_NK = logs([[0.1, 0.9]])  # as far away as 0.9 | 0.1, which scores 0.8 more
    assert objective.frontier_beta(ref_logp_NK, score_NK, kl(wrong_NK, ref_logp_NK)) == pytest.approx(1 / math.log(9))
    assert distance(wrong_NK, ref_logp_NK, score_NK) == pytest.approx(0.8)


@given(problems())
@SETTINGS
def test_no_policy_lies_above_the_frontier(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    """No question's distance is negative, and no policy of a random family with as much KL or less scores more."""
    logp_NK, ref_logp_NK, score_NK = problem
    distance_N = objective.frontier_distance_N(logp_NK, ref_logp_NK, score_NK)
    rounding = 1e-9 * max(1.0, score_NK.abs().max().item())
    assert (distance_N >= -rounding).all()
    ceiling, most = score(logp_NK, score_NK) + distance_N.mean().item(), kl(logp_NK, ref_logp_NK)
    direction_FNK = torch.randn(40, *logp_NK.shape, generator=torch.Generator().manual_seed(1)).double()
    direction_FNK[:20] += 3 * score_NK / max(unit(score_NK), 1e-12)
    for share in (0.01, 0.1, 0.5, 2.0):
        family_FNK = (ref_logp_NK + share * direction_FNK).log_softmax(-1)
        kl_F = (family_FNK.exp() * (family_FNK - ref_logp_NK)).sum(-1).mean(-1)
        score_F = (family_FNK.exp() * score_NK).sum(-1).mean(-1)
        assert (score_F[kl_F <= most] <= ceiling + rounding).all()


@given(problems(), st.floats(-5, 9))
@SETTINGS
def test_optima_of_any_beta_and_the_reference_have_distance_0(
    problem: tuple[Tensor, Tensor, Tensor], log_beta: float
) -> None:
    _, ref_logp_NK, score_NK = problem
    assert distance(ref_logp_NK, ref_logp_NK, score_NK) == 0
    assume(unit(score_NK) > 0)
    beta = unit(score_NK) * 10**log_beta
    optimum_NK = objective.optimum_logp_NK(ref_logp_NK, score_NK, beta)
    # below the lowest price that is tried, the frontier counts as its end, the best label
    end = objective.MIN_BETA * unit(score_NK) * (1 - ref_logp_NK.min().item()) if log_beta < -3.9 else 0
    assert distance(optimum_NK, ref_logp_NK, score_NK) == pytest.approx(0, abs=1e-7 * unit(score_NK) + end)


@given(problems())
@SETTINGS
def test_win_and_tie_rates_by_enumeration(problem: tuple[Tensor, Tensor, Tensor]) -> None:
    logp_NK, ref_logp_NK, score_NK = problem
    win_N, tie_N = objective.win_and_tie_N(logp_NK, ref_logp_NK, score_NK)
    for n in range(len(score_NK)):
        win = tie = 0.0
        for mine, its in itertools.product(range(score_NK.shape[1]), repeat=2):
            p = (logp_NK[n, mine] + ref_logp_NK[n, its]).exp().item()
            win += p * (score_NK[n, mine] > score_NK[n, its]).item()
            tie += p * (score_NK[n, mine] == score_NK[n, its]).item()
        assert win_N[n].item() == pytest.approx(win, abs=1e-12) and tie_N[n].item() == pytest.approx(tie, abs=1e-12)
    ref_win_N, ref_tie_N = objective.win_and_tie_N(ref_logp_NK, ref_logp_NK, score_NK)
    torch.testing.assert_close(ref_win_N + ref_tie_N / 2, torch.full_like(ref_win_N, 0.5))


def enumerated_best_of(ref_logp_K: Tensor, score_K: Tensor, n: int) -> list[float]:
    """By all K^n draws: the best-scored ones of a draw are given equally often."""
    p_K, s_K = ref_logp_K.exp().tolist(), score_K.tolist()
    answer_K = [0.0] * len(s_K)
    for draw in itertools.product(range(len(s_K)), repeat=n):
        best = [label for label in draw if s_K[label] == max(s_K[other] for other in draw)]
        for label in best:
            answer_K[label] += math.prod(p_K[label] for label in draw) / len(best)
    return answer_K


@given(problems(), st.integers(1, 4))
@settings(max_examples=40, deadline=None)
def test_best_of_n_by_enumeration_of_all_draws(problem: tuple[Tensor, Tensor, Tensor], n: int) -> None:
    _, ref_logp_NK, score_NK = problem
    assume(score_NK.shape[1] ** n <= 700)
    logp_NK = objective.best_of_n_logp_NK(ref_logp_NK, score_NK, n)
    for row in range(len(score_NK)):
        expected_K = enumerated_best_of(ref_logp_NK[row], score_NK[row], n)
        assert logp_NK[row].exp().tolist() == pytest.approx(expected_K, rel=1e-9, abs=1e-300)


@given(problems(), st.sampled_from([1, 2, 7, 128, 1024]))
@example((torch.zeros(1, 2), logs([[0.998, 0.002]]), torch.tensor([[1.0, 0.0]])), 1024)
@SETTINGS
def test_best_of_n_is_a_policy_within_the_known_kl_bound(problem: tuple[Tensor, Tensor, Tensor], n: int) -> None:
    """Finite, n = 1 the reference, its KL within the known bound log n - (n - 1) / n (and 0 where all scores tie)."""
    _, ref_logp_NK, score_NK = problem
    logp_NK = objective.best_of_n_logp_NK(ref_logp_NK, score_NK, n)
    assert torch.isfinite(logp_NK).all() and torch.isfinite(logp_NK.float()).all()
    torch.testing.assert_close(logp_NK.logsumexp(-1), torch.zeros(len(logp_NK)).double(), atol=1e-9, rtol=0)
    kl_N = objective.kl_exact_N(logp_NK, ref_logp_NK)
    assert (kl_N >= -1e-9).all() and (kl_N <= math.log(n) - (n - 1) / n + 1e-9).all()
    if n == 1:
        torch.testing.assert_close(logp_NK, ref_logp_NK)
    gain_N = objective.expected_score_N(logp_NK, score_NK) - objective.expected_score_N(ref_logp_NK, score_NK)
    assert (gain_N >= -1e-9 * (1 + score_NK.abs().max())).all()
    tied_NK = objective.best_of_n_logp_NK(ref_logp_NK, torch.ones_like(score_NK), n)
    torch.testing.assert_close(tied_NK, ref_logp_NK, atol=1e-9, rtol=1e-9)
