"""What a grader's answers say of it: pure functions of tensors. Log-probabilities are in nats, shares 0 to 1."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.stats import binomtest
from sklearn.metrics import cohen_kappa_score, confusion_matrix, f1_score
from torch import Tensor

from eightball_ppo.functional.calibration import ECE_BINS, expected_calibration_error


def agreement(logp_NK: Tensor, gold_N: Tensor, labels: Sequence[str]) -> dict[str, Any]:
    """How well the favourite labels of N > 0 questions agree with the gold ones.

    `accuracy` and its 95 % `interval` (Wilson); `kappa` (Cohen's; None where gold and favourites are one and the same
    label throughout, so that chance alone agrees fully); `f1` by label; `confusion`, [K, K] counts, a row per gold
    label and a column per favourite.
    """
    gold, favourite = gold_N.numpy(), logp_NK.argmax(-1).numpy()
    right = int((gold == favourite).sum())
    interval = binomtest(right, len(gold)).proportion_ci(0.95, method="wilson")
    all_K = list(range(len(labels)))
    one_label = len(set(gold) | set(favourite)) == 1
    f1_K = f1_score(gold, favourite, labels=all_K, average=None, zero_division=0)
    return {
        "accuracy": right / len(gold),
        "interval": [float(interval.low), float(interval.high)],
        "kappa": None if one_label else float(cohen_kappa_score(gold, favourite)),
        "f1": dict(zip(labels, map(float, f1_K), strict=True)),
        "confusion": confusion_matrix(gold, favourite, labels=all_K).tolist(),
    }


def calibration(logp_NK: Tensor, gold_N: Tensor) -> dict[str, Any]:
    """`ece`, the expected calibration error, and `bins`, the non-empty ones of those it is made of: mean `confidence`,
    `accuracy` and `share` of the questions in each."""
    probability_NK = logp_NK.double().exp()
    return {
        "ece": expected_calibration_error(probability_NK, gold_N),
        "bins": reliability_bins(probability_NK, gold_N),
    }


def reliability_bins(probability_NK: Tensor, gold_N: Tensor, bins: int = ECE_BINS) -> list[dict[str, float]]:
    """The non-empty bins of `expected_calibration_error`, least confident first: it is the sum over them of
    `share * |accuracy - confidence|`."""
    confidence_N, favourite_N = probability_NK.double().max(-1)
    right_N = (favourite_N == gold_N).double()
    bin_N = (confidence_N * bins).ceil().long().clamp(1, bins) - 1
    rows = []
    for index in bin_N.unique().tolist():
        inside_N = bin_N == index
        rows.append(
            {
                "confidence": confidence_N[inside_N].mean().item(),
                "accuracy": right_N[inside_N].mean().item(),
                "share": inside_N.double().mean().item(),
            }
        )
    return rows


def flips_N(logp_NK: Tensor, other_NK: Tensor) -> Tensor:
    """[N]: True where the two have different favourite labels."""
    return logp_NK.argmax(-1) != other_NK.argmax(-1)


def total_variation(logp_NK: Tensor, other_NK: Tensor) -> float:
    """Mean total variation distance between two sets of N > 0 distributions: half the sum of |p - q|, 0 to 1."""
    return (0.5 * (logp_NK.double().exp() - other_NK.double().exp()).abs().sum(-1)).mean().item()


def answer_change(logp_NK: Tensor, other_NK: Tensor) -> dict[str, Any]:
    """`pairs` (N), `flips` (share of other favourites) and `total_variation`, both None where there is no pair."""
    if not len(logp_NK):
        return {"pairs": 0, "flips": None, "total_variation": None}
    return {
        "pairs": len(logp_NK),
        "flips": flips_N(logp_NK, other_NK).double().mean().item(),
        "total_variation": total_variation(logp_NK, other_NK),
    }


def gain(logp_NK: Tensor, other_NK: Tensor, label: int) -> float | None:
    """Of the questions whose favourite was another label, the share of those whose favourite becomes `label`; None
    where it was the favourite of all."""
    movable_N = logp_NK.argmax(-1) != label
    if not movable_N.any():
        return None
    return (other_NK.argmax(-1)[movable_N] == label).double().mean().item()


def repeat_noise(logp_RNK: Tensor) -> dict[str, Any]:
    """Of R > 1 gradings of the same N > 0 questions: `std`, the mean standard deviation of a log-probability (nats),
    and `flips`, the share of questions whose favourite was not the same in all of them."""
    favourite_RN = logp_RNK.argmax(-1)
    return {
        "questions": logp_RNK.shape[1],
        "repeats": logp_RNK.shape[0],
        "std": logp_RNK.double().std(0).mean().item(),
        "flips": (favourite_RN != favourite_RN[0]).any(0).double().mean().item(),
    }


def latency(seconds: Sequence[float]) -> dict[str, float]:
    """`median` and `p95` (interpolated between neighbours) of at least one duration, in seconds."""
    median, p95 = np.percentile(np.asarray(seconds, dtype=float), [50, 95])
    return {"median": float(median), "p95": float(p95)}


def distribution(logp_K: Tensor, labels: Sequence[str]) -> dict[str, Any]:
    """Probabilities by label, the `favourite` and its probability, `highest`."""
    p_K = logp_K.double().exp()
    best = int(p_K.argmax())
    return {
        "probabilities": dict(zip(labels, p_K.tolist(), strict=True)),
        "favourite": labels[best],
        "highest": p_K[best].item(),
    }


def largest_known(values: Sequence[float | None]) -> float | None:
    """The largest of the values that are numbers, or None."""
    known = [value for value in values if value is not None and not math.isnan(value)]
    return max(known, default=None)


def stack_rows(rows: Sequence[Tensor], num_labels: int) -> Tensor:
    """[N, K] of N rows, also where N is 0."""
    return torch.stack(list(rows)) if rows else torch.empty(0, num_labels)
