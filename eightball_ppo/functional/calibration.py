"""Calibration of a classifier's probabilities: temperature scaling and expected calibration error.

Both from Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599).
"""

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

ECE_BINS = 15


def expected_calibration_error(probability_NK: Tensor, label_N: Tensor, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of the confidence, between 0 and 1.

    The confidence is the most probable label's probability; a bin's weight is its share of the questions. A confidence
    on a border belongs to the bin below it.

    Args:
        probability_NK: Probabilities, [N, K].
        label_N: Ids of the gold labels, [N].
        bins: Number of bins.
    """
    confidence_N, predicted_N = probability_NK.double().max(-1)
    correct_N = (predicted_N == label_N).double()
    bin_N = (confidence_N * bins).ceil().long().clamp(1, bins) - 1
    gap = 0.0
    for index in range(bins):
        inside_N = bin_N == index
        if inside_N.any():
            share = inside_N.double().mean()
            gap += float(share * (correct_N[inside_N].mean() - confidence_N[inside_N].mean()).abs())
    return gap


def fit_temperature(logits_NK: Tensor, label_N: Tensor, low: float = 0.05, high: float = 20.0) -> float:
    """The temperature T in [low, high] that minimises the cross-entropy of `softmax(logits / T)`.

    If every answer is right, the cross-entropy has no minimum as T approaches 0; T is then at least 1.

    Args:
        logits_NK: Logits, [N, K].
        label_N: Ids of the gold labels, [N].
        low: Lower bound of T.
        high: Upper bound of T.
    """
    logits_NK = logits_NK.double()
    if bool((logits_NK.argmax(-1) == label_N).all()):
        low = 1.0

    def loss(log_temperature: float) -> float:
        scaled_NK = logits_NK / torch.tensor(log_temperature).double().exp()
        return torch.nn.functional.cross_entropy(scaled_NK, label_N).item()

    bounds = (float(torch.tensor(low).log()), float(torch.tensor(high).log()))
    best = minimize_scalar(loss, bounds=bounds, method="bounded")
    return float(torch.tensor(best.x).double().exp())
