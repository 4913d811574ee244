"""How far a classifier's probabilities can be believed: temperature scaling and expected calibration error.

Both after Guo et al. 2017, "On Calibration of Modern Neural Networks" (arXiv:1706.04599).
"""

import torch
from scipy.optimize import minimize_scalar
from torch import Tensor

ECE_BINS = 15


def expected_calibration_error(probability_NK: Tensor, label_N: Tensor, bins: int = ECE_BINS) -> float:
    """Mean gap between confidence and accuracy over equal-width bins of the most probable label's probability, weighted
    by the share of questions in the bin; between 0 and 1. A confidence on a border belongs to the bin below it."""
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

    Where every answer is right the cross-entropy falls without end as T does; such data is no ground for more
    confidence, and T stays at 1 or above.
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
