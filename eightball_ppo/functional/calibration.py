"""How good the probabilities of a classifier are: proper scores, calibration error, risk-coverage, temperature scaling.

Letters: N questions, K labels. The confidence of a question is the probability of its most probable label. Every
measure is the mean over questions of the values that its function gives, so that intervals of all measures are computed
alike; of `ece_N` and `aurc_N`, which depend on all questions at once, these are the values of the delta method.
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from torch import Tensor

ECE_BINS = 15
Array = NDArray[np.float64]


def brier_N(logp_NK: Tensor, label_N: Tensor) -> Tensor:
    """Brier score of each question, `sum_k (p_k - [k = label])^2`, 0 to 2; shape [N] (Brier 1950)."""
    p_NK = logp_NK.exp()
    return (p_NK**2).sum(-1) - 2 * p_NK.gather(-1, label_N[:, None])[:, 0] + 1


def nll_N(logp_NK: Tensor, label_N: Tensor) -> Tensor:
    """Negative log-likelihood of the label of each question, in nats; shape [N]."""
    return -logp_NK.gather(-1, label_N[:, None])[:, 0]


def confidence_and_correct(logp_NK: Tensor, label_N: Tensor) -> tuple[Array, Array]:
    """Confidence of each question, and 1 where the most probable label is the right one, else 0; both of shape [N]."""
    confidence_N, predicted_N = logp_NK.double().exp().max(-1)
    return confidence_N.numpy(), (predicted_N == label_N).double().numpy()


def equal_mass_bins(confidence_N: Array, bins: int = ECE_BINS) -> NDArray[np.int64]:
    """The bin of each question: `bins` of equally many questions by confidence; equal confidences share a bin."""
    lower_N = np.searchsorted(np.sort(confidence_N), confidence_N, side="left")
    return (bins * lower_N // len(confidence_N)).astype(np.int64)


def ece_N(confidence_N: Array, correct_N: Array) -> Array:
    """Values whose mean is the expected calibration error over 15 bins of equal mass, 0 to 1; shape [N].

    The error is the mean over questions of abs(accuracy - mean confidence) of their bin (Naeini et al. 2015; bins of
    equal mass: Nguyen & O'Connor 2015, arXiv:1508.05154). It is biased upwards on few questions. The value of a
    question is its correctness minus its confidence, with the sign of its bin: intervals take the bins as given.
    """
    bin_N = equal_mass_bins(confidence_N)
    gap_N = correct_N - confidence_N
    sign_B = np.sign(np.bincount(bin_N, gap_N, minlength=ECE_BINS))
    return np.asarray(sign_B[bin_N] * gap_N)


def reliability_bins(confidence_N: Array, correct_N: Array) -> list[dict[str, float]]:
    """The non-empty bins of the expected calibration error, least confident first.

    Returns:
        Mean `confidence`, `accuracy` and `share` of the questions of each bin; the error is the sum of
        `share * abs(accuracy - confidence)`.
    """
    bin_N = equal_mass_bins(confidence_N)
    inside = [bin_N == index for index in np.unique(bin_N)]
    return [
        {name: float(value_N[in_N].mean()) for name, value_N in (("confidence", confidence_N), ("accuracy", correct_N))}
        | {"share": float(in_N.mean())}
        for in_N in inside
    ]


def risk_coverage(confidence_N: Array, correct_N: Array) -> tuple[Array, Array]:
    """Coverage and risk of answering the n most confident questions alone, for n = 1 to N; both of shape [N].

    The risk is the share of wrong answers among them. Questions of equal confidence count in random order: each has the
    mean error of all of them (El-Yaniv & Wiener 2010).
    """
    order_N, error_N = _sorted_errors(confidence_N, correct_N)
    count_N = np.arange(1, len(order_N) + 1)
    return count_N / len(order_N), np.cumsum(error_N) / count_N


def _sorted_errors(confidence_N: Array, correct_N: Array) -> tuple[NDArray[np.int64], Array]:
    """The questions by falling confidence, and their errors, averaged over equal confidences."""
    order_N = np.argsort(-confidence_N, kind="stable")
    _, group_N = np.unique(confidence_N[order_N], return_inverse=True)
    errors = np.bincount(group_N, 1 - correct_N[order_N]) / np.bincount(group_N)
    return order_N, errors[group_N]


def aurc_N(confidence_N: Array, correct_N: Array) -> Array:
    """Values whose mean is the area under the risk-coverage curve, 0 to 1; shape [N] (Geifman et al. 2019).

    The value of a question at place n of the order is `risk_n + sum_(m >= n) (error_n - risk_m) / m`, the influence
    that it has on the area.
    """
    order_N, error_N = _sorted_errors(confidence_N, correct_N)
    count_N = np.arange(1, len(order_N) + 1)
    risk_N = np.cumsum(error_N) / count_N
    after_N = error_N * np.cumsum((1 / count_N)[::-1])[::-1] - np.cumsum((risk_N / count_N)[::-1])[::-1]
    value_N = np.empty(len(order_N))
    value_N[order_N] = risk_N + after_N
    return value_N


def fit_temperature(logits_NK: Tensor, target: Tensor, low: float = 0.05, high: float = 20.0) -> float:
    """The temperature T in [low, high] that minimises the cross-entropy of `softmax(logits / T)` (arXiv:1706.04599).

    If every answer is right, the cross-entropy to labels has no minimum as T approaches 0; T is then at least 1.

    Args:
        logits_NK: Logits, [N, K].
        target: Ids of the right labels, [N], or probabilities of all labels, [N, K].
        low: Lower bound of T.
        high: Upper bound of T.
    """
    logits_NK = logits_NK.double()
    if target.ndim == 1 and bool((logits_NK.argmax(-1) == target).all()):
        low = 1.0
    target = target if target.ndim == 1 else target.double()

    def loss(log_temperature: float) -> float:
        scaled_NK = logits_NK / torch.tensor(log_temperature).double().exp()
        return torch.nn.functional.cross_entropy(scaled_NK, target).item()

    bounds = (float(torch.tensor(low).log()), float(torch.tensor(high).log()))
    best = minimize_scalar(loss, bounds=bounds, method="bounded")
    return float(torch.tensor(best.x).double().exp())
