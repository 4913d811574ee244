"""What the report of a comparison is made of: frames of checked columns, sentences, settings."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from eightball_ppo.report.style import row_name

_GROUP = ("method", "threshold", "beta", "noise", "budget")
COLUMNS: dict[str, tuple[str, ...]] = {
    "results": (
        *(*_GROUP, "seed", "split", "run_dir", "episodes", "grader_calls", "seconds", "questions"),
        *("expected_score", "objective", "optimum_objective", "optimum_fraction", "kl", "entropy"),
        *("gold_accuracy", "gold_probability", "win_rate", "tie_rate", "frontier_distance"),
        *("label_histogram", "greedy_histogram", "grader_histogram"),
    ),
    "intervals": (*_GROUP, "split", "metric", "estimate", "low", "high", "seeds"),
    "pairs": (
        *("a", "b", "beta", "split", "noise", "budget", "metric", "estimate", "low", "high"),
        *("p_value", "p_holm", "effect_size", "seeds", "distinguishable", "sentence"),
    ),
    "frontier": ("split", "beta", "kl", "expected_score"),
    "curves": (*_GROUP, "seed", "episode", "grader_calls", "optimum_fraction", "expected_score", "kl"),
    "coverage": ("threshold", "coverage", "accuracy"),
    "flips": (
        *("question", "wanted", "grader", "method", "beta"),
        *("before", "after", "p_before", "p_after", "change"),
    ),
}
_TEXTS = (
    *("method", "split", "run_dir", "metric", "a", "b", "sentence"),
    *("question", "wanted", "grader", "before", "after"),
)


@dataclass(frozen=True)
class ComparisonData:
    """Several methods on the same grades, measured. Every frame has the columns of `COLUMNS` and may be empty.

    `results` has a row per run and split; `intervals` and `pairs` say what the seeds and questions allow to be said;
    `frontier` is the exact optimum at many betas; `curves` the training questions over time; `coverage` what a
    threshold of `distill` keeps. `noise` 0.0 and `budget` null are the conditions of a plain run; `threshold` is NaN
    unless the user fixed it. `holes` are the runs that failed, each a dict of method, threshold, seed, beta, noise,
    budget and why. `name` (method, with its threshold) is added to the frames.

    Raises:
        ValueError: a frame lacks columns.
    """

    results: pd.DataFrame
    intervals: pd.DataFrame
    pairs: pd.DataFrame
    frontier: pd.DataFrame
    curves: pd.DataFrame
    coverage: pd.DataFrame
    flips: pd.DataFrame
    labels: list[str]
    dataset: str
    grader: str
    command: str
    headline: list[str] = field(default_factory=list)
    predictions: list[str] = field(default_factory=list)
    holes: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, columns in COLUMNS.items():
            object.__setattr__(self, name, _whole(name, getattr(self, name), columns))


def _whole(name: str, frame: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """A copy with all columns, numbers as numbers, and `name` beside method and threshold."""
    lacking = [column for column in columns if column not in frame]
    if lacking and len(frame):
        raise ValueError(f"ComparisonData.{name} lacks the columns {lacking}")
    frame = frame.reindex(columns=[*frame.columns, *lacking]).reset_index(drop=True)
    for column in columns:
        if column in _TEXTS:
            frame[column] = frame[column].astype(object)
        elif column == "budget":
            frame[column] = frame[column].astype("Int64")
        elif column != "distinguishable" and not column.endswith("_histogram"):
            frame[column] = pd.to_numeric(frame[column]).astype(float)
    if "noise" in columns:
        frame["noise"] = frame["noise"].fillna(0.0)
    if "threshold" in columns and "method" in columns:
        frame["name"] = [row_name(*row) for row in zip(frame["method"], frame["threshold"], strict=True)]
    elif "method" in columns:
        frame["name"] = frame["method"]
    return frame
