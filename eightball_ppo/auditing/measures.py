"""What a grader's answers say of it: pure functions of tensors. Log-probabilities are in nats, shares 0 to 1."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score
from torch import Tensor

from eightball_ppo.functional.calibration import confidence_and_correct, ece_N, reliability_bins


def agreement(logp_NK: Tensor, gold_N: Tensor, labels: Sequence[str]) -> dict[str, Any]:
    """Agreement of the grader's most probable labels with the gold labels of N > 0 questions.

    Args:
        logp_NK: the grader's log-probabilities, shape [N, K].
        gold_N: gold label ids, shape [N].
        labels: names of the K labels.

    Returns:
        `accuracy` and its 95 % `interval` (Wilson 1927); `kappa` (Cohen 1960; None where gold and grader know one
        label only, so that chance agrees fully); `f1` by label; `confusion`, counts [K, K], a row per gold label and a
        column per predicted label.
    """
    gold, predicted = gold_N.numpy(), logp_NK.argmax(-1).numpy()
    correct = int((gold == predicted).sum())
    interval = binomtest(correct, len(gold)).proportion_ci(0.95, method="wilson")
    all_K = list(range(len(labels)))
    one_label = len(set(gold) | set(predicted)) == 1
    f1_K = f1_score(gold, predicted, labels=all_K, average=None, zero_division=0)
    return {
        "accuracy": correct / len(gold),
        "interval": [float(interval.low), float(interval.high)],
        "kappa": None if one_label else float(cohen_kappa_score(gold, predicted)),
        "f1": dict(zip(labels, map(float, f1_K), strict=True)),
        "confusion": confusion_matrix(gold, predicted, labels=all_K).tolist(),
    }


def calibration(logp_NK: Tensor, gold_N: Tensor, raw: bool = False) -> dict[str, Any]:
    """`ece`, the expected calibration error, and its `bins`; see `reliability_bins`. Raw scores are no confidence."""
    if raw:
        return {"ece": None, "bins": []}
    sure_and_right = confidence_and_correct(logp_NK, gold_N)
    return {"ece": float(ece_N(*sure_and_right).mean()), "bins": reliability_bins(*sure_and_right)}


def answer_change(logp_NK: Tensor, other_NK: Tensor) -> dict[str, Any]:
    """How far two sets of N distributions, log-probabilities of shape [N, K], differ.

    Returns:
        `pairs` (N), `flips` (share with another most probable label) and `total_variation` (mean of
        0.5 sum |p - q|); the latter two are None where N is 0.
    """
    if not len(logp_NK):
        return {"pairs": 0, "flips": None, "total_variation": None}
    distance_N = 0.5 * (logp_NK.double().exp() - other_NK.double().exp()).abs().sum(-1)
    return {
        "pairs": len(logp_NK),
        "flips": (logp_NK.argmax(-1) != other_NK.argmax(-1)).double().mean().item(),
        "total_variation": distance_N.mean().item(),
    }


def gain(logp_NK: Tensor, other_NK: Tensor, label: int) -> float | None:
    """Share of the questions with another most probable label, in `logp_NK`, that have `label` in `other_NK`.

    None where no question has another label.
    """
    movable_N = logp_NK.argmax(-1) != label
    if not movable_N.any():
        return None
    return (other_NK.argmax(-1)[movable_N] == label).double().mean().item()


def repeat_noise(logp_RNK: Tensor) -> dict[str, Any]:
    """Variation between R > 1 gradings of the same N > 0 questions, log-probabilities of shape [R, N, K].

    Returns:
        `std`, the mean standard deviation of a log-probability (nats), and `flips`, the share of questions whose most
        probable label is not the same in all of them.
    """
    predicted_RN = logp_RNK.argmax(-1)
    return {
        "questions": logp_RNK.shape[1],
        "repeats": logp_RNK.shape[0],
        "std": logp_RNK.double().std(0).mean().item(),
        "flips": (predicted_RN != predicted_RN[0]).any(0).double().mean().item(),
    }


def latency(seconds: Sequence[float]) -> dict[str, float]:
    """`median` and `p95` (interpolated linearly) of durations in seconds."""
    return dict(zip(("median", "p95"), np.percentile(seconds, [50, 95]).tolist(), strict=True))


def distribution(logp_K: Tensor, labels: Sequence[str]) -> dict[str, Any]:
    """Probabilities by label, the most probable label `predicted` and its probability `highest`."""
    p_K = logp_K.double().exp()
    best = int(p_K.argmax())
    probabilities = dict(zip(labels, p_K.tolist(), strict=True))
    return {"probabilities": probabilities, "predicted": labels[best], "highest": probabilities[labels[best]]}


def stack_rows(rows: Sequence[Tensor], num_labels: int) -> Tensor:
    """Stacks N rows of shape [K] to [N, K], also where N is 0."""
    return torch.stack(list(rows)) if rows else torch.empty(0, num_labels)
