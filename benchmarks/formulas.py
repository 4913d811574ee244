"""The metrics of a policy by formulas of their own, for `recompute.py`: loops and definitions, nothing of the package.

Letters: N questions, K labels. Log-probabilities are in nats.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def logp_of(scores_NK: Array) -> Array:
    """Normalised over labels."""
    shifted_NK = scores_NK - scores_NK.max(1, keepdims=True)
    return np.asarray(shifted_NK - np.log(np.exp(shifted_NK).sum(1, keepdims=True)))


def optimum(ref_NK: Array, score_NK: Array, beta: float) -> Array:
    """Log-probabilities of the best policy at one beta."""
    return logp_of(ref_NK + score_NK / beta)


def mean_kl(logp_NK: Array, ref_NK: Array) -> float:
    return float((np.exp(logp_NK) * (logp_NK - ref_NK)).sum(1).mean())


def mean_score(logp_NK: Array, score_NK: Array) -> float:
    return float((np.exp(logp_NK) * score_NK).sum(1).mean())


def best_score(ref_NK: Array, score_NK: Array, kl: float) -> float:
    """The highest mean score of any policy with this mean KL, by bisection for the beta whose optimum has that KL."""
    unit = float(score_NK.max() - score_NK.min()) or 1.0
    low, high = math.log(1e-4 * unit), math.log(1e8 * unit)
    if kl <= 0:
        return mean_score(ref_NK, score_NK)
    if mean_kl(optimum(ref_NK, score_NK, math.exp(low)), ref_NK) <= kl:
        return float(score_NK.max(1).mean())
    for _ in range(200):
        middle = (low + high) / 2
        if mean_kl(optimum(ref_NK, score_NK, math.exp(middle)), ref_NK) > kl:
            low = middle
        else:
            high = middle
    return mean_score(optimum(ref_NK, score_NK, math.exp(low)), score_NK)


def win_and_tie(logp_NK: Array, ref_NK: Array, score_NK: Array) -> tuple[float, float]:
    """Win rate of the policy's answers against the reference's, over all pairs of labels; a tie is half a win."""
    pair_NKK = np.exp(logp_NK)[:, :, None] * np.exp(ref_NK)[:, None, :]
    tie = (pair_NKK * (score_NK[:, :, None] == score_NK[:, None, :])).sum((1, 2)).mean()
    win = (pair_NKK * (score_NK[:, :, None] > score_NK[:, None, :])).sum((1, 2)).mean()
    return float(win + tie / 2), float(tie)


def share(choice_N: NDArray[np.int64], labels: list[str]) -> dict[str, float]:
    return {label: float((choice_N == k).mean()) for k, label in enumerate(labels)}


def metrics(
    logp_NK: Array, ref_NK: Array, score_NK: Array, beta: float, labels: list[str], gold_N: NDArray[np.int64] | None
) -> dict[str, Any]:
    kl, score = mean_kl(logp_NK, ref_NK), mean_score(logp_NK, score_NK)
    objective, reference = score - beta * kl, mean_score(ref_NK, score_NK)
    if beta == 0:
        highest, sure = float(score_NK.max(1).mean()), 1.0
    else:
        best_NK = optimum(ref_NK, score_NK, beta)
        highest = mean_score(best_NK, score_NK) - beta * mean_kl(best_NK, ref_NK)
        sure = float(np.exp(best_NK).max(1).mean())
    win, tie = win_and_tie(logp_NK, ref_NK, score_NK)
    greedy_N = logp_NK.argmax(1)
    found: dict[str, Any] = {
        "questions": len(logp_NK),
        "expected_score": score,
        "kl": kl,
        "entropy": -mean_score(logp_NK, logp_NK),
        "objective": objective,
        "optimum_objective": highest,
        "optimum_confidence": sure,
        "optimum_fraction": (objective - reference) / (highest - reference) if highest - reference > 1e-12 else None,
        "frontier_distance": best_score(ref_NK, score_NK, kl) - score,
        "win_rate": win,
        "tie_rate": tie,
        "judge_agreement": float((greedy_N == score_NK.argmax(1)).mean()),
        "label_histogram": dict(zip(labels, np.exp(logp_NK).mean(0).tolist(), strict=True)),
        "greedy_histogram": share(greedy_N, labels),
        "grader_histogram": share(score_NK.argmax(1), labels),
    }
    if gold_N is not None:
        found |= gold_metrics(logp_NK, gold_N)
    return found


def gold_metrics(logp_NK: Array, gold_N: NDArray[np.int64]) -> dict[str, float]:
    p_NK, labels = np.exp(logp_NK), np.arange(logp_NK.shape[1])
    sure_N, right_N = p_NK.max(1), (p_NK.argmax(1) == gold_N).astype(float)
    place_N = np.array([(sure_N < sure).sum() for sure in sure_N])
    bins = [np.flatnonzero(15 * place_N // len(place_N) == index) for index in range(15)]
    answered = wrong = area = 0.0
    for sure in sorted(set(sure_N.tolist()), reverse=True):
        size, errors = int((sure_N == sure).sum()), float((1 - right_N[sure_N == sure]).sum())
        for _ in range(size):  # those that are equally sure have the mean error of all of them
            answered, wrong = answered + 1, wrong + errors / size
            area += wrong / answered
    return {
        "gold_accuracy": float(right_N.mean()),
        "gold_probability": float(p_NK[range(len(gold_N)), gold_N].mean()),
        "brier": float(((p_NK - (labels == gold_N[:, None])) ** 2).sum(1).mean()),
        "nll": float(-logp_NK[range(len(gold_N)), gold_N].mean()),
        "ece": sum(len(b) / len(sure_N) * abs(right_N[b].mean() - sure_N[b].mean()) for b in bins if len(b)),
        "aurc": area / len(sure_N),
    }


def score_at_kl(logp_NK: Array, ref_NK: Array, score_NK: Array, kl: float) -> float:
    """The mean score of `ref^(1-t) pi^t / Z` at the t in [0, 1], found by bisection, where its mean KL is `kl`."""
    low, high = 0.0, 1.0
    for _ in range(100):
        middle = (low + high) / 2
        if mean_kl(logp_of((1 - middle) * ref_NK + middle * logp_NK), ref_NK) > kl:
            high = middle
        else:
            low = middle
    return mean_score(logp_of((1 - high) * ref_NK + high * logp_NK), score_NK)
