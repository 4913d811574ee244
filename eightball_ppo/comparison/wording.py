"""What a comparison says, in words."""

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from eightball_ppo.config.registry import title_of
from eightball_ppo.functional.statistics import PairComparison


def display_name(name: str) -> str:
    """A row's name in a sentence."""
    method, at, threshold = name.partition("@")
    return title_of(method) + (f" with threshold {threshold}" if at else "")


def condition_text(row: Mapping[Any, Any]) -> str:
    """The condition of a row in words."""
    split = {"train": "training questions", "heldout": "held-out questions"}[row["split"]]
    noise = f", {row['noise']:.0%} of the grades wrong" if row["noise"] else ""
    budget = "" if pd.isna(row["budget"]) else f", {row['budget']} grader calls"
    return f"beta {row['beta']:g}, {split}{noise}{budget}"


def sentence(
    pair: PairComparison,
    names: Mapping[str, str],
    unit: str,
    where: str = "",
    *,
    higher_is_better: bool = True,
    test: str = "Holm p",
) -> str:
    """What a pair says, in words: who is ahead by how much, or that the two are not distinguishable.

    Who is ahead stands first and the lead is positive, also where lower is better; after the ± stands half the
    interval. Else the difference is the first minus the second. `names` are the methods' (else their own), `unit` is
    the metric's, `where` a condition (`at equal KL`), `test` what to call `p_holm`.
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
    place, spread = f"{unit} {where}".strip(), f"95 % interval {low_end} to {high_end}, {test} {p}"
    if ahead:
        return f"{a} is ahead of {b} by {estimate} ± {half_length} {place} ({spread})"
    return f"{a} and {b} are not distinguishable in {place} (difference {estimate}, {spread})"
