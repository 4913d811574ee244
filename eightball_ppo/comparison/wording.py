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
    where: str = "",
    *,
    higher_is_better: bool = True,
    test: str = "Holm p",
) -> str:
    """States which method of a pair is ahead and by how much, or that the two are not distinguishable.

    The method that is ahead comes first and its lead is positive, also where lower is better; the number after ± is
    half the interval. Where neither is ahead, the difference is the first method minus the second.

    Args:
        pair: the comparison.
        names: display names of the methods; a method without one goes by its name in `pair`.
        unit: name of the metric.
        where: a condition, such as "at equal KL".
        higher_is_better: False for a distance or a loss.
        test: name of the p value.
    """
    a, b = names.get(pair.a, pair.a), names.get(pair.b, pair.b)
    difference, ahead = pair.difference, pair.distinguishable
    sign = -1.0 if ahead and difference.estimate < 0 else 1.0
    if ahead and (sign > 0) != higher_is_better:
        a, b = b, a
    low, high = sorted((sign * difference.low, sign * difference.high))
    half = (high - low) / 2
    decimals = min(max(1 - math.floor(math.log10(half)), 0), 6) if half else 3
    estimate, low_end, high_end, half_length = (
        f"{round(number, decimals) + 0.0:.{decimals}f}" for number in (sign * difference.estimate, low, high, half)
    )
    p = "< 0.001" if pair.p_holm < 0.001 else f"{pair.p_holm:.3g}"
    metric, interval = f"{unit} {where}".strip(), f"95 % interval {low_end} to {high_end}, {test} {p}"
    if ahead:
        return f"{a} is ahead of {b} by {estimate} ± {half_length} {metric} ({interval})"
    return f"{a} and {b} are not distinguishable in {metric} (difference {estimate}, {interval})"
