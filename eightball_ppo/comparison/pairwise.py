"""What the runs of a comparison say: intervals, pairs, sentences. Each condition's pairs of a metric are one family."""

import dataclasses
from collections.abc import Mapping
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from eightball_ppo.comparison.results import SPLITS, RunResult, per_question
from eightball_ppo.comparison.wording import condition_text, display_name, sentence
from eightball_ppo.config.registry import REFERENCE
from eightball_ppo.functional import statistics
from eightball_ppo.functional.statistics import Interval, PairComparison
from eightball_ppo.methods.task import Task


class Metric(NamedTuple):
    """A metric that pairs are compared in: what it is called in a sentence, and which way is ahead."""

    unit: str
    where: str
    higher_is_better: bool


METRICS = {
    "objective": Metric("objective", "", True),
    "frontier_distance": Metric("expected score", "at equal KL", False),
    "gold_accuracy": Metric("gold accuracy", "", True),
}
Condition = tuple[float, float, int | None]
Values = dict[str, dict[int, np.ndarray]]


def row_name(method: str, threshold: float | None) -> str:
    """The name of a row: the method, with the threshold that the user fixed."""
    return method if threshold is None else f"{method}@{threshold:g}"


def compare_methods(found: list[RunResult], task: Task, resamples: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(intervals, pairs): a row for every method resp. pair, condition, split and metric."""
    intervals: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []

    def condition(one: RunResult) -> Condition:
        return one.cell.beta, one.cell.noise, one.cell.budget

    ordered = sorted(found, key=lambda one: tuple(-1 if part is None else part for part in condition(one)))
    for (beta, noise, budget), group in groupby(ordered, key=condition):
        runs = list(group)
        for split in SPLITS:
            where = {"beta": beta, "split": split, "noise": noise, "budget": budget}
            values, largest_N = _values(runs, split, task)
            for metric, own in values.items():
                denominator_N = largest_N if metric == "optimum_fraction" else None
                if denominator_N is not None and denominator_N.mean() <= 1e-12:
                    continue  # the reference is the optimum already
                means, compared = statistics.compare(own, denominator_Q=denominator_N, resamples=resamples)
                if metric == "gold_accuracy":
                    means = {name: _share(interval) for name, interval in means.items()}
                intervals += [{**where, **_row(name), "metric": metric, **_interval(i)} for name, i in means.items()]
                if metric in METRICS:
                    pairs += [{**where, **_pair(pair, metric)} for pair in compared]
    return _frame(intervals), _frame(pairs)


def _values(runs: list[RunResult], split: str, task: Task) -> tuple[dict[str, Values], np.ndarray]:
    """(metric -> row's name -> seed -> [N], the largest gain of each question)."""
    graded = task.graded(split)
    values: dict[str, Values] = {}
    largest_N = np.zeros(0)
    for one in runs:
        arrays = per_question(one, split, graded)
        largest_N = arrays.pop("largest_gain")
        arrays["optimum_fraction"] = arrays.pop("gain")
        for metric, value_N in arrays.items():
            name = row_name(one.cell.method, one.cell.threshold)
            values.setdefault(metric, {}).setdefault(name, {})[one.cell.seed] = value_N
    return values, largest_N


def _row(name: str) -> dict[str, Any]:
    method, at, threshold = name.partition("@")
    return {"method": method, "threshold": float(threshold) if at else np.nan}


def _share(interval: Interval) -> Interval:
    """The interval of a share, which is nowhere below 0 or above 1."""
    return dataclasses.replace(interval, low=max(interval.low, 0.0), high=min(interval.high, 1.0))


def _interval(interval: Interval) -> dict[str, Any]:
    return {
        "estimate": interval.estimate,
        "low": interval.low,
        "high": interval.high,
        "seeds": interval.seeds,
        "questions": interval.questions,
    }


def _pair(pair: PairComparison, metric: str) -> dict[str, Any]:
    words = _words(pair, metric, "Holm p")
    return {
        "metric": metric,
        "a": pair.a,
        "b": pair.b,
        **_interval(pair.difference),
        "p_value": pair.p_value,
        "p_holm": pair.p_holm,
        "effect_size": pair.effect_size,
        "distinguishable": pair.distinguishable,
        "sentence": words[0].upper() + words[1:],
    }


def _words(pair: PairComparison, metric: str, test: str) -> str:
    known = METRICS[metric]
    names = {name: display_name(name) for name in (pair.a, pair.b)}
    return sentence(pair, names, known.unit, known.where, higher_is_better=known.higher_is_better, test=test)


def _frame(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    if len(frame):
        frame["budget"] = frame["budget"].astype("Int64")
    return frame


def headline(pairs: pd.DataFrame, methods: list[str]) -> list[str]:
    """The question of the house, PPO against distillation, for every condition, the plain ones first.

    It is asked before any run is made, so that it is no family with the other pairs: its p stands alone, and what is
    left of it among all pairs is said beside it.
    """
    first, second = ("ppo", "distill") if {"ppo", "distill"} <= set(methods) else _first_two(methods)
    asked = [
        row
        for row in pairs.to_dict("records")
        if {row[side].partition("@")[0] for side in ("a", "b")} == {first, second}
    ]
    asked.sort(key=lambda row: (row["noise"], -1 if pd.isna(row["budget"]) else row["budget"], row["beta"]))
    return [f"{condition_text(row)}: {_asked(row)}." for row in asked]


def _asked(row: Mapping[Any, Any]) -> str:
    interval = Interval(row["estimate"], row["low"], row["high"], row["seeds"], row["questions"])
    p = row["p_value"]
    pair = PairComparison(row["a"], row["b"], interval, p, p, row["effect_size"], p < statistics.LEVEL)
    words = _words(pair, row["metric"], "p")
    return words[0].upper() + words[1:-1] + f"; Holm over all pairs {row['p_holm']:.2g})"


def _first_two(methods: list[str]) -> tuple[str, str]:
    trained = [name for name in methods if name != REFERENCE]
    return (trained[0], trained[1]) if len(trained) > 1 else ("", "")
