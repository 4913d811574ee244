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

MIN_BETA, MAX_BETA = 1e-4, 1e8  # between which the frontier's beta is searched, in units of the scores' range


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
    """What PPO maximises: each question's expected score minus `beta` times its exact KL; shape [N]."""
    return expected_score_N(logp_NK, score_NK) - beta * kl_exact_N(logp_NK, ref_logp_NK)


def optimum_logp_NK(ref_logp_NK: Tensor, score_NK: Tensor, beta: float) -> Tensor:
    """Log-probabilities of the policy that maximises `objective_N`: `log ref + s / beta - log Z`; shape [N, K].

    Raises:
        ValueError: `beta` is not positive; at 0 the optimum is the best label alone, without finite log-probabilities.
    """
    if beta <= 0:
        raise ValueError(f"beta must be > 0 for the closed form, got {beta}")
    return torch.log_softmax(ref_logp_NK + score_NK / beta, dim=-1)


def optimum_confidence_N(ref_logp_NK: Tensor, score_NK: Tensor, beta: float) -> Tensor:
    """Probability of the optimum's most probable label, 1 at `beta` 0; shape [N]. Near 1 the penalty is idle."""
    if beta == 0:
        return torch.ones_like(score_NK[:, 0])
    return optimum_logp_NK(ref_logp_NK, score_NK, beta).max(-1).values.exp()


def optimum_objective_N(ref_logp_NK: Tensor, score_NK: Tensor, beta: float) -> Tensor:
    """Maximum of each question's objective, `beta log Z`, or its best label's score at `beta` 0; shape [N]."""
    if beta == 0:
        return score_NK.max(-1).values
    return beta * torch.logsumexp(ref_logp_NK + score_NK / beta, dim=-1)


def optimum_fraction(logp_NK: Tensor, ref_logp_NK: Tensor, score_NK: Tensor, beta: float) -> float | None:
    """`(J(pi) - J(ref)) / (J* - J(ref))`: 0 is the reference, 1 the optimum.

    None where the reference is the optimum (a score that does not depend on the label): 0 / 0.
    """
    j_ref = expected_score_N(ref_logp_NK, score_NK).mean()
    j_best = optimum_objective_N(ref_logp_NK, score_NK, beta).mean()
    return share_of_gain(objective_N(logp_NK, ref_logp_NK, score_NK, beta).mean(), j_ref, j_best)


def share_of_gain(j: Tensor, j_ref: Tensor, j_best: Tensor) -> float | None:
    """`optimum_fraction`, from the mean objectives of policy, reference and optimum."""
    gain = j_best - j_ref
    return None if gain <= 1e-12 else float((j - j_ref) / gain)


def objective_gradient_NK(logp_NK: Tensor, ref_logp_NK: Tensor, score_NK: Tensor, beta: float) -> Tensor:
    """Closed-form gradient of the mean objective with respect to the policy's logits; shape [N, K].

    dJ/dlogit_k = pi_k (A_k - sum_a pi_a A_a) / N with A_a = s_a - beta log(pi_a / ref_a).
    """
    advantage_NK = score_NK - beta * (logp_NK - ref_logp_NK)
    baseline_N1 = (logp_NK.exp() * advantage_NK).sum(-1, keepdim=True)
    return logp_NK.exp() * (advantage_NK - baseline_N1) / logp_NK.shape[0]


def frontier(ref_logp_NK: Tensor, score_NK: Tensor, betas: list[float]) -> list[tuple[float, float]]:
    """(mean KL, mean expected score) of the optimum at each beta; no policy of the same KL has a higher score."""
    points = []
    for beta in betas:
        logp_NK = optimum_logp_NK(ref_logp_NK, score_NK, beta)
        kl, score = kl_exact_N(logp_NK, ref_logp_NK).mean(), expected_score_N(logp_NK, score_NK).mean()
        points.append((float(kl), float(score)))
    return points


def frontier_beta(ref_logp_NK: Tensor, score_NK: Tensor, kl: float) -> float:
    """The beta whose optimum has a mean KL of `kl` nats, the frontier's slope there; 0 if every optimum has less.

    It is at most `MAX_BETA` times the range of a question's scores, at which the optimum is the reference.
    """
    score_NK = (
        score_NK - score_NK.max(-1, keepdim=True).values
    )  # the same optimum, with fewer digits lost at a low beta

    def mean_kl(beta: float) -> float:
        return kl_exact_N(optimum_logp_NK(ref_logp_NK, score_NK, beta), ref_logp_NK).mean().item()

    return search_beta(mean_kl, -score_NK.min().item(), kl)


def search_beta(mean_kl: Callable[[float], float], score_range: float, kl: float) -> float:
    """`frontier_beta` of scores that are read in chunks.

    Args:
        mean_kl: Gives the mean KL of the optimum at a beta, in nats.
        score_range: The largest range of a question's scores.
        kl: The mean KL to reach, in nats.
    """
    unit = max(score_range, 1e-12)

    def excess(log_beta: float) -> float:
        return mean_kl(unit * math.exp(log_beta)) - kl

    low, high = math.log(MIN_BETA), math.log(MAX_BETA)
    if excess(low) <= 0:
        return 0.0
    if excess(high) >= 0:
        return unit * MAX_BETA
    return unit * math.exp(brentq(excess, low, high, xtol=1e-12))


def frontier_distance_N(logp_NK: Tensor, ref_logp_NK: Tensor, score_NK: Tensor) -> Tensor:
    """How far each question lies below the frontier at the policy's mean KL, in units of the score; shape [N].

    The mean is the highest mean score of any policy of that mean KL, minus the policy's. By duality it is
    `E_q[beta log Z] - J(pi)` at the frontier's beta there, which is `beta KL(pi || pi*)`: no question is below 0.
    """
    kl = kl_exact_N(logp_NK, ref_logp_NK).mean().item()
    beta = frontier_beta(ref_logp_NK, score_NK, kl) if kl > 0 else None
    return frontier_distance_at_N(logp_NK, ref_logp_NK, score_NK, beta)


def frontier_distance_at_N(logp_NK: Tensor, ref_logp_NK: Tensor, score_NK: Tensor, beta: float | None) -> Tensor:
    """`frontier_distance_N` for a known `frontier_beta`; None for a policy whose mean KL is 0."""
    if beta is None:
        return expected_score_N(ref_logp_NK, score_NK) - expected_score_N(logp_NK, score_NK)
    return optimum_objective_N(ref_logp_NK, score_NK, beta) - objective_N(logp_NK, ref_logp_NK, score_NK, beta)


def _log_cumulative_NK(ref_logp_NK: Tensor, score_NK: Tensor) -> tuple[Tensor, Tensor]:
    """For each label, log P(the reference's answer has a lower score) and log P(lower or equal).

    Cumulative sums over the labels sorted by score: O(K log K), where all pairs would be O(K^2).
    """
    sorted_NK, order_NK = (tensor.contiguous() for tensor in score_NK.sort(-1))
    running_NK = nn.functional.pad(ref_logp_NK.gather(-1, order_NK).logcumsumexp(-1), (1, 0), value=-torch.inf)
    log_below_NK, log_at_most_NK = (
        running_NK.gather(-1, torch.searchsorted(sorted_NK, score_NK.contiguous(), right=or_equal))
        for or_equal in (False, True)
    )
    return log_below_NK, log_at_most_NK


def win_and_tie_N(logp_NK: Tensor, ref_logp_NK: Tensor, score_NK: Tensor) -> tuple[Tensor, Tensor]:
    """(P(win), P(tie)) of each question, both of shape [N].

    An answer drawn from the policy has a higher score than (or the same as) one drawn independently from the reference.
    """
    below_NK, at_most_NK = (log_NK.exp() for log_NK in _log_cumulative_NK(ref_logp_NK, score_NK))
    return (logp_NK.exp() * below_NK).sum(-1), (logp_NK.exp() * (at_most_NK - below_NK)).sum(-1)


def best_of_n_logp_NK(ref_logp_NK: Tensor, score_NK: Tensor, n: float) -> Tensor:
    """Exact log-probabilities of best of `n`: of `n` answers of the reference, the one with the best score; [N, K].

    Ties are broken at random. P(best score is s) = at_most(s)^n - below(s)^n, divided among the labels of score s in
    proportion to the reference. With r = below / at_most that is ref(label) at_most^(n-1) (1 - r^n) / (1 - r): a rare
    label loses no digits, none becomes 0, and any `n` costs the same.
    """
    log_below_NK, log_at_most_NK = _log_cumulative_NK(ref_logp_NK, score_NK)
    log_ratio_NK = (log_below_NK - log_at_most_NK).clamp(max=-torch.finfo(log_below_NK.dtype).tiny)
    series_NK = torch.expm1(n * log_ratio_NK) / torch.expm1(log_ratio_NK)
    return (ref_logp_NK + (n - 1) * log_at_most_NK + series_NK.log()).log_softmax(-1)


def geometric_path_logp_NK(logp_NK: Tensor, ref_logp_NK: Tensor, weight: float) -> Tensor:
    """The policy `pi^weight ref^(1 - weight) / Z`: the reference at 0, the policy at 1; log-probabilities, [N, K].

    Its KL to the reference rises with the weight. Of the policies at this distance from the reference it is the closest
    to the policy (Grosse et al. 2013, "Annealing between distributions by averaging moments", section 3).
    """
    return (ref_logp_NK + weight * (logp_NK - ref_logp_NK)).log_softmax(-1)


def path_logp_at_kl_NK(logp_NK: Tensor, ref_logp_NK: Tensor, kl: float) -> Tensor:
    """The policy of mean KL `kl` (nats) on the geometric path from the reference to a policy of at least that KL."""

    def excess(weight: float) -> float:
        path_NK = geometric_path_logp_NK(logp_NK, ref_logp_NK, weight)
        return kl_exact_N(path_NK, ref_logp_NK).mean().item() - kl

    weight = 1.0 if excess(1.0) <= 0 else float(brentq(excess, 0.0, 1.0, xtol=1e-12)) if kl > 0 else 0.0
    return geometric_path_logp_NK(logp_NK, ref_logp_NK, weight)
