"""Exact quantities of a policy over K labels: with a small label set every expectation is a sum.

Letters: N questions, K labels. All log-probabilities are in nats. `beta` is TRL's `kl_coef`.

    J(pi)   = E_q[ sum_a pi(a|q) s(q,a) - beta KL(pi(.|q) || ref(.|q)) ]
    pi*     = ref exp(s / beta) / Z,      J* = E_q[ beta log Z(q) ]

The optimum is the standard one of KL-regularised reward maximisation (Ziegler et al. 2019, arXiv:1909.08593;
Rafailov et al. 2023, arXiv:2305.18290, equation 4).
"""

import math
from collections.abc import Callable

import torch
from scipy.optimize import brentq
from torch import Tensor, nn

LOWEST_BETA, HIGHEST_BETA = (
    1e-4,
    1e8,
)  # prices of KL between which the frontier is searched, in units of the scores' range


def expected_score_N(logp_NK: Tensor, score_NK: Tensor) -> Tensor:
    """Expected score of each question, `sum_a pi(a) s(a)`; shape [N]."""
    return (logp_NK.exp() * score_NK).sum(-1)


def kl_exact_N(logp_NK: Tensor, ref_logp_NK: Tensor) -> Tensor:
    """KL(policy || reference) of each question in nats; shape [N], never below 0 but for rounding."""
    return (logp_NK.exp() * (logp_NK - ref_logp_NK)).sum(-1)


def entropy_N(logp_NK: Tensor) -> Tensor:
    """Entropy of each question's answer distribution in nats; shape [N], between 0 and log K."""
    return -(logp_NK.exp() * logp_NK).sum(-1)


def objective_N(logp_NK: Tensor, ref_logp_NK: Tensor, score_NK: Tensor, beta: float) -> Tensor:
    """What PPO maximises, per question: expected score minus `beta` times the exact KL; shape [N]."""
    return expected_score_N(logp_NK, score_NK) - beta * kl_exact_N(logp_NK, ref_logp_NK)


def optimum_logp_NK(ref_logp_NK: Tensor, score_NK: Tensor, beta: float) -> Tensor:
    """Log-probabilities of the policy that maximises `objective_N`, `log ref + s / beta - log Z`.

    `beta` must be positive: at 0 the optimum is the best label alone and has no finite log-probabilities.
    """
    if beta <= 0:
        raise ValueError(f"beta must be > 0 for the closed form, got {beta}")
    return torch.log_softmax(ref_logp_NK + score_NK / beta, dim=-1)


def optimum_objective_N(ref_logp_NK: Tensor, score_NK: Tensor, beta: float) -> Tensor:
    """The best reachable objective of each question, `beta log Z`; at `beta` 0 the best label's score."""
    if beta == 0:
        return score_NK.max(-1).values
    return beta * torch.logsumexp(ref_logp_NK + score_NK / beta, dim=-1)


def optimum_fraction(logp_NK: Tensor, ref_logp_NK: Tensor, score_NK: Tensor, beta: float) -> float | None:
    """`(J(pi) - J(ref)) / (J* - J(ref))`: 0 is the reference, 1 leaves nothing to gain.

    None where the reference already is the optimum (a score that does not depend on the label), as 0 / 0 says nothing.
    """
    j_ref = expected_score_N(ref_logp_NK, score_NK).mean()
    j_best = optimum_objective_N(ref_logp_NK, score_NK, beta).mean()
    return share_of_gain(objective_N(logp_NK, ref_logp_NK, score_NK, beta).mean(), j_ref, j_best)


def share_of_gain(j: Tensor, j_ref: Tensor, j_best: Tensor) -> float | None:
    """`optimum_fraction` of the three mean objectives of policy, reference and optimum."""
    gain = j_best - j_ref
    return None if gain <= 1e-12 else float((j - j_ref) / gain)


def objective_gradient_NK(logp_NK: Tensor, ref_logp_NK: Tensor, score_NK: Tensor, beta: float) -> Tensor:
    """Closed-form gradient of the mean objective over N with respect to the policy's logits; shape [N, K].

    dJ/dlogit_k = pi_k (A_k - sum_a pi_a A_a) / N with A_a = s_a - beta log(pi_a / ref_a).
    """
    advantage_NK = score_NK - beta * (logp_NK - ref_logp_NK)
    baseline_N1 = (logp_NK.exp() * advantage_NK).sum(-1, keepdim=True)
    return logp_NK.exp() * (advantage_NK - baseline_N1) / logp_NK.shape[0]


def frontier(ref_logp_NK: Tensor, score_NK: Tensor, betas: list[float]) -> list[tuple[float, float]]:
    """(mean KL, mean expected score) of the optimum at each beta: no policy scores more at the same KL."""
    points = []
    for beta in betas:
        logp_NK = optimum_logp_NK(ref_logp_NK, score_NK, beta)
        kl, score = kl_exact_N(logp_NK, ref_logp_NK).mean(), expected_score_N(logp_NK, score_NK).mean()
        points.append((float(kl), float(score)))
    return points


def frontier_beta(ref_logp_NK: Tensor, score_NK: Tensor, kl: float) -> float:
    """The beta whose optimum has a mean KL of `kl` nats (the frontier's slope there): 0 where no optimum has as much.

    Never above `DEAREST` times the range of a question's scores, which stands for infinity: the reference itself.
    """
    score_NK = score_NK - score_NK.max(-1, keepdim=True).values  # moves no optimum, and saves digits at a low price

    def mean_kl(price: float) -> float:
        return kl_exact_N(optimum_logp_NK(ref_logp_NK, score_NK, price), ref_logp_NK).mean().item()

    return search_beta(mean_kl, -score_NK.min().item(), kl)


def search_beta(mean_kl: Callable[[float], float], score_range: float, kl: float) -> float:
    """`frontier_beta`, where `mean_kl` gives the mean KL of the optimum at a price and `score_range` is the largest
    range of a question's scores."""
    unit = max(score_range, 1e-12)

    def excess(log_price: float) -> float:
        return mean_kl(unit * math.exp(log_price)) - kl

    low, high = math.log(LOWEST_BETA), math.log(HIGHEST_BETA)
    if excess(low) <= 0:
        return 0.0
    if excess(high) >= 0:
        return unit * HIGHEST_BETA
    return unit * math.exp(brentq(excess, low, high, xtol=1e-12))


def frontier_distance_N(logp_NK: Tensor, ref_logp_NK: Tensor, score_NK: Tensor) -> Tensor:
    """How far each question lies below the frontier at the policy's own mean KL, in units of the score; shape [N].

    The mean is the best mean score that any policy of that mean KL reaches, minus the policy's own. By duality it is
    `E_q[beta log Z] - J(pi)` at the frontier's price beta there, which is `beta KL(pi || pi*)`: no question is below 0.
    """
    kl = kl_exact_N(logp_NK, ref_logp_NK).mean().item()
    if kl <= 0:
        return expected_score_N(ref_logp_NK, score_NK) - expected_score_N(logp_NK, score_NK)
    beta = frontier_beta(ref_logp_NK, score_NK, kl)
    return optimum_objective_N(ref_logp_NK, score_NK, beta) - objective_N(logp_NK, ref_logp_NK, score_NK, beta)


def _log_reference_below_NK(ref_logp_NK: Tensor, score_NK: Tensor) -> tuple[Tensor, Tensor]:
    """Of every label, log P(an answer of the reference is scored lower), and log P(lower or the same).

    Running sums over the labels in the order of their scores: K log K, where comparing all pairs would be K squared.
    """
    sorted_NK, order_NK = (own.contiguous() for own in score_NK.sort(-1))
    running_NK = nn.functional.pad(ref_logp_NK.gather(-1, order_NK).logcumsumexp(-1), (1, 0), value=-torch.inf)
    log_below_NK, log_at_most_NK = (
        running_NK.gather(-1, torch.searchsorted(sorted_NK, score_NK.contiguous(), right=same_counts))
        for same_counts in (False, True)
    )
    return log_below_NK, log_at_most_NK


def win_and_tie_N(logp_NK: Tensor, ref_logp_NK: Tensor, score_NK: Tensor) -> tuple[Tensor, Tensor]:
    """(P(win), P(tie)) of each question: an answer drawn from the policy scores higher than, or the same as, one drawn
    from the reference on its own; both of shape [N]."""
    below_NK, at_most_NK = (log_NK.exp() for log_NK in _log_reference_below_NK(ref_logp_NK, score_NK))
    return (logp_NK.exp() * below_NK).sum(-1), (logp_NK.exp() * (at_most_NK - below_NK)).sum(-1)


def best_of_n_logp_NK(ref_logp_NK: Tensor, score_NK: Tensor, n: int) -> Tensor:
    """Log-probabilities of the best-scored of `n` answers drawn from the reference, ties broken at random; exact.

    P(best is scored s) = at_most(s)^n - below(s)^n, shared among the labels scored s as the reference shares it. With
    a^n - b^n = (a - b) a^(n-1) (1 + b/a + ... + (b/a)^(n-1)) that is ref(label) times what follows the first bracket:
    a rare label loses no digits, and none becomes a 0, which has no logarithm, however large `n` is.
    """
    log_below_NK, log_at_most_NK = _log_reference_below_NK(ref_logp_NK, score_NK)
    ratio_NK = (log_below_NK - log_at_most_NK).exp()
    series_NK = sum((ratio_NK**i for i in range(n)), torch.zeros_like(ratio_NK))
    return (ref_logp_NK + (n - 1) * log_at_most_NK + series_NK.log()).log_softmax(-1)
