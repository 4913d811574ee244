"""Confidence intervals and tests for comparing training methods: S seeds of each, measured on the same Q questions.

Letters: M methods, S seeds, Q questions, O outputs (means of methods, differences of pairs), R resamples. Seeds and
questions are crossed factors: an interval covers the mean over new seeds and new questions. With one seed it covers
that run on new questions, and no other run.

Its core is the BCa bootstrap (Efron 1987) over seeds and questions, resampled independently of each other (the
pigeonhole bootstrap, Owen 2007, arXiv:0712.1111). It captures the skewness, but its length is wrong: three seeds cannot
span their spread (their range covers the mean 75 times in 100), and the error of one seed on one question is counted up
to three times. So BCa's arms, in units of the bootstrap's own normal interval, are multiples of

    half^2 = t(S-1)^2 MS_seed / (S Q) + t(Q-1)^2 max(0, MS_question - MS_error) / (S Q)

with the mean squares of value_sq = mu + seed_s + question_q + error_sq and t the 97.5 % points. The two terms without
their t are the unbiased variance of the mean; each has the t of its own degrees of freedom and they add as squares
(the method of variance estimates recovery, Zou & Donner 2008, doi:10.1002/sim.3095). One t with Satterthwaite's degrees
of freedom is shorter, but covers 92 % at 3 seeds and 87 % at 2 where seeds dominate: seeds that agree by chance also
win it degrees of freedom. Two guards: MS_seed counts as no less than the 5 % point of what the error alone makes of it
(counts of right answers may agree exactly), and no arm as shorter than 0.9 (where two methods part on 6 of 300
questions, BCa alone holds 88 %). This covers 93 to 98 % from 3 seeds on, wherever the variance comes from, and up to
99 % with 2, whose t is 12.7. `benchmarks/coverage.py` measures it all.
"""

import gc
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import fdtri, ndtri, stdtrit
from scipy.stats import DegenerateDataWarning, bootstrap

Array = NDArray[np.float64]
Values = Mapping[str, Mapping[int, Array]]  # method -> seed -> the metric of each question, shape [Q]

RESAMPLES = 10_000
LEVEL = 0.05  # of the intervals (95 %) and of the Holm-adjusted test
BATCH = 1_000  # resamples held at once; part of what the random numbers depend on
MIN_SEED_QUANTILE = 0.05  # of the seeds' mean square under pure error, below which an agreement counts as chance
MIN_ARM_RATIO = 0.9  # of an arm of BCa to half of the symmetric interval
MIN_LOG_P = -460.0  # below it p is 0; no t(1) is infinite yet
ROUNDING = 1e-12  # a spread below this share of the largest value counts as 0


@dataclass(frozen=True)
class Interval:
    """A mean in the metric's unit, its 95 % interval, and the number of seeds and questions."""

    estimate: float
    low: float
    high: float
    seeds: int
    questions: int


@dataclass(frozen=True)
class PairComparison:
    """Method `a` minus method `b` over the seeds that both have.

    Args:
        a, b: Names of the methods.
        difference: Mean difference and its interval.
        p_value: Two-sided; below 0.05 if and only if the interval excludes 0.
        p_holm: `p_value` adjusted over the family.
        effect_size: Cohen's d_z over questions; None where the differences do not vary.
        distinguishable: Whether `p_holm` is below 0.05.
    """

    a: str
    b: str
    difference: Interval
    p_value: float
    p_holm: float
    effect_size: float | None
    distinguishable: bool


@dataclass(frozen=True)
class VarianceEstimate:
    """What the intervals of O means are made of.

    Args:
        estimate_O: The means.
        bca_low_O, bca_high_O: Their BCa intervals; NaN where nothing varies.
        bootstrap_error_O: The bootstrap's standard errors.
        variance_3O: Mean squares over S Q of seeds, questions and error, which set the length; [3, O].
        seeds, questions: S and Q.
    """

    estimate_O: Array
    bca_low_O: Array
    bca_high_O: Array
    bootstrap_error_O: Array
    variance_3O: Array
    seeds: int
    questions: int

    def half_O(self, level: float = LEVEL) -> Array:
        """Half the length of a symmetric interval at `level`; shape [O]."""
        seed_t = -float(stdtrit(self.seeds - 1, level / 2)) if self.seeds > 1 else 0.0
        question_t = -float(stdtrit(self.questions - 1, level / 2))
        seed_O, question_O, error_O = self.variance_3O
        if self.seeds > 1:
            seed_O = np.maximum(
                seed_O, error_O * fdtri(self.seeds - 1, (self.seeds - 1) * (self.questions - 1), MIN_SEED_QUANTILE)
            )
        return np.hypot(seed_t * np.sqrt(seed_O), question_t * np.sqrt((question_O - error_O).clip(0.0)))

    def arms_2O(self) -> Array:
        """BCa's lower and upper arm as multiples of `half_O`, 1 where nothing varies; shape [2, O]."""
        arm_2O = np.stack([self.estimate_O - self.bca_low_O, self.bca_high_O - self.estimate_O])
        with np.errstate(invalid="ignore", divide="ignore"):
            arm_2O = arm_2O / (-ndtri(LEVEL / 2) * self.bootstrap_error_O)
        return np.where(np.isfinite(arm_2O).all(0), arm_2O.clip(MIN_ARM_RATIO), 1.0)

    def intervals(self) -> list[Interval]:
        """The 95 % interval of each output."""
        low_O, high_O = self.estimate_O + np.array([[-1], [1]]) * self.arms_2O() * self.half_O()
        ends = zip(self.estimate_O.tolist(), low_O.tolist(), high_O.tolist(), strict=True)
        return [Interval(*end, self.seeds, self.questions) for end in ends]

    def p_values(self) -> list[float]:
        """The level of each output at which its interval, with the same arms, reaches 0."""
        arm_O = np.where(self.estimate_O > 0, *self.arms_2O())

        def gap(log_level: float, o: int) -> float:
            return float((arm_O * self.half_O(math.exp(log_level)))[o] - abs(self.estimate_O[o]))

        def p_value(o: int) -> float:
            if self.estimate_O[o] == 0.0:
                return 1.0
            return math.exp(brentq(gap, MIN_LOG_P, 0.0, (o,), xtol=1e-9)) if gap(MIN_LOG_P, o) > 0 else 0.0

        return [p_value(o) for o in range(len(self.estimate_O))]


def compare(
    values: Values, *, denominator_Q: Array | None = None, resamples: int = RESAMPLES, rng_seed: int = 0
) -> tuple[dict[str, Interval], list[PairComparison]]:
    """Every method's mean and every pair's difference, with 95 % intervals; the pairs are one family (Holm 1979).

    Args:
        values: Method -> seed -> the metric of each question, shape [Q], the same questions everywhere. A seed that a
            method lacks (a failed run) is left out: the method's interval uses the seeds it has, a pair those of both.
        denominator_Q: With it the metric is a ratio of means, `mean(value) / mean(denominator)`, as `optimum_fraction`
            is; the questions of both are resampled together.
        resamples: Number of bootstrap resamples.
        rng_seed: Seed of the bootstrap; the same seed gives the same intervals, whatever else is compared in the call.

    Returns:
        The intervals of the methods that have a seed, and the pairs that have a seed in common, in the order of
        `values`.

    Raises:
        ValueError: Arrays that are not finite or not of one length Q >= 2, or a denominator whose mean is not positive.
    """
    _check(values, denominator_Q)
    groups: dict[tuple[int, ...], list[tuple[str, ...]]] = {}
    for subject in [*((name,) for name in values), *combinations(values, 2)]:
        if seeds := tuple(sorted(set.intersection(*(set(values[name]) for name in subject)))):
            groups.setdefault(seeds, []).append(subject)
    intervals: dict[tuple[str, ...], Interval] = {}
    pairs: dict[tuple[str, ...], PairComparison] = {}
    for seeds, subjects in groups.items():
        names = list(dict.fromkeys(name for subject in subjects for name in subject))
        value_MSQ = np.array([[values[name][seed] for seed in seeds] for name in names], dtype=np.float64)
        contrast_OM = np.array([[float(n == s[0]) - float(n in s[1:]) for n in names] for s in subjects])
        spread = crossed_spread(value_MSQ, contrast_OM, denominator_Q, resamples=resamples, rng_seed=rng_seed)
        for subject, interval, p in zip(subjects, spread.intervals(), spread.p_values(), strict=True):
            intervals[subject] = interval
            if len(subject) == 2:
                a, b = (value_MSQ[names.index(name)] for name in subject)
                pairs[subject] = PairComparison(*subject, interval, p, p, _effect_size(a, b), p < LEVEL)
    methods = {name: intervals[name,] for name in values if (name,) in intervals}
    return methods, holm([pairs[pair] for pair in combinations(values, 2) if pair in pairs])


def holm(pairs: Sequence[PairComparison]) -> list[PairComparison]:
    """The same pairs as one family: recomputes `p_holm` and `distinguishable` (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests  # the import takes a second

    if not pairs:
        return []
    gc.freeze()  # multipletests collects garbage, which takes a second where torch is loaded
    try:
        adjusted = multipletests([pair.p_value for pair in pairs], alpha=LEVEL, method="holm")[1]
    finally:
        gc.unfreeze()
    both = zip(pairs, adjusted.tolist(), strict=True)
    return [replace(pair, p_holm=p, distinguishable=p < LEVEL) for pair, p in both]


def crossed_spread(
    value_MSQ: Array, contrast_OM: Array, denominator_Q: Array | None = None, *, resamples: int, rng_seed: int
) -> VarianceEstimate:
    """The O means `contrast_OM @ mean(value_MSQ)` and what their intervals need, from one set of resamples.

    Args:
        value_MSQ: The metric of M methods, S seeds and Q questions.
        contrast_OM: Weights of the methods in each output.
        denominator_Q: The metric is divided by its mean, if given.
        resamples: Number of bootstrap resamples.
        rng_seed: Seed of the bootstrap.

    Returns:
        The estimates; an output that varies by no more than rounding has an interval of length 0.
    """
    _, S, Q = value_MSQ.shape
    denominator_Q = np.ones(Q) if denominator_Q is None else denominator_Q
    statistic = _statistic(value_MSQ, denominator_Q, contrast_OM)
    indices, rng = [np.arange(n) for n in (S, Q) if n > 1], np.random.default_rng(rng_seed)
    with np.errstate(invalid="ignore", divide="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore", DegenerateDataWarning)
        result = bootstrap(
            indices, statistic, n_resamples=resamples, batch=BATCH, vectorized=True, method="BCa", rng=rng
        )
    estimate_O = statistic(*indices)
    # a ratio's error is to first order the mean of these (the delta method)
    residual_OSQ = np.einsum("om,msq->osq", contrast_OM, value_MSQ) - estimate_O[:, None, None] * denominator_Q
    variance_3O = _variances(residual_OSQ / denominator_Q.mean())
    rounding_O = ROUNDING * np.abs(contrast_OM) @ np.abs(value_MSQ).max((1, 2)) / denominator_Q.mean()
    still_O = np.sqrt(variance_3O.sum(0)) <= rounding_O
    estimate_O = np.where(still_O & (np.abs(estimate_O) <= rounding_O), 0.0, estimate_O)
    low_O, high_O = (np.asarray(end) for end in result.confidence_interval)
    error_O, variance_3O = np.asarray(result.standard_error), np.where(still_O, 0.0, variance_3O)
    return VarianceEstimate(estimate_O, low_O, high_O, error_O, variance_3O, seeds=S, questions=Q)


def _statistic(value_MSQ: Array, denominator_Q: Array, contrast_OM: Array) -> Callable[..., Array]:
    """The O outputs as a function of resampled indices of shape [..., S] and [..., Q], the latter alone if S is 1.

    A sum depends only on how often each seed or question was drawn, so a batch of resamples is one matrix product. It
    is divided last: sums of whole numbers (right or wrong) are exact, and BCa sees which resamples equal the estimate.
    """
    M, S, Q = value_MSQ.shape
    flat_QC = np.concatenate([value_MSQ.transpose(2, 1, 0).reshape(Q, S * M), denominator_Q[:, None]], axis=1)

    def statistic(*index: NDArray[np.intp], axis: int = -1) -> Array:
        sum_RC = _counts(index[-1], Q) @ flat_QC
        seed_RS = _counts(index[0], S) if S > 1 else np.ones((1, 1))
        sum_RM = (seed_RS[:, :, None] * sum_RC[:, :-1].reshape(-1, S, M)).sum(1)
        output_OR = contrast_OM @ sum_RM.T / (seed_RS.sum(1) * sum_RC[:, -1])
        return output_OR.reshape(-1, *index[-1].shape[:-1])

    return statistic


def _counts(index: NDArray[np.intp], size: int) -> Array:
    """How often each of `size` items occurs in each row of [..., N] indices; shape [R, size]."""
    index_RN = index.reshape(-1, index.shape[-1])
    offset_RN = index_RN + size * np.arange(len(index_RN))[:, None]
    return np.bincount(offset_RN.ravel(), minlength=size * len(index_RN)).reshape(-1, size).astype(np.float64)


def _variances(residual_OSQ: Array) -> Array:
    """Mean squares over S Q of seeds, questions and error; shape [3, O]. With one seed only the questions' is not 0."""
    _, S, Q = residual_OSQ.shape
    if S == 1:
        question_O = residual_OSQ[:, 0].var(-1, ddof=1) / Q
        return np.stack([0 * question_O, question_O, 0 * question_O])
    seed_OS1, question_O1Q = residual_OSQ.mean(-1, keepdims=True), residual_OSQ.mean(-2, keepdims=True)
    error_OSQ = residual_OSQ - seed_OS1 - question_O1Q + seed_OS1.mean(-2, keepdims=True)
    error_O = (error_OSQ**2).sum((-2, -1)) / ((S - 1) * (Q - 1)) / (S * Q)
    return np.stack([seed_OS1[..., 0].var(-1, ddof=1) / S, question_O1Q[:, 0].var(-1, ddof=1) / Q, error_O])


def _effect_size(a_SQ: Array, b_SQ: Array) -> float | None:
    """Cohen's d_z: mean over sd of the questions' seed-averaged differences; None where they do not vary."""
    difference_Q = (a_SQ - b_SQ).mean(0)
    deviation = float(difference_Q.std(ddof=1))
    scale = float(np.abs(a_SQ).max() + np.abs(b_SQ).max())
    return float(difference_Q.mean()) / deviation if deviation > ROUNDING * scale else None


def _check(values: Values, denominator_Q: Array | None) -> None:
    """Raises ValueError, as `compare` does."""
    arrays = [(f"{name}, seed {seed}", value_Q) for name, seeds in values.items() for seed, value_Q in seeds.items()]
    if denominator_Q is not None:
        arrays.append(("denominator_Q", denominator_Q))
    for where, value_Q in arrays:
        if value_Q.ndim != 1 or value_Q.shape != arrays[0][1].shape or len(value_Q) < 2:
            raise ValueError(f"{where}: shape {value_Q.shape}, need [Q], the same Q >= 2 everywhere")
        if not np.isfinite(value_Q).all():
            raise ValueError(f"{where}: {int((~np.isfinite(value_Q)).sum())} values are not finite")
    if denominator_Q is not None and not denominator_Q.mean() > 0:
        raise ValueError(f"the mean of denominator_Q must be > 0, got {denominator_Q.mean()}")
