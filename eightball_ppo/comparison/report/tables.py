"""The tables of the comparison, made once and shown as HTML and as Markdown."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import pandas as pd

from eightball_ppo.config.registry import REFERENCE
from eightball_ppo.report.pages import missing
from eightball_ppo.report.style import row_name

if TYPE_CHECKING:
    from eightball_ppo.comparison.report.data import ComparisonData

LARGEST_FLIPS = 30
SENTENCES = 8  # pairs that are told in words
WIDEST_BELOW = -1.0  # share of the optimum below which an interval's drawing is cut
NARROWEST = 0.02  # share of the optimum that the whole width of such a drawing shows at least
SPLITS = {"train": "training questions", "heldout": "held-out questions"}
METRICS = {
    "optimum_fraction": "share of the optimum",
    "objective": "objective",
    "gold_accuracy": "gold accuracy",
    "frontier_distance": "distance below the frontier",
    "expected_score": "expected score",
    "win_rate": "win rate",
    "kl": "KL to the reference",
}
_MEANS = ("objective", "expected_score", "kl", "frontier_distance", "win_rate", "grader_calls", "episodes", "seconds")


class Condition(NamedTuple):
    """What the grades were like: the share of wrong ones, and how many could be bought (None: all)."""

    noise: float = 0.0
    budget: int | None = None

    @property
    def words(self) -> str:
        noise = [f"noise {self.noise:g}"] if self.noise else []
        return ", ".join([*noise, *([f"{self.budget:,} grader calls allowed"] if self.budget is not None else [])])


class Interval(NamedTuple):
    """An estimate with its 95 % interval, which may be missing."""

    estimate: float | None
    low: float | None = None
    high: float | None = None


def split_words(split: str) -> str:
    """What a split is called in a sentence."""
    return SPLITS.get(split, split)


def metric_words(metric: str) -> str:
    """What a metric is called in a sentence."""
    return METRICS.get(metric, metric.replace("_", " "))


def select(frame: pd.DataFrame, condition: Condition, **equal: Any) -> pd.DataFrame:
    """The rows of one condition, and of the given values; a row without a beta belongs to every beta."""
    budget = frame["budget"]
    chosen = (frame["noise"] == condition.noise) & (
        budget.isna() if condition.budget is None else budget.eq(condition.budget).fillna(False).astype(bool)
    )
    for column, value in equal.items():
        chosen &= (frame[column] == value) | (frame[column].isna() if column == "beta" else False)
    return frame[chosen]


def _condition_of(hole: dict[str, Any]) -> Condition:
    noise, budget = hole.get("noise"), hole.get("budget")
    return Condition(0.0 if missing(noise) else float(noise or 0), None if missing(budget) else int(budget or 0))


def conditions(data: ComparisonData) -> list[Condition]:
    """All of them, the plainest first."""
    rows = zip(data.results["noise"], data.results["budget"], strict=True)
    found = {Condition(float(noise), None if missing(budget) else int(budget)) for noise, budget in rows}
    found |= {_condition_of(hole) for hole in data.holes}
    return sorted(found, key=lambda one: (one.noise, one.budget is not None, -(one.budget or 0)))


def betas(data: ComparisonData) -> list[float]:
    """The prices of KL of all runs, those that failed included."""
    held = {float(hole["beta"]) for hole in data.holes if not missing(hole.get("beta"))}
    return sorted({float(beta) for beta in data.results["beta"].dropna()} | held)


def splits(data: ComparisonData) -> list[str]:
    """The splits that were measured, training questions first."""
    found = list(dict.fromkeys(data.results["split"])) or list(SPLITS)
    return sorted(found, key=lambda split: list(SPLITS).index(split) if split in SPLITS else len(SPLITS))


def blocks(data: ComparisonData, condition: Condition) -> list[dict[str, Any]]:
    """A table for every beta and split of one condition that holds anything."""
    found = [block(data, condition, beta, split) for beta in betas(data) for split in splits(data)]
    return [one for one in found if one["rows"]]


def block(data: ComparisonData, condition: Condition, beta: float, split: str) -> dict[str, Any]:
    """Methods by their share of the optimum, those that failed below, the reference last; and why runs are missing."""
    runs = select(data.results, condition, beta=beta, split=split)
    intervals = select(data.intervals, condition, beta=beta, split=split)
    holes = [
        hole
        for hole in data.holes
        if _condition_of(hole) == condition and (missing(hole.get("beta")) or float(hole["beta"]) == beta)
    ]
    reasons: list[str] = []
    most = max(runs.groupby("name")["seed"].nunique(), default=0)
    names = list(dict.fromkeys([*runs["name"], *(row_name(hole["method"], hole.get("threshold")) for hole in holes)]))
    rows = []
    for name in names:
        own = [hole for hole in holes if row_name(hole["method"], hole.get("threshold")) == name]
        row = _row(name, runs[runs["name"] == name], intervals[intervals["name"] == name])
        row |= _failed_runs(row["seeds"], most, own, reasons)
        rows.append(row)
    rows.sort(key=lambda row: (row["reference"], not row["seeds"], *_rank(row)))
    _draw(rows)
    seeds = {int(row["seeds"]) for row in rows if row["seeds"]}
    return {
        "beta": beta,
        "split": split,
        "condition": condition,
        "title": ", ".join(filter(None, (f"beta {beta:g}", split_words(split), condition.words))),
        "gold": runs["gold_accuracy"].notna().any(),
        "rows": rows,
        "reasons": reasons,
        "one_seed": seeds == {1},
        "questions": int(runs["questions"].max()) if runs["questions"].notna().any() else None,
    }


def _row(name: str, runs: pd.DataFrame, intervals: pd.DataFrame) -> dict[str, Any]:
    own = {metric: float(runs[metric].mean()) if len(runs) else None for metric in _MEANS}
    return {
        "name": name,
        "reference": name == REFERENCE,
        "seeds": int(runs["seed"].nunique(dropna=False)),
        "optimum_fraction": _interval("optimum_fraction", runs, intervals),
        "gold_accuracy": _interval("gold_accuracy", runs, intervals),
        **own,
    }


def _interval(metric: str, runs: pd.DataFrame, intervals: pd.DataFrame) -> Interval:
    known = intervals[intervals["metric"] == metric]
    if len(known):
        return Interval(*(float(known[column].iloc[0]) for column in ("estimate", "low", "high")))
    return Interval(float(runs[metric].mean()) if len(runs) else None)


def _failed_runs(seeds: int, most: int, holes: list[dict[str, Any]], reasons: list[str]) -> dict[str, Any]:
    """`note` for the cell of the method's name, and the numbers of the reasons, which grow by those that are new."""
    whys = list(dict.fromkeys(" ".join(str(hole.get("why") or "unknown").split())[:400] for hole in holes))
    reasons += [why for why in whys if why not in reasons]
    lost = len({hole.get("seed") for hole in holes})
    fewer = f"{seeds} seed{'s' * (seeds > 1)}" if seeds < most else ""
    return {
        "note": f"{seeds} of {seeds + lost} seeds" if lost else fewer,
        "refs": [reasons.index(why) + 1 for why in whys],
    }


def _rank(row: dict[str, Any]) -> tuple[float, float, str]:
    fraction, objective = row["optimum_fraction"].estimate, row["objective"]
    return (
        float("inf") if missing(fraction) else -float(fraction),
        float("inf") if missing(objective) else -float(objective),
        row["name"],
    )


def _draw(rows: list[dict[str, Any]]) -> None:
    """`bar`: where estimate and interval lie, and `ticks`: where 0 and 1 do, in percent of a width that the rows of a
    table share, the reference's excepted."""
    drawn = [row["optimum_fraction"] for row in rows if not row["reference"]]
    ends = [float(end) for own in drawn for end in own if end is not None and not missing(end)]
    low, high = max(min(ends, default=0.0), WIDEST_BELOW), max(ends, default=1.0)
    if high - low < NARROWEST:
        low, high = (low + high - NARROWEST) / 2, (low + high + NARROWEST) / 2

    def place(value: float) -> float:
        return round(100 * min(max((value - low) / (high - low), 0.0), 1.0), 2)

    for row in rows:
        own = [None if end is None or missing(end) else place(end) for end in row["optimum_fraction"]]
        row["bar"] = None if own[0] is None or row["reference"] else {"at": own[0], "low": own[1], "high": own[2]}
        row["ticks"] = [place(value) for value in (0.0, 1.0) if low <= value <= high]


def brief(data: ComparisonData, condition: Condition) -> list[dict[str, Any]]:
    """For every beta one table narrow enough for a README: both splits side by side."""
    found = []
    for beta in betas(data):
        tables = {split: block(data, condition, beta, split) for split in splits(data)}
        last = tables.get("heldout") or next(iter(tables.values()), None)
        if last and last["rows"]:
            by_split = {
                split: {row["name"]: row for row in own["rows"]} for split, own in tables.items() if own["rows"]
            }
            found.append({"beta": beta, "last": last, "by_split": by_split})
    return found


def pair_groups(data: ComparisonData) -> list[dict[str, Any]]:
    """A table of pairs for every beta, split, metric and condition, the plainest condition first."""
    found = []
    for condition in conditions(data):
        rows = select(data.pairs, condition)
        order = {name: place for place, name in enumerate([*SPLITS, *METRICS])}
        keys = sorted(
            {tuple(row) for row in rows[["beta", "split", "metric"]].itertuples(index=False)},
            key=lambda key: (key[0], order.get(key[1], 99), order.get(key[2], 99), key),
        )
        for beta, split, metric in keys:
            own = rows[(rows["beta"] == beta) & (rows["split"] == split) & (rows["metric"] == metric)]
            parts = (metric_words(metric), f"beta {beta:g}", split_words(split), condition.words)
            distinct = int(own["distinguishable"].fillna(False).astype(bool).sum())
            table = own.sort_values(["p_holm", "p_value", "a", "b"], kind="stable").to_dict("records")
            found.append({"title": ", ".join(filter(None, parts)), "rows": table, "distinct": distinct})
    return found


def sentences(data: ComparisonData, condition: Condition) -> list[str]:
    """What the most important pairs say: PPO against distillation first, then the clear ones by their effect."""
    rows = select(data.pairs, condition)
    if (rows["split"] == "heldout").any():
        rows = rows[rows["split"] == "heldout"]
    for metric in ("optimum_fraction", "objective", "gold_accuracy"):
        if (rows["metric"] == metric).any():
            rows = rows[rows["metric"] == metric]
            break
    rows = rows[rows["sentence"].notna()].copy()
    pairs = [{name.partition("@")[0] for name in own} for own in zip(rows["a"], rows["b"], strict=True)]
    rows["other"] = [2 * ("ppo" not in own) + ("distill" not in own) for own in pairs]
    rows["unclear"] = ~rows["distinguishable"].fillna(False).astype(bool)
    rows["small"] = -rows["effect_size"].fillna(rows["estimate"]).abs()
    rows["with_reference"] = (rows["a"] == REFERENCE) | (rows["b"] == REFERENCE)
    rows = rows.sort_values(["other", "with_reference", "unclear", "small", "beta", "a", "b"], kind="stable")
    return [
        f"Beta {row['beta']:g}, {split_words(row['split'])}: {row['sentence'].removesuffix('.')}."
        for row in rows.head(SENTENCES).to_dict("records")
    ]


def flips(data: ComparisonData) -> list[dict[str, Any]]:
    """The questions whose answer changed, the largest change first."""
    rows = data.flips.assign(size=data.flips["change"].abs())
    rows = rows.sort_values(["size", "name", "question"], ascending=[False, True, True], kind="stable")
    return [
        {str(name): None if missing(value) else value for name, value in row.items()}
        for row in rows.head(LARGEST_FLIPS).to_dict("records")
    ]
