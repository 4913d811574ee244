"""The numbers behind the figures of the comparison: tidy frames, a panel for every value of the column `panel`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from eightball_ppo.comparison.report.tables import (
    SPLITS,
    Condition,
    betas,
    conditions,
    metric_words,
    select,
    split_words,
)
from eightball_ppo.config.registry import REFERENCE
from eightball_ppo.report.style import styles

if TYPE_CHECKING:
    from eightball_ppo.comparison.report.data import ComparisonData

GRADER, BEFORE = "grader's favourites", "reference"  # rows of the label histograms that are no method
CLOSER = ", close up"  # panels without the reference and without noise or a budget
_FEWEST_CLOSER = 4  # runs that such a panel is worth its room for
_MOST_POINTS = 120  # of the mean of several seeds
_NOTHING = pd.DataFrame({"panel": []})


def run_points(data: ComparisonData, columns: list[str]) -> pd.DataFrame:
    """Every run that has all of `columns`, a panel for every split; `main` are those of the plainest condition."""
    known = data.results[data.results[columns].notna().all(axis=1)]
    if not len(known):
        return _NOTHING
    order = {words: place for place, words in enumerate(SPLITS.values())}
    known = known.assign(
        panel=known["split"].map(split_words),
        main=known.index.isin(select(known, conditions(data)[0]).index),
        beta=known["beta"].fillna(min(betas(data), default=0.0)),
        seed=known["seed"].astype("Int64"),
    ).sort_values("panel", key=lambda panels: panels.map(order), kind="stable")
    return known[["panel", "name", "seed", "beta", "noise", "budget", "main", *columns]].reset_index(drop=True)


def score_kl_points(data: ComparisonData) -> pd.DataFrame:
    """`kind`: run, frontier (the optimum at many betas), beta (where the runs' betas lie on it)."""
    known = run_points(data, ["kl", "expected_score"]).assign(kind="run")
    if not len(known):
        return known
    known = _with_closer(known)
    curve = data.frontier.assign(panel=data.frontier["split"].map(split_words), kind="frontier")
    curve = pd.concat([curve, curve.assign(panel=curve["panel"] + CLOSER)])
    curve = curve[curve["panel"].isin(known["panel"])].sort_values(["panel", "kl"], kind="stable")
    marks: list[dict[str, Any]] = []
    for panel, own in curve[curve["beta"] > 0].sort_values("beta").groupby("panel"):
        for beta in sorted(known["beta"].unique()):
            if own["beta"].min() <= beta <= own["beta"].max():
                place = {
                    column: np.interp(np.log(beta), np.log(own["beta"]), own[column])
                    for column in ("kl", "expected_score")
                }
                marks.append({"panel": panel, "kind": "beta", "beta": beta, **place})
    parts = [known, curve.drop(columns="split"), pd.DataFrame(marks)]
    frame = pd.concat([part for part in parts if len(part)], ignore_index=True)
    return frame.assign(main=frame["main"].eq(True))


def gold_points(data: ComparisonData) -> pd.DataFrame:
    """Held-out score and gold accuracy of every run that has both."""
    known = run_points(data, ["expected_score", "gold_accuracy"])
    known = known[known["panel"] == SPLITS["heldout"]].reset_index(drop=True)
    return _with_closer(known) if len(known) else known


def _with_closer(known: pd.DataFrame) -> pd.DataFrame:
    """Further panels that leave out what lies far off."""
    closer = known[(known["name"] != REFERENCE) & known["main"]]
    if len(closer) < _FEWEST_CLOSER or len(closer) == len(known):
        return known
    return pd.concat([known, closer.assign(panel=closer["panel"] + CLOSER)], ignore_index=True)


def curve_points(data: ComparisonData, x: str) -> tuple[pd.DataFrame, str]:
    """Rows of single seeds (`kind` seed) and of their mean, and the metric; a panel for every beta. What never moved
    along `x` is one row; it has no x where `x` is the episode."""
    y = "optimum_fraction" if data.curves["optimum_fraction"].notna().any() else "expected_score"
    known = data.curves[data.curves[y].notna()]
    parts: list[pd.DataFrame] = []
    moves = False
    for beta in betas(data):
        rows = select(known, conditions(data)[0], beta=beta) if len(known) else known
        for name, own in rows.groupby("name"):
            whole = own.dropna(subset=[x])
            if whole.groupby("seed").size().max() > 1:
                moves = True
                seeds = whole[["seed", x, y]].sort_values(["seed", x], kind="stable")
                mean = _mean([seed for _, seed in seeds.groupby("seed")], x, y)
            else:
                seeds = own.groupby("seed")[[x, y]].last().reset_index()
                if x == "episode":
                    seeds[x] = np.nan
                mean = seeds[[x, y]].mean().to_frame().T
            for kind, part in (("seed", seeds), ("mean", mean)):
                parts.append(part.assign(panel=f"beta {beta:g}", name=name, kind=kind))
    if not moves:
        return _NOTHING, y
    frame = pd.concat(parts, ignore_index=True).astype({"seed": "Int64"})
    return frame[["panel", "name", "kind", "seed", x, y]], y


def _mean(seeds: list[pd.DataFrame], x: str, y: str) -> pd.DataFrame:
    """The mean over seeds where all of them have been, between their points on straight lines."""
    low, high = max(float(seed[x].min()) for seed in seeds), min(float(seed[x].max()) for seed in seeds)
    places = np.unique(np.concatenate([seed[x].to_numpy(float) for seed in seeds]))
    places = places[(low <= places) & (places <= high)]
    if len(places) > _MOST_POINTS:
        places = places[np.unique(np.linspace(0, len(places) - 1, _MOST_POINTS).round().astype(int))]
    values = [np.interp(places, seed[x].to_numpy(float), seed[y].to_numpy(float)) for seed in seeds]
    return pd.DataFrame({x: places, y: np.mean(values, axis=0)})


def coverage_points(data: ComparisonData) -> pd.DataFrame:
    """What a threshold on the confidence keeps, in the order of the thresholds."""
    return data.coverage.dropna(subset=["threshold", "coverage"]).sort_values("threshold").assign(panel="")


def label_shares(data: ComparisonData) -> pd.DataFrame:
    """Mean probability of every label: the grader's favourites, the reference, the methods; a panel for every beta."""
    split = "heldout" if (data.results["split"] == "heldout").any() else "train"
    rows: list[dict[str, Any]] = []
    for beta in betas(data):
        own = select(data.results, conditions(data)[0], beta=beta, split=split)
        reference = own[own["method"] == REFERENCE]
        named = [(GRADER, own["grader_histogram"]), (BEFORE, reference["label_histogram"])]
        names = [name for name in styles(own["name"]) if name != REFERENCE]
        named += [(name, own.loc[own["name"] == name, "label_histogram"]) for name in names]
        for name, histograms in named:
            known = [histogram for histogram in histograms if isinstance(histogram, dict)]
            for label in data.labels if known else []:
                share = float(np.mean([histogram.get(label, np.nan) for histogram in known]))
                rows.append({"panel": f"beta {beta:g}", "name": name, "label": label, "probability": share})
    return pd.DataFrame(rows) if rows else _NOTHING


def sensitivity_points(data: ComparisonData, kind: str) -> pd.DataFrame:
    """Held-out metrics at every level of `kind` (noise or budget), the other condition at its plainest: estimate and
    interval where there is one, else mean, lowest and highest seed; a panel for every metric and beta."""
    plain = conditions(data)[0] if len(data.results) else Condition()
    other = "budget" if kind == "noise" else "noise"
    found = [own for own in conditions(data) if getattr(own, other) == getattr(plain, other)]
    if kind == "budget":
        found.sort(key=lambda own: float("inf") if own.budget is None else own.budget)
    if len(found) < 2:
        return _NOTHING
    rows: list[dict[str, Any]] = []
    for metric in ("gold_accuracy", "objective"):
        for beta in betas(data):
            for position, own in enumerate(found):
                level = f"{own.noise:g}" if kind == "noise" else "no limit" if own.budget is None else f"{own.budget:,}"
                place = {"panel": f"{metric_words(metric)}, beta {beta:g}", "metric": metric, "beta": beta}
                place |= {"position": position, "level": level}
                rows += [place | row for row in _estimates(data, own, beta, metric)]
    return pd.DataFrame(rows) if rows else _NOTHING


def _estimates(data: ComparisonData, condition: Condition, beta: float, metric: str) -> list[dict[str, Any]]:
    intervals = select(data.intervals, condition, beta=beta, split="heldout", metric=metric)
    rows: list[dict[str, Any]] = []
    for name, own in select(data.results, condition, beta=beta, split="heldout").groupby("name"):
        known, values = intervals[intervals["name"] == name], own[metric].dropna()
        if len(known):
            rows.append({"name": name, **{end: float(known[end].iloc[0]) for end in ("estimate", "low", "high")}})
        elif len(values):
            rows.append({"name": name, "estimate": values.mean(), "low": values.min(), "high": values.max()})
    return rows
