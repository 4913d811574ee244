"""The KL coefficient of scores in any unit, and the unit in which training sees them."""

import logging
from dataclasses import replace
from typing import TypeVar

from torch import Tensor

from eightball_ppo.config.graded import DEFAULT_KL_COEF, MethodConfig

MIN_RELATIVE_SPREAD = 1e-4
logger = logging.getLogger(__name__)
C = TypeVar("C", bound=MethodConfig)


def resolve_kl_coef(config: C, raw: bool, score_NK: Tensor) -> tuple[C, float]:
    """The options with their score type and KL coefficient, and the unit of training.

    For raw scores that unit is the mean over texts of their standard deviation over labels, and the KL coefficient is a
    tenth of it unless the user gave one.
    """
    config = config.with_score_type(raw)
    if not raw:
        return replace(config, kl_coef=config.beta), 1.0
    unit = spread(score_NK)
    largest = score_NK.abs().max().item()
    if unit < largest * MIN_RELATIVE_SPREAD:
        digits = "the scores differ by %.3g around %.3g, and float32 keeps 7 digits; subtract a constant in the judge"
        logger.warning(digits, unit, largest)
    if config.kl_coef is None:
        config = replace(config, kl_coef=DEFAULT_KL_COEF * unit)
        how = f"{DEFAULT_KL_COEF} times the standard deviation of the scores over labels, {unit:.4g}"
        logger.info("--kl_coef %.4g: %s", config.kl_coef, how)
    return config, unit


def spread(score_NK: Tensor) -> float:
    """The mean over texts of the standard deviation over labels of scores [N, K]; 1 if all labels score alike."""
    return score_NK.double().std(-1, correction=0).mean().item() or 1.0
