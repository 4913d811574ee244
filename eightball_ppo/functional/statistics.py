"""Tests between training methods: which is ahead, which are equal within a margin, and what it takes to decide."""

import gc
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

from scipy.special import ndtri

from eightball_ppo.functional.intervals import LEVEL, POWER, UNBOUNDED, Interval, Values, estimate_variance

Verdict = Literal["ahead", "equal", "undecided"]


@dataclass(frozen=True)
class PairComparison:
    """Method `a` minus method `b`.

    Args:
        a, b: Names of the methods.
        difference: Mean difference and its interval.
        p_value: Of "no difference", two-sided; below 0.05 if and only if the interval excludes 0.
        p_equal: Of "the difference is at least the margin", by two one-sided tests (Schuirmann 1987).
        p_holm, p_equal_holm: Both adjusted over the family of the pair (Holm 1979).
        verdict: "equal" (within the margin) if `p_equal_holm` is below 0.05, else "ahead" if `p_holm` is, else
            "undecided"; None where one of the two has a single seed, which says nothing about others.
        detectable: The smallest difference that such a comparison detects with power 0.8.
        seeds_needed, questions_needed: How many of one would detect a difference of the margin with power 0.8, the
            number of the other unchanged; None if no number does.
    """

    a: str
    b: str
    difference: Interval
    p_value: float
    p_equal: float
    p_holm: float
    p_equal_holm: float
    verdict: Verdict | None
    detectable: float
    seeds_needed: int | None
    questions_needed: int | None


def compare_pair(
    a: tuple[str, Values], b: tuple[str, Values], margin: float, bounds: tuple[float, float] = UNBOUNDED
) -> PairComparison | None:
    """Method `a` minus method `b`, as a family of its own; None if they have no reference in common.

    Args:
        a: Name and values of the first.
        b: Name and values of the second.
        margin: The largest difference that counts as none.
        bounds: Between which every possible difference lies.
    """
    spread = estimate_variance([(1.0, a[1]), (-1.0, b[1])])
    if spread is None:
        return None
    p, p_equal = spread.p_value(), spread.p_equal(margin)
    detectable = spread.half() + float(ndtri(POWER)) * spread.deviation
    pair = PairComparison(
        *(a[0], b[0], spread.interval(bounds), p, p_equal, p, p_equal),
        *("undecided" if spread.repeated else None, detectable, *spread.needed(margin)),
    )
    return holm([pair])[0]


def reverse(pair: PairComparison) -> PairComparison:
    """Method `b` minus method `a`."""
    old = pair.difference
    difference = replace(old, estimate=-old.estimate, low=-old.high, high=-old.low)
    return replace(pair, a=pair.b, b=pair.a, difference=difference)


def holm(pairs: Sequence[PairComparison]) -> list[PairComparison]:
    """The same pairs as one family: recomputes `p_holm`, `p_equal_holm` and `verdict` (Holm 1979)."""
    differ = _adjusted([pair.p_value for pair in pairs])
    equal = _adjusted([pair.p_equal for pair in pairs])
    found = []
    for pair, p, p_equal in zip(pairs, differ, equal, strict=True):
        verdict: Verdict = "equal" if p_equal < LEVEL else "ahead" if p < LEVEL else "undecided"
        found.append(replace(pair, p_holm=p, p_equal_holm=p_equal, verdict=verdict if pair.verdict else None))
    return found


def _adjusted(p_values: Sequence[float]) -> list[float]:
    if len(p_values) < 2:
        return list(p_values)
    from statsmodels.stats.multitest import multipletests  # the import takes a second

    gc.freeze()  # multipletests collects garbage, which takes a second where torch is loaded
    try:
        return list(multipletests(p_values, alpha=LEVEL, method="holm")[1].tolist())
    finally:
        gc.unfreeze()
