"""The sentences of a comparison."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from eightball_ppo.config.noise import LabelNoise
from eightball_ppo.config.registry import title_of
from eightball_ppo.functional.statistics import PairComparison

SPLIT_NAMES = {"train": "training questions", "heldout": "held-out questions"}


def display_name(name: str) -> str:
    """The name of a row, such as `distill@0.9`, in a sentence."""
    method, at, threshold = name.partition("@")
    return title_of(method) + (f" with threshold {threshold}" if at else "")


def noise_text(noise: str) -> str:
    """The label noise of a row in words."""
    rate, kind = LabelNoise.parse(noise)
    what = {
        "row": "questions graded wrong",
        "cell": "grades wrong",
        "call": "answers wrong, drawn at every call",
    }
    return f"{rate:.0%} of the {what[kind]}"


def condition_text(row: Mapping[Any, Any]) -> str:
    """Beta, split, noise and budget of a row in words."""
    noise = f", {noise_text(row['noise'])}" if row["noise"] else ""
    budget = "" if pd.isna(row["budget"]) else f", {row['budget']} grader calls"
    return f"beta {row['beta']:g}, {SPLIT_NAMES[row['split']]}{noise}{budget}"


def sentence(
    pair: PairComparison,
    names: Mapping[str, str],
    unit: str,
    margin: float | None = None,
    *,
    higher_is_better: bool = True,
) -> str:
    """States which method of a pair is ahead and by how much, that the two are equal within the margin, or neither.

    The method that is ahead comes first and its lead is positive, also where lower is better. Otherwise the difference
    is the first method minus the second.

    Args:
        pair: The comparison.
        names: Display names of the methods; a method without one goes by its name in `pair`.
        unit: Name of the metric.
        margin: The largest difference that counts as none; None where none was named for this metric.
        higher_is_better: False for a distance or a loss.
    """
    a, b = names.get(pair.a, pair.a), names.get(pair.b, pair.b)
    difference, ahead = pair.difference, pair.verdict == "ahead"
    sign = -1.0 if ahead and difference.estimate < 0 else 1.0
    if ahead and (sign > 0) != higher_is_better:
        a, b = b, a
    low, high = sorted((sign * difference.low, sign * difference.high))
    half = (high - low) / 2
    decimals = min(max(1 - math.floor(math.log10(half)), 0), 6) if half else 3
    estimate, low_end, high_end = (
        f"{round(number, decimals) + 0.0:.{decimals}f}" for number in (sign * difference.estimate, low, high)
    )
    interval = f"95 % interval {low_end} to {high_end}"
    if pair.verdict is None:
        return f"{a} minus {b}: {estimate} {unit} ({interval} over texts; one seed says nothing about others)"
    if ahead:
        return f"{a} is ahead of {b} by {estimate} {unit} ({interval}, Holm p {_p(pair.p_holm)})"
    if pair.verdict == "equal":
        within = f"equal within {margin:g} {unit}"
        return f"{a} and {b} are {within} (difference {estimate}, {interval}, Holm p {_p(pair.p_equal_holm)})"
    more = "" if margin is None else f"; {_needed(pair, margin)}"
    return f"{a} against {b}: undecided in {unit} (difference {estimate}, {interval}{more})"


def _p(p: float) -> str:
    return "< 0.001" if p < 0.001 else f"{p:.3g}"


def _needed(pair: PairComparison, margin: float) -> str:
    """What would decide, and what can be detected."""
    counts = [(pair.seeds_needed, "seeds"), (pair.questions_needed, "texts")]
    known = [f"{count:,} {what}" for count, what in counts if count is not None]
    needs = f"needs about {' / '.join(known)}" if known else "more seeds alone, or texts alone, are not enough"
    return f"{needs} for {margin:g}, detects {pair.detectable:.2g}"
