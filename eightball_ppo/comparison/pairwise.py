"""Statistics over the runs of a comparison: intervals per method, paired differences, and sentences about them."""

from collections.abc import Mapping
from dataclasses import asdict, replace
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from eightball_ppo.comparison.results import SPLITS, RunResult, per_question
from eightball_ppo.comparison.wording import condition_text, display_name, sentence
from eightball_ppo.config.registry import REFERENCE
from eightball_ppo.evaluation import GradedSplit
from eightball_ppo.functional import objective, statistics
from eightball_ppo.functional.statistics import Interval, PairComparison
from eightball_ppo.methods.task import Task
from eightball_ppo.report.style import row_name


class Metric(NamedTuple):
    """A metric that pairs are compared in: its name and condition in a sentence, and which direction is better."""

    unit: str
    where: str
    higher_is_better: bool


METRICS = {
    "objective": Metric("objective", "", True),
    "frontier_distance": Metric("expected score", "at equal KL", False),
    "gold_accuracy": Metric("gold accuracy", "", True),
}


def compare_methods(results: list[RunResult], task: Task, resamples: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Computes bootstrap intervals and paired differences.

    The pairs of one condition, split and metric are one family of the Holm correction.

    Args:
        results: the finished runs.
        task: the shared questions, scores and reference.
        resamples: draws of the bootstrap.

    Returns:
        (intervals, pairs): a row per method resp. pair, condition, split and metric.
    """
    groups: dict[tuple[Any, ...], list[RunResult]] = {}
    for run in results:
        groups.setdefault((run.spec.beta, run.spec.noise, run.spec.budget), []).append(run)
    intervals: list[dict[str, Any]] = []
    pairs: list[dict[str, Any]] = []
    for beta, noise, budget in sorted(groups):
        for split in SPLITS:
            key = {"beta": beta, "split": split, "noise": noise, "budget": budget}
            graded = task.graded(split)
            max_gain_N = _max_gain_N(graded, beta)
            for metric, values in _values(groups[beta, noise, budget], split, graded).items():
                denominator_N = max_gain_N if metric == "optimum_fraction" else None
                if denominator_N is not None and denominator_N.mean() <= 1e-12:
                    continue  # the reference is the optimum already
                means, compared = statistics.compare(values, denominator_Q=denominator_N, resamples=resamples)
                for name, interval in means.items():
                    row = {**key, **_method_and_threshold(name), "metric": metric, **asdict(interval)}
                    if metric == "gold_accuracy":  # a share
                        row |= {"low": max(interval.low, 0.0), "high": min(interval.high, 1.0)}
                    intervals.append(row)
                if metric in METRICS:
                    pairs += [{**key, "metric": metric, **_pair_row(pair, metric)} for pair in compared]
    return pd.DataFrame(intervals), pd.DataFrame(pairs)


def _values(runs: list[RunResult], split: str, graded: GradedSplit) -> dict[str, dict[str, dict[int, np.ndarray]]]:
    """Returns metric -> row name -> seed -> values of the questions, shape [N]."""
    values: dict[str, dict[str, dict[int, np.ndarray]]] = {}
    for run in runs:
        name = row_name(run.spec.method, run.spec.threshold)
        for metric, value_N in per_question(run, split, graded).items():
            values.setdefault(metric, {}).setdefault(name, {})[run.spec.seed] = value_N
    return values


def _max_gain_N(graded: GradedSplit, beta: float) -> np.ndarray:
    """J* - J(ref) of each question, the denominator of `optimum_fraction`."""
    best_N = objective.optimum_objective_N(graded.ref_logp_NK, graded.score_NK, beta)
    return (best_N - objective.expected_score_N(graded.ref_logp_NK, graded.score_NK)).numpy()


def _method_and_threshold(name: str) -> dict[str, Any]:
    method, at, threshold = name.partition("@")
    return {"method": method, "threshold": float(threshold) if at else np.nan}


def _pair_row(pair: PairComparison, metric: str) -> dict[str, Any]:
    if metric == "gold_accuracy":  # a difference of shares
        low, high = max(pair.difference.low, -1.0), min(pair.difference.high, 1.0)
        pair = replace(pair, difference=replace(pair.difference, low=low, high=high))
    row = asdict(pair)
    row |= row.pop("difference")
    return {**row, "sentence": _sentence(pair, metric, "Holm p")}


def _sentence(pair: PairComparison, metric: str, test: str) -> str:
    unit, where, higher_is_better = METRICS[metric]
    names = {name: display_name(name) for name in (pair.a, pair.b)}
    text = sentence(pair, names, unit, where, higher_is_better=higher_is_better, test=test)
    return text[0].upper() + text[1:]


def headline(pairs: pd.DataFrame, methods: list[str]) -> list[str]:
    """A sentence about PPO against distillation (else the first two methods) for every condition, plainest first.

    This pair is chosen before any run is made, so it needs no correction: the sentence states its raw p, and beside it
    the p after Holm's correction over all pairs.
    """
    trained = [name for name in methods if name != REFERENCE]
    chosen = {"ppo", "distill"} if {"ppo", "distill"} <= set(methods) else set(trained[:2])
    rows = [row for row in pairs.to_dict("records") if {row[side].partition("@")[0] for side in ("a", "b")} == chosen]
    rows.sort(key=lambda row: (row["noise"], -1 if pd.isna(row["budget"]) else row["budget"], row["beta"]))
    return [f"{condition_text(row)}: {_uncorrected(row)}." for row in rows]


def _uncorrected(row: Mapping[Any, Any]) -> str:
    interval = Interval(row["estimate"], row["low"], row["high"], row["seeds"], row["questions"])
    p = row["p_value"]
    pair = PairComparison(row["a"], row["b"], interval, p, p, row["effect_size"], p < statistics.LEVEL)
    return _sentence(pair, row["metric"], "p").removesuffix(")") + f"; Holm over all pairs {row['p_holm']:.2g})"
