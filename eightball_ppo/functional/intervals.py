"""Confidence intervals of the means of training methods, and of their differences, on the same questions.

Letters: R references, S seeds in all, Q questions. A method is measured on Q questions with one policy for each draw, a
seed together with its reference. Questions are crossed with everything. References are shared by all methods and a
random factor. A seed means something only within its method: seed 0 of one method has nothing to do with seed 0 of
another, so the seeds of a difference are two independent samples (Welch 1947).

The value of one method is value_rsq = mu + question_q + reference_r + seed_rs + error_rsq. The variance of a mean, or
of the difference of two, is the sum of four parts, each estimated without bias:

    error       sum over methods of  s_error^2 sum_r(1 / S_r) / (R^2 Q),  pooled within references
    seeds       sum over methods of  s_method^2 sum_r(1 / S_r) / R^2,  minus the part of the error
    references  the variance of the R means / R, minus the parts of seeds and error; 0 with one reference
    questions   the variance of the Q means / Q, minus what the error alone contributes to it

Each part, 0 if it is negative, has the t of its own degrees of freedom (that of the seeds by Welch and Satterthwaite),
and the parts times their t^2 add up to the square of half the interval: the method of variance estimates recovery
(MOVER; Zou & Donner 2008, doi:10.1002/sim.3095). One t with Satterthwaite's degrees of freedom for the whole would
cover too little where three seeds dominate. The error has its own part because seeds may agree by chance. With one
reference an interval is about that reference; with one seed, about that run.
`benchmarks/coverage.py` measures coverage and false alarms, also where they fail.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import ndtri, stdtrit

Array = NDArray[np.float64]


class Draw(NamedTuple):
    """The reference and the seed that one policy was trained with."""

    reference: int
    seed: int


Values = Mapping[Draw, Array]  # the metric of each question, shape [Q], of each policy of one method

LEVEL = 0.05  # of the intervals (95 %) and of both Holm-adjusted tests
POWER = 0.8  # of the differences that are called detectable
UNBOUNDED = (-math.inf, math.inf)
MIN_LOG_P = -460.0  # below it p is 0; no t(1) is infinite yet
ROUNDING = 1e-12  # a spread below this share of the largest value counts as 0


@dataclass(frozen=True)
class Interval:
    """A mean in the metric's unit, its 95 % interval, and the number of seeds, references and questions behind it.

    Of a difference, `seeds` is the smaller number of the two methods.
    """

    estimate: float
    low: float
    high: float
    seeds: int
    references: int
    questions: int


@dataclass(frozen=True)
class VarianceEstimate:
    """A mean and the parts of its variance.

    Args:
        estimate: The mean, of all references with equal weights.
        seeds: Parts of seeds and error; 0 if they cannot be told from the references.
        seeds_dof: Its degrees of freedom; 0 if there is no such part.
        error: Part of the error.
        means: Variance of the references' means / R, which holds the parts of seeds and error; 0 with one reference.
        questions: Part of the questions, without the error.
        num_seeds, num_references, num_questions: S, R and Q.
    """

    estimate: float
    seeds: float
    seeds_dof: float
    error: float
    means: float
    questions: float
    num_seeds: int
    num_references: int
    num_questions: int

    @property
    def repeated(self) -> bool:
        """Whether it says something about other seeds."""
        return self.seeds_dof > 0 or self.num_references > 1

    @property
    def deviation(self) -> float:
        """The estimated standard deviation of the mean."""
        return math.sqrt(max(self.seeds, self.error, self.means) + self.questions)

    def half(self, level: float = LEVEL) -> float:
        """Half the length of the interval at `level`."""
        parts = [_t(self.num_questions - 1, level) * math.sqrt(self.questions)]
        seeds = max(self.seeds, self.error)
        if self.seeds_dof:
            errors = self.seeds_dof * (self.num_questions - 1)
            parts.append(_t(self.seeds_dof, level) * math.sqrt(seeds - self.error))
            parts.append(_t(errors, level) * math.sqrt(self.error))
        if self.num_references > 1:
            parts.append(_t(self.num_references - 1, level) * math.sqrt(max(self.means - seeds, 0.0)))
        return math.hypot(*parts)

    def interval(self, bounds: tuple[float, float] = UNBOUNDED) -> Interval:
        """The 95 % interval, cut at what is possible."""
        low, high = (self.estimate + sign * self.half() for sign in (-1, 1))
        ends = (max(low, bounds[0]), min(high, bounds[1]))
        return Interval(self.estimate, *ends, self.num_seeds, self.num_references, self.num_questions)

    def p_value(self, distance: float | None = None) -> float:
        """The level at which half the interval is `distance`, default the distance of the mean from 0."""
        distance = abs(self.estimate) if distance is None else distance

        def gap(log_level: float) -> float:
            return self.half(math.exp(log_level)) - distance

        if distance <= 0.0:
            return 1.0
        return math.exp(brentq(gap, MIN_LOG_P, 0.0, xtol=1e-9)) if gap(MIN_LOG_P) > 0 else 0.0

    def p_equal(self, margin: float) -> float:
        """The larger p-value of two one-sided tests of a difference of at least `margin`."""
        inside = margin - abs(self.estimate)
        one_sided = self.p_value(abs(inside)) / 2
        return one_sided if inside > 0 else 1 - one_sided

    def needed(self, margin: float) -> tuple[int | None, int | None]:
        """(seeds, questions) that detect a difference of `margin`, as in `PairComparison`."""
        if not self.repeated:
            return None, None
        allowed = (margin / float(ndtri(1 - LEVEL / 2) + ndtri(POWER))) ** 2
        draws = max(self.seeds, self.error, self.means)
        without_error = max(draws - self.error, 0.0)
        more_seeds = draws / (allowed - self.questions) if allowed > self.questions else math.inf
        rest = self.questions + draws - without_error
        more_questions = rest / (allowed - without_error) if allowed > without_error else math.inf
        counts = (self.num_seeds * max(more_seeds, 1.0), self.num_questions * max(more_questions, 1.0))
        seeds, questions = (math.ceil(count) if math.isfinite(count) else None for count in counts)
        return seeds, questions


def _t(dof: float, level: float) -> float:
    return -float(stdtrit(dof, level / 2))


def estimate_variance(methods: Sequence[tuple[float, Values]]) -> VarianceEstimate | None:
    """The spread of a weighted sum of the means of methods.

    Args:
        methods: Weight and values of each: [(1.0, a)] for a mean, [(1.0, a), (-1.0, b)] for a difference.

    Returns:
        None if the methods have no reference in common.

    Raises:
        ValueError: Values that are not finite or not of one length Q >= 2.
    """
    _check([value_Q for _, values in methods for value_Q in values.values()])
    references = sorted(set.intersection(*({draw.reference for draw in values} for _, values in methods)))
    if not references:
        return None
    R, Q = len(references), len(next(iter(methods[0][1].values())))
    mean_RQ, parts = np.zeros((R, Q)), []
    for weight, values in methods:
        groups = [np.stack([v for draw, v in values.items() if draw.reference == r]) for r in references]
        mean_RQ += weight * np.stack([group_SQ.mean(0) for group_SQ in groups])
        parts.append(_seeds_part(groups, weight / R))
    repeated = all(dof for _, _, dof in parts)
    seeds = sum(variance for variance, _, _ in parts) if repeated else 0.0
    error = sum(error for _, error, _ in parts) if repeated else 0.0
    dof = 0.0
    if repeated:  # Welch and Satterthwaite; where no seed differs, any of them
        squares = sum(variance**2 / dof for variance, _, dof in parts)
        dof = seeds**2 / squares if squares > 0 else float(min(dof for _, _, dof in parts))
    mean_Q = mean_RQ.mean(0)
    means = float(mean_RQ.mean(1).var(ddof=1)) / R if R > 1 else 0.0
    question_error = _interaction(mean_RQ) / ((R - 1) * (Q - 1) * R * Q) if R > 1 else error
    questions = max(float(mean_Q.var(ddof=1)) / Q - question_error, 0.0)
    counts = (min(sum(draw.reference in references for draw in values) for _, values in methods), R, Q)
    rounding = ROUNDING * max(float(np.abs(value_Q).max()) for _, values in methods for value_Q in values.values())
    estimate = float(mean_Q.mean())
    if math.sqrt(max(seeds, means) + questions + error) <= rounding:
        estimate = 0.0 if abs(estimate) <= rounding else estimate
        return VarianceEstimate(estimate, 0.0, dof, 0.0, 0.0, 0.0, *counts)
    return VarianceEstimate(estimate, seeds, dof, error, means, questions, *counts)


def _seeds_part(groups: Sequence[Array], weight: float) -> tuple[float, float, int]:
    """(variance of a method's mean by its seeds, the error's part of it, degrees of freedom).

    Args:
        groups: The values of each reference, shape [S_r, Q].
        weight: Of the mean of one reference in the sum.
    """
    dof = sum(len(group_SQ) - 1 for group_SQ in groups)
    if not dof:
        return 0.0, 0.0, 0
    Q = groups[0].shape[1]
    share = weight**2 * sum(1 / len(group_SQ) for group_SQ in groups)
    squares = sum(float(((group_SQ.mean(1) - group_SQ.mean()) ** 2).sum()) for group_SQ in groups)
    errors = sum(map(_interaction, groups)) / (Q - 1) / Q
    return share * squares / dof, share * errors / dof, dof


def _interaction(value_SQ: Array) -> float:
    """Sum of squares of what neither rows nor columns explain."""
    error_SQ = value_SQ - value_SQ.mean(0) - value_SQ.mean(1, keepdims=True) + value_SQ.mean()
    return float((error_SQ**2).sum())


def _check(arrays: Sequence[Array]) -> None:
    """Raises ValueError, as `estimate_variance` does."""
    for value_Q in arrays:
        if value_Q.ndim != 1 or value_Q.shape != arrays[0].shape or len(value_Q) < 2:
            raise ValueError(f"shape {value_Q.shape}, need [Q], the same Q >= 2 everywhere")
        if not np.isfinite(value_Q).all():
            raise ValueError(f"{int((~np.isfinite(value_Q)).sum())} values are not finite")
