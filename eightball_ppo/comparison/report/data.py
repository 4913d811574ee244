"""The input of a comparison's report: frames with checked columns, sentences, settings."""

from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from eightball_ppo.report.style import row_name

_CONDITION = ("method", "threshold", "beta", "noise", "budget")
COLUMNS: dict[str, tuple[str, ...]] = {
    "results": (
        *(*_CONDITION, "seed", "reference", "split", "run_dir", "episodes", "grader_calls", "seconds", "questions"),
        *(
            "expected_score",
            "objective",
            "optimum_objective",
            "optimum_fraction",
            "optimum_confidence",
            "kl",
            "entropy",
        ),
        *("gold_accuracy", "gold_probability", "brier", "nll", "ece", "aurc"),
        *("judge_agreement", "win_rate", "tie_rate", "frontier_distance"),
        *("label_histogram", "greedy_histogram", "grader_histogram"),
    ),
    "intervals": (*_CONDITION, "split", "metric", "estimate", "low", "high", "seeds"),
    "pairs": (
        *("a", "b", "beta", "split", "noise", "budget", "metric", "primary", "estimate", "low", "high"),
        *("p_value", "p_holm", "p_equal_holm", "verdict", "detectable", "seeds", "sentence"),
    ),
    "frontier": ("split", "beta", "kl", "expected_score"),
    "curves": (*_CONDITION, "seed", "episode", "grader_calls", "optimum_fraction", "expected_score", "kl"),
    "coverage": ("threshold", "coverage", "accuracy"),
    "confidence": (*_CONDITION, "seed", "confidence", "correct"),
    "flips": (
        *("question", "gold_label", "grader", "method", "beta"),
        *("before", "after", "p_before", "p_after", "change"),
    ),
}
_GOLD = (
    "gold_accuracy",
    "gold_probability",
    "brier",
    "nll",
    "ece",
    "aurc",
)  # absent where the held-out questions have no gold labels
_OBJECTS = (
    *("method", "split", "noise", "run_dir", "metric", "a", "b", "sentence", "verdict", "primary"),
    *("question", "gold_label", "grader", "before", "after"),
    *("label_histogram", "greedy_histogram", "grader_histogram"),
)


@dataclass(frozen=True)
class ComparisonData:
    """Everything that a comparison's report shows.

    Every frame has the columns of `COLUMNS`, may be empty, and gets a column `name`: the method, with its threshold.

    Args:
        results: a row per run and split. `noise` empty and `budget` null are a plain run; `threshold` is NaN unless the
            user fixed it.
        intervals: a row per method, condition, split and metric.
        pairs: a row per pair of methods, condition, split and metric.
        frontier: the exact optimum at many betas.
        curves: exact metrics on the training questions during training.
        coverage: what share of the questions a threshold of `distill` selects, and the grader's accuracy on them.
        confidence: how sure each run is of each held-out question, and whether it is right; empty without gold labels.
        flips: held-out questions whose most probable answer changed.
        labels: names of the labels.
        dataset: name of the data.
        grader: fingerprint of the grader.
        command: reproduces the comparison.
        headline: sentences about the pairs of the primary family.
        failed_runs: method, threshold, seed, beta, noise, budget and `why` of every failed run.
        settings: options of the comparison.
        environment: versions and machine.

    Raises:
        ValueError: a frame lacks columns.
    """

    results: pd.DataFrame
    intervals: pd.DataFrame
    pairs: pd.DataFrame
    frontier: pd.DataFrame
    curves: pd.DataFrame
    coverage: pd.DataFrame
    confidence: pd.DataFrame
    flips: pd.DataFrame
    labels: list[str]
    dataset: str
    grader: str
    command: str
    headline: list[str] = field(default_factory=list)
    failed_runs: list[dict[str, Any]] = field(default_factory=list)
    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, columns in COLUMNS.items():
            object.__setattr__(self, name, _checked(name, getattr(self, name), columns))


def _checked(name: str, frame: pd.DataFrame, columns: tuple[str, ...]) -> pd.DataFrame:
    """A copy with all columns, each of its type, and the column `name`."""
    absent = [column for column in columns if column not in frame]
    if set(absent).difference(_GOLD) and len(frame):
        raise ValueError(f"ComparisonData.{name} lacks the columns {absent}")
    frame = frame.reindex(columns=[*frame.columns, *absent]).reset_index(drop=True)
    frame = frame.astype({column: object if column in _OBJECTS else float for column in columns})
    if "budget" in columns:
        frame["budget"] = frame["budget"].astype("Int64")
    if "method" in columns:
        thresholds = frame["threshold"] if "threshold" in columns else [None] * len(frame)
        frame["name"] = list(map(row_name, frame["method"], thresholds))
    return frame
