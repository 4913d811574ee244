"""The tables of the comparison, computed once and shown as HTML and as Markdown."""

import math
from typing import Any, NamedTuple

import pandas as pd

from eightball_ppo.comparison.report.data import ComparisonData
from eightball_ppo.comparison.wording import SPLIT_NAMES
from eightball_ppo.config.registry import METHODS, REFERENCE
from eightball_ppo.report.style import row_name

MAX_FLIPS = 30
MIN_BAR = -1.0  # at which the drawing of an interval is cut
MIN_BAR_RANGE = 0.02  # that the full width of such a drawing covers at least
TITLES = {
    "optimum_fraction": "share of the optimum",
    "objective": "objective",
    "gold_accuracy": "gold accuracy",
    "judge_agreement": "agreement with the judge",
    "gold_probability": "gold probability",
    "brier": "Brier score",
    "nll": "NLL",
    "ece": "ECE",
    "aurc": "AURC",
    "kl": "KL",
    "expected_score": "expected score",
    "score_at_equal_kl": "expected score at equal KL",
    "frontier_distance": "below the frontier",
    "win_rate": "win rate",
    "grader_calls": "grader calls",
    "episodes": "episodes",
    "seconds": "seconds",
}
_COST = ("grader_calls", "episodes", "seconds")
COLUMNS = {
    "train": ("optimum_fraction", "objective", "expected_score", "kl", "frontier_distance", "win_rate", *_COST),
    "gold": (
        *("gold_accuracy", "gold_probability", "brier", "kl", "nll", "ece", "aurc"),
        *("expected_score", "optimum_fraction", *_COST),
    ),
    "heldout": ("judge_agreement", "kl", "expected_score", "objective", "optimum_fraction", "win_rate", *_COST),
}
"""What the tables of a split show, the metric that orders the rows first."""
BRIEF = {
    True: ("gold_accuracy", "gold_probability", "brier", "kl"),
    False: ("judge_agreement", "kl", "expected_score"),
}
"""The held-out columns of the short table, with and without gold labels; none of them rewards doing nothing."""


class Condition(NamedTuple):
    """The wrong grades (`LabelNoise.name`), and the most grades that training could observe (None: no limit)."""

    noise: str = ""
    budget: int | None = None

    @property
    def text(self) -> str:
        """The condition in words; empty for the plain one."""
        noise = [f"noise {self.noise}"] if self.noise else []
        return ", ".join([*noise, *([f"{self.budget:,} grader calls allowed"] if self.budget is not None else [])])


class Interval(NamedTuple):
    """An estimate with its 95 % interval; None where unknown."""

    estimate: float | None
    low: float | None = None
    high: float | None = None


def select(frame: pd.DataFrame, condition: Condition, **equal: Any) -> pd.DataFrame:
    """The rows of one condition with the given values, such as `beta=0.1`."""
    same_budget = frame["budget"].isna() if condition.budget is None else frame["budget"].eq(condition.budget)
    chosen = (frame["noise"] == condition.noise) & same_budget.fillna(False).astype(bool)
    for column, value in equal.items():
        chosen &= frame[column] == value
    return frame[chosen]


def conditions(data: ComparisonData) -> list[Condition]:
    """All conditions, the plainest first; at least one."""
    rows = zip(data.results["noise"], data.results["budget"], strict=True)
    found = {Condition(noise, None if pd.isna(budget) else int(budget)) for noise, budget in rows}
    found |= {Condition(run["noise"], run["budget"]) for run in data.failed_runs}
    return sorted(found or {Condition()}, key=lambda one: (one.noise, one.budget is not None, -(one.budget or 0)))


def betas(data: ComparisonData) -> list[float]:
    """The betas of all runs, those that failed included."""
    return sorted({*data.results["beta"], *(run["beta"] for run in data.failed_runs)})


def splits(data: ComparisonData) -> list[str]:
    """The splits that were measured, training questions first."""
    return [split for split in SPLIT_NAMES if (data.results["split"] == split).any()] or list(SPLIT_NAMES)


def blocks(data: ComparisonData, condition: Condition) -> list[dict[str, Any]]:
    """The tables of one condition: one for every beta and split with any run."""
    found = [block(data, condition, beta, split) for beta in betas(data) for split in splits(data)]
    return [table for table in found if table["rows"]]


def block(data: ComparisonData, condition: Condition, beta: float, split: str) -> dict[str, Any]:
    """One table: methods by the first column, then those that ask the grader again, those that failed, the reference.

    A row's `refs` number the `reasons` for which its runs failed.
    """
    results = select(data.results, condition, beta=beta, split=split)
    intervals = select(data.intervals, condition, beta=beta, split=split)
    failed: dict[str, list[dict[str, Any]]] = {}
    for run in data.failed_runs:
        if run["beta"] == beta and Condition(run["noise"], run["budget"]) == condition:
            failed.setdefault(row_name(run["method"], run["threshold"]), []).append(run)
    reasons = list(dict.fromkeys(_reason(run) for runs in failed.values() for run in runs))
    gold = bool(results["gold_accuracy"].notna().any())
    columns = COLUMNS["gold" if gold else split]
    max_seeds = max(results.groupby("name")["seed"].nunique(), default=0)
    rows = []
    for name in dict.fromkeys([*results["name"], *failed]):
        row = _row(name, results[results["name"] == name], intervals[intervals["name"] == name], columns)
        runs, seeds = failed.get(name, []), row["seeds"]
        fewer = f"{seeds} seed{'s' * (seeds > 1)}" if seeds < max_seeds else ""
        failures = f"{seeds} of {seeds + len({run['seed'] for run in runs})} seeds" if runs else fewer
        kind = "asks the grader about every text" if row["asks_grader"] else "baseline" * row["baseline"]
        row["note"] = ", ".join(filter(None, (kind, failures)))
        row["refs"] = [reasons.index(reason) + 1 for reason in dict.fromkeys(map(_reason, runs))]
        rows.append(row)
    rows.sort(key=_order)
    _add_bars(rows)
    of_optimum = _of_optimum(results, select(data.results, condition, beta=beta, split="train", name="exact"))
    return {
        "beta": beta,
        "split": split,
        "title": ", ".join(filter(None, (f"beta {beta:g} {of_optimum}".strip(), SPLIT_NAMES[split], condition.text))),
        "of_optimum": of_optimum,
        "gold": gold,
        "columns": columns,
        "rows": rows,
        "reasons": reasons,
    }


def _of_optimum(results: pd.DataFrame, exact: pd.DataFrame) -> str:
    """How sure the optimum is, and how much of it the student can reach: what `exact` reaches on training questions."""
    known = {
        "the optimum's most probable answer: {:.3f} on average": results["optimum_confidence"].mean(),
        "the student's own ceiling, by exact on training questions: {:.3f} of it": exact["optimum_fraction"].mean(),
    }
    words = [text.format(value) for text, value in known.items() if pd.notna(value)]
    return f"({'; '.join(words)})" if words else ""


def is_baseline(name: str) -> bool:
    """Whether a row is of a method that calls the grader to answer, or is another classifier than the reference."""
    spec = METHODS.get(name.partition("@")[0])
    return spec is not None and (spec.baseline or spec.asks_grader)


def _reason(run: dict[str, Any]) -> str:
    return " ".join(run["why"].split())[:400]


def _row(name: str, results: pd.DataFrame, intervals: pd.DataFrame, columns: tuple[str, ...]) -> dict[str, Any]:
    def interval(metric: str) -> Interval:
        known = intervals[intervals["metric"] == metric]
        if len(known):
            return Interval(*known[["estimate", "low", "high"]].iloc[0])
        return Interval(float(results[metric].mean()) if len(results) else None)

    method = name.partition("@")[0]
    cells = {metric: interval(metric) for metric in columns}
    return {
        "name": name,
        "reference": name == REFERENCE,
        "asks_grader": method in METHODS and METHODS[method].asks_grader,
        "baseline": is_baseline(name),
        "seeds": int(results["seed"].nunique()),
        "main": cells[columns[0]],
        "cells": cells,
    }


def _order(row: dict[str, Any]) -> tuple[Any, ...]:
    """The highest value of the first column first; then baselines, methods whose runs failed, the reference."""
    value = row["main"].estimate
    rank = math.inf if pd.isna(value) else -value
    return row["reference"], not row["seeds"], row["baseline"], rank, row["name"]


def _add_bars(rows: list[dict[str, Any]]) -> None:
    """Adds `bar`, the places of estimate and interval, and `ticks`, the places of 0 and 1, in percent of the width.

    All rows of a table share the scale; the reference has no bar.
    """
    ends = [end for row in rows if not row["reference"] for end in row["main"] if pd.notna(end)]
    low, high = max(min(ends, default=0.0), MIN_BAR), max(ends, default=1.0)
    if high - low < MIN_BAR_RANGE:
        low, high = (low + high - MIN_BAR_RANGE) / 2, (low + high + MIN_BAR_RANGE) / 2

    def place(value: float | None) -> float | None:
        return None if pd.isna(value) else round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 2)

    for row in rows:
        bar = dict(zip(("at", "low", "high"), map(place, row["main"]), strict=True))
        row["bar"] = None if bar["at"] is None or row["reference"] else bar
        row["ticks"] = [place(value) for value in (0.0, 1.0) if low <= value <= high]


def brief(data: ComparisonData, condition: Condition) -> list[dict[str, Any]]:
    """For every beta one narrow table: held-out columns, the share of the optimum on training texts, the calls."""
    found = []
    for beta in betas(data):
        tables = {split: block(data, condition, beta, split) for split in splits(data)}
        last = tables[splits(data)[-1]]
        if last["rows"]:
            trained = {row["name"]: row["cells"]["optimum_fraction"] for row in tables[splits(data)[0]]["rows"]}
            columns = BRIEF[last["gold"]] if last["split"] == "heldout" else ("objective", "kl")
            found.append({"beta": beta, "last": last, "columns": columns, "trained": trained})
    return found


def pair_groups(data: ComparisonData) -> list[dict[str, Any]]:
    """A table of exploratory pairs for every condition, beta, split and metric, the plainest condition first."""
    order: dict[Any, int] = {name: place for place, name in enumerate([*SPLIT_NAMES, *TITLES])}
    found = []
    exploratory = data.pairs[data.pairs["primary"].ne(True)]
    for condition in conditions(data):
        groups = list(select(exploratory, condition).groupby(["beta", "split", "metric"]))
        groups.sort(key=lambda group: (group[0][0], order[group[0][1]], order[group[0][2]]))
        for (beta, split, metric), rows in groups:
            parts = (TITLES[str(metric)], f"beta {beta:g}", SPLIT_NAMES[str(split)], condition.text)
            table = rows.sort_values(["p_holm", "p_value", "a", "b"], kind="stable").to_dict("records")
            ahead = sum(row["verdict"] == "ahead" for row in table)
            found.append({"title": ", ".join(filter(None, parts)), "rows": table, "ahead": ahead})
    return found


def flips(data: ComparisonData) -> list[dict[Any, Any]]:
    """The questions whose answer changed, the largest change first."""
    rows = data.flips.sort_values(["change", "name", "question"], ascending=[False, True, True], kind="stable")
    return rows.head(MAX_FLIPS).to_dict("records")
