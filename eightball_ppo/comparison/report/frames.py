"""The numbers behind the figures of the comparison: tidy frames, a panel for every value of the column `panel`."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd

from eightball_ppo.comparison.report.data import ComparisonData
from eightball_ppo.comparison.report.tables import TITLES, Condition, betas, conditions, select
from eightball_ppo.comparison.wording import SPLIT_NAMES
from eightball_ppo.config.registry import REFERENCE
from eightball_ppo.functional.calibration import reliability_bins, risk_coverage
from eightball_ppo.report.style import styles

GRADER, BEFORE = "grader argmax", "reference"  # columns of the label shares that are no method
CLOSE_UP = ", close up"  # panels without the reference and without noise or a budget
MIN_CLOSE_UP_RUNS = 4
MAX_MEAN_POINTS = 120  # of the mean over several seeds
EMPTY = pd.DataFrame({"panel": []})


def run_points(data: ComparisonData, columns: list[str]) -> pd.DataFrame:
    """Every run that has all of `columns`, a panel for every split; `main`: whether of the plainest condition."""
    known = data.results[data.results[columns].notna().all(axis=1)]
    if not len(known):
        return EMPTY
    known = known.assign(
        panel=known["split"].map(SPLIT_NAMES),
        main=known.index.isin(select(known, conditions(data)[0]).index),
        seed=known["seed"].astype("Int64"),
    ).sort_values("split", key=lambda names: names.map(list(SPLIT_NAMES).index), kind="stable")
    return known[["panel", "name", "seed", "beta", "noise", "budget", "main", *columns]].reset_index(drop=True)


def score_kl_points(data: ComparisonData) -> pd.DataFrame:
    """`kind`: run, frontier (the optimum at many betas), beta (the optimum at the runs' betas)."""
    known = run_points(data, ["kl", "expected_score"]).assign(kind="run")
    if not len(known):
        return known
    known = _with_close_up(known)
    curve = data.frontier.assign(panel=data.frontier["split"].map(SPLIT_NAMES), kind="frontier")
    curve = pd.concat([curve, curve.assign(panel=curve["panel"] + CLOSE_UP)])
    curve = curve[curve["panel"].isin(known["panel"])].sort_values(["panel", "kl"], kind="stable")
    marks: list[dict[str, Any]] = []
    for panel, rows in curve.sort_values("beta").groupby("panel"):
        for beta in sorted(known["beta"].unique()):
            if rows["beta"].min() <= beta <= rows["beta"].max():
                log_betas = np.log(rows["beta"])
                point = {name: np.interp(np.log(beta), log_betas, rows[name]) for name in ("kl", "expected_score")}
                marks.append({"panel": panel, "kind": "beta", "beta": beta, **point})
    parts = [known, curve.drop(columns="split"), pd.DataFrame(marks)]
    frame = pd.concat([part for part in parts if len(part)], ignore_index=True)
    return frame.assign(main=frame["main"].eq(True))


def gold_points(data: ComparisonData) -> pd.DataFrame:
    """Expected score and gold accuracy of every run on held-out questions."""
    known = run_points(data, ["expected_score", "gold_accuracy"])
    known = known[known["panel"] == SPLIT_NAMES["heldout"]].reset_index(drop=True)
    return _with_close_up(known) if len(known) else known


def _with_close_up(known: pd.DataFrame) -> pd.DataFrame:
    """Adds panels without the runs that lie far off."""
    near = known[(known["name"] != REFERENCE) & known["main"]]
    if len(near) < MIN_CLOSE_UP_RUNS or len(near) == len(known):
        return known
    return pd.concat([known, near.assign(panel=near["panel"] + CLOSE_UP)], ignore_index=True)


def curve_points(data: ComparisonData, x: str) -> tuple[pd.DataFrame, str]:
    """Learning curves of single seeds (`kind` seed) and their mean, a panel for every beta.

    Args:
        data: of the comparison.
        x: `episode` or `grader_calls`. A method with one point along it has one row, whose `episode` is NaN.

    Returns:
        (frame, name of the metric).
    """
    y = "optimum_fraction" if data.curves["optimum_fraction"].notna().any() else "expected_score"
    known = select(data.curves[data.curves[y].notna()], conditions(data)[0])
    parts: list[pd.DataFrame] = []
    has_curve = False
    for (beta, name), rows in known.groupby(["beta", "name"]):
        if rows.groupby("seed").size().max() > 1:
            has_curve = True
            seeds = rows[["seed", x, y]].sort_values(["seed", x], kind="stable")
            mean = _mean([seed for _, seed in seeds.groupby("seed")], x, y)
        else:
            seeds = rows[["seed", x, y]].assign(**{x: np.nan} if x == "episode" else {})
            mean = seeds[[x, y]].mean().to_frame().T
        for kind, part in (("seed", seeds), ("mean", mean)):
            parts.append(part.assign(panel=f"beta {beta:g}", name=str(name), kind=kind))
    if not has_curve:
        return EMPTY, y
    frame = pd.concat(parts, ignore_index=True).astype({"seed": "Int64"})
    return frame[["panel", "name", "kind", "seed", x, y]], y


def _mean(seeds: list[pd.DataFrame], x: str, y: str) -> pd.DataFrame:
    """The mean over seeds on the range that all of them cover, interpolated linearly."""
    low, high = max(seed[x].min() for seed in seeds), min(seed[x].max() for seed in seeds)
    places = np.unique(np.concatenate([seed[x] for seed in seeds]))
    places = places[(low <= places) & (places <= high)]
    if len(places) > MAX_MEAN_POINTS:
        places = places[np.unique(np.linspace(0, len(places) - 1, MAX_MEAN_POINTS).round().astype(int))]
    return pd.DataFrame({x: places, y: np.mean([np.interp(places, seed[x], seed[y]) for seed in seeds], axis=0)})


def coverage_points(data: ComparisonData) -> pd.DataFrame:
    """Coverage and accuracy at each threshold on the grader's confidence, thresholds ascending."""
    return data.coverage.dropna(subset=["threshold", "coverage"]).sort_values("threshold").assign(panel="")


def reliability_points(data: ComparisonData) -> pd.DataFrame:
    """Confidence, accuracy and share of the bins of the calibration error, seeds pooled; a panel for every beta."""
    rows: list[dict[str, Any]] = []
    for panel, name, runs in _confidences(data):
        bins = reliability_bins(runs["confidence"].to_numpy(), runs["correct"].to_numpy())
        rows += [{"panel": panel, "name": name, **bin_} for bin_ in bins]
    return pd.DataFrame(rows) if rows else EMPTY


def risk_coverage_points(data: ComparisonData) -> pd.DataFrame:
    """Risk of answering only the most confident share of the questions, mean over seeds; a panel for every beta."""
    parts: list[pd.DataFrame] = []
    places = np.linspace(0.02, 1, 50)
    for panel, name, runs in _confidences(data):
        curves = [risk_coverage(*run[["confidence", "correct"]].to_numpy().T) for _, run in runs.groupby("seed")]
        risk = np.mean([np.interp(places, *curve) for curve in curves], axis=0)
        parts.append(pd.DataFrame({"panel": panel, "name": name, "coverage": places, "risk": risk}))
    return pd.concat(parts, ignore_index=True) if parts else EMPTY


def _confidences(data: ComparisonData) -> Iterator[tuple[str, str, pd.DataFrame]]:
    """(panel, method, questions of its runs) of the plainest condition."""
    if len(data.confidence):
        known = select(data.confidence, conditions(data)[0])
        for (beta, name), runs in known.groupby(["beta", "name"]):
            yield f"beta {beta:g}", str(name), runs


def label_shares(data: ComparisonData) -> pd.DataFrame:
    """Mean probability of every label: the grader's argmax, the reference, the methods; a panel for every beta."""
    split = "heldout" if (data.results["split"] == "heldout").any() else "train"
    rows: list[dict[str, Any]] = []
    for beta in betas(data):
        runs = select(data.results, conditions(data)[0], beta=beta, split=split)
        histograms = {GRADER: runs["grader_histogram"]}
        for name in (REFERENCE, *(name for name in styles(runs["name"]) if name != REFERENCE)):
            histograms[BEFORE if name == REFERENCE else name] = runs.loc[runs["name"] == name, "label_histogram"]
        for name, known in histograms.items():
            for label in data.labels if len(known) else []:
                share = float(np.mean([histogram[label] for histogram in known]))
                rows.append({"panel": f"beta {beta:g}", "name": name, "label": label, "probability": share})
    return pd.DataFrame(rows) if rows else EMPTY


def sensitivity_points(data: ComparisonData, kind: str) -> pd.DataFrame:
    """Held-out metrics at every level of `kind` (noise or budget), the other condition plain.

    Each row has estimate and interval, or mean, minimum and maximum over seeds where there is no interval; there is a
    panel for every metric and beta.
    """
    plain, other = conditions(data)[0], "budget" if kind == "noise" else "noise"
    found = [condition for condition in conditions(data) if getattr(condition, other) == getattr(plain, other)]
    if len(found) < 2:
        return EMPTY
    if kind == "budget":
        found.sort(key=lambda condition: float("inf") if condition.budget is None else condition.budget)
    rows: list[dict[str, Any]] = []
    for metric in ("gold_accuracy", "objective"):
        for beta in betas(data):
            for position, condition in enumerate(found):
                budget = "no limit" if condition.budget is None else f"{condition.budget:,}"
                level = {"position": position, "level": (condition.noise or "0") if kind == "noise" else budget}
                key = {"panel": f"{TITLES[metric]}, beta {beta:g}", "metric": metric, "beta": beta, **level}
                rows += [key | row for row in _estimates(data, condition, beta, metric)]
    return pd.DataFrame(rows) if rows else EMPTY


def _estimates(data: ComparisonData, condition: Condition, beta: float, metric: str) -> list[dict[str, Any]]:
    intervals = select(data.intervals, condition, beta=beta, split="heldout", metric=metric)
    rows: list[dict[str, Any]] = []
    for name, runs in select(data.results, condition, beta=beta, split="heldout").groupby("name"):
        known, values = intervals[intervals["name"] == name], runs[metric].dropna()
        if len(known):
            rows.append({"name": name, **known.iloc[0][["estimate", "low", "high"]]})
        elif len(values):
            rows.append({"name": name, "estimate": values.mean(), "low": values.min(), "high": values.max()})
    return rows
