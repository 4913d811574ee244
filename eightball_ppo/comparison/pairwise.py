"""Statistics over the runs of a comparison: intervals per method, differences of pairs, and sentences about them."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from eightball_ppo.comparison.results import SPLITS, RunResult, Tasks, per_question
from eightball_ppo.comparison.wording import condition_text, display_name, sentence
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.evaluation import GradedSplit
from eightball_ppo.functional import intervals, objective, statistics
from eightball_ppo.functional.intervals import Draw
from eightball_ppo.functional.statistics import PairComparison
from eightball_ppo.report.style import row_name

MIN_KL = 1e-6  # nats, below which a policy counts as the reference
EQUAL_KL = "score_at_equal_kl"


class Metric(NamedTuple):
    """A metric: what is possible, and for pairs its name in a sentence, and whether higher is better.

    `share` says whether it is a share of texts, so that `--margin` applies to it.
    """

    bounds: tuple[float, float]
    unit: str = ""
    higher_is_better: bool = True
    share: bool = False


_SHARE, _POSITIVE = (0.0, 1.0), (0.0, math.inf)
METRICS = {
    "gold_accuracy": Metric(_SHARE, "gold accuracy", share=True),
    "judge_agreement": Metric(_SHARE, "agreement with the judge", share=True),
    "gold_probability": Metric(_SHARE, "gold probability", share=True),
    "brier": Metric((0.0, 2.0), "Brier score", False),
    "nll": Metric(_POSITIVE),
    "ece": Metric(_SHARE),
    "aurc": Metric(_SHARE),
    "kl": Metric(_POSITIVE),
    "objective": Metric(intervals.UNBOUNDED, "objective"),
    "expected_score": Metric(intervals.UNBOUNDED),
    EQUAL_KL: Metric(intervals.UNBOUNDED, "expected score at equal KL"),
    "optimum_fraction": Metric((-math.inf, 1.0)),
    "frontier_distance": Metric(_POSITIVE),
}
RunsByMethod = dict[str, dict[Draw, RunResult]]


def compare_methods(results: list[RunResult], tasks: Tasks, config: CompareConfig) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Computes intervals, and differences of pairs.

    `config.primary_pairs`, in their metric on held-out texts in all conditions, are one family of Holm's correction,
    which was named before the first run. The others are exploratory: a family for each condition, split and metric.

    Args:
        results: The finished runs.
        tasks: The shared questions, scores and references.
        config: The options of the comparison.

    Returns:
        (intervals, pairs): a row per method resp. pair, condition, split and metric; `primary` marks the pairs of the
        primary family, which come first.
    """
    groups: dict[tuple[Any, ...], RunsByMethod] = {}
    for run in results:
        spec = run.spec
        runs = groups.setdefault((spec.beta, spec.noise, spec.budget), {})
        runs.setdefault(row_name(spec.method, spec.threshold), {})[Draw(spec.reference, spec.seed)] = run
    graded = {split: {number: task.graded(split) for number, task in tasks.items()} for split in SPLITS}
    means: list[dict[str, Any]] = []
    exploratory: list[dict[str, Any]] = []
    family: list[tuple[dict[str, Any], PairComparison]] = []
    for condition in sorted(groups):
        for split in SPLITS:
            key = {**dict(zip(("beta", "noise", "budget"), condition, strict=True)), "split": split}
            values = _values(groups[condition], split, graded[split])
            means += [key | row for row in _interval_rows(values)]
            primary = _primary_metric(values) if split == "heldout" else None
            for metric, found in _pairs(groups[condition], values, split, graded[split], config.margin):
                if metric == primary:
                    asked = [pair for pair in map(_oriented(config), found) if pair is not None]
                    family += [(key | {"metric": metric}, pair) for pair in asked]
                exploratory += [_pair_row(key, metric, pair, config.margin) for pair in statistics.holm(found)]
    adjusted = statistics.holm([pair for _, pair in family])
    rows = [
        _pair_row(key, key["metric"], pair, config.margin) | {"primary": True}
        for (key, _), pair in zip(family, adjusted, strict=True)
    ]
    return pd.DataFrame(means), pd.DataFrame([*rows, *({**row, "primary": False} for row in exploratory)])


Arrays = dict[str, dict[str, dict[Draw, np.ndarray]]]


def _values(runs: RunsByMethod, split: str, graded: Mapping[int, GradedSplit]) -> Arrays:
    """Returns metric -> row name -> draw -> values of the questions, shape [N]."""
    values: Arrays = {}
    for name, by_draw in runs.items():
        for draw, run in by_draw.items():
            for metric, value_N in per_question(run, split, graded[draw.reference]).items():
                values.setdefault(metric, {}).setdefault(name, {})[draw] = value_N
    return values


def _interval_rows(values: Arrays) -> Iterator[dict[str, Any]]:
    for metric, by_name in values.items():
        for name, by_draw in by_name.items():
            spread = intervals.estimate_variance([(1.0, by_draw)])
            assert spread is not None
            method, at, threshold = name.partition("@")
            named = {"method": method, "threshold": float(threshold) if at else np.nan, "metric": metric}
            yield {**named, **asdict(spread.interval(METRICS[metric].bounds))}


def _primary_metric(values: Arrays) -> str:
    """Gold accuracy; without gold labels, agreement with the judge."""
    return "gold_accuracy" if "gold_accuracy" in values else "judge_agreement"


def _pairs(
    runs: RunsByMethod, values: Arrays, split: str, graded: Mapping[int, GradedSplit], margin: float
) -> Iterator[tuple[str, list[PairComparison]]]:
    """(metric, pairs) of every metric that pairs are compared in."""
    for metric, (bounds, unit, _, share) in METRICS.items():
        by_name = values.get(metric, {})
        if metric == EQUAL_KL:
            found = [_at_equal_kl(a, b, runs, split, graded) for a, b in combinations(runs, 2)]
        elif unit and by_name:
            widest = bounds[1] - bounds[0]
            options = (margin if share else 0.0, (-widest, widest))
            found = [
                statistics.compare_pair((a, by_name[a]), (b, by_name[b]), *options) for a, b in combinations(by_name, 2)
            ]
        else:
            continue
        if kept := [pair for pair in found if pair is not None]:
            yield metric, kept


def _at_equal_kl(
    a: str, b: str, runs: RunsByMethod, split: str, graded: Mapping[int, GradedSplit]
) -> PairComparison | None:
    """Expected scores on the geometric paths from the reference to the policies, where all have the same mean KL.

    It is the largest that all policies of both methods reach. None if one of them is the reference, which has none.
    """

    def kl(draw: Draw, run: RunResult) -> float:
        return objective.kl_exact_N(run.logp_NK[split], graded[draw.reference].ref_logp_NK).mean().item()

    common = min(kl(draw, run) for name in (a, b) for draw, run in runs[name].items())
    if common < MIN_KL:
        return None

    def scores(name: str) -> dict[Draw, np.ndarray]:
        found = {}
        for draw, run in runs[name].items():
            data = graded[draw.reference]
            path_NK = objective.path_logp_at_kl_NK(run.logp_NK[split], data.ref_logp_NK, common)
            found[draw] = objective.expected_score_N(path_NK, data.score_NK).numpy()
        return found

    return statistics.compare_pair((a, scores(a)), (b, scores(b)), 0.0)


def _oriented(config: CompareConfig) -> Any:
    """Turns a pair into the contrast of the primary family that it is; None if it is none."""

    def turn(pair: PairComparison) -> PairComparison | None:
        names = tuple(name.partition("@")[0] for name in (pair.a, pair.b))
        if names in config.primary_pairs:
            return pair
        return statistics.reverse(pair) if names[::-1] in config.primary_pairs else None

    return turn


def _pair_row(key: Mapping[str, Any], metric: str, pair: PairComparison, margin: float) -> dict[str, Any]:
    row = asdict(pair)
    row |= row.pop("difference")
    _, unit, higher_is_better, share = METRICS[metric]
    names = {name: display_name(name) for name in (pair.a, pair.b)}
    text = sentence(pair, names, unit, margin if share else None, higher_is_better=higher_is_better)
    return {**key, "metric": metric, **row, "sentence": text[0].upper() + text[1:]}


def headline(pairs: pd.DataFrame) -> list[str]:
    """A sentence about every pair of the primary family, plainest condition first."""
    if pairs.empty:
        return []
    rows = pairs[pairs["primary"]].to_dict("records")
    rows.sort(key=lambda row: (row["noise"], -1 if pd.isna(row["budget"]) else row["budget"], row["beta"]))
    return [f"{condition_text(row)}: {row['sentence']}." for row in rows]
