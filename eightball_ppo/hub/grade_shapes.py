"""A grade table in the formats of training data: TRL's preference pairs, unpaired preferences, and scored pairs."""

from itertools import permutations
from pathlib import Path

import pandas as pd

SHAPES = {
    "grades": "a row for every question and label, with status, grader and time",
    "pointwise": "`prompt`, `completion` and its `score`",
    "unpaired": "`prompt`, `completion` and `label`, true for the best score; TRL's unpaired preferences",
    "pairs": "`prompt`, `chosen`, `rejected` and both scores, for every pair with different scores; TRL's preferences",
}


def shapes(table: Path) -> dict[str, pd.DataFrame]:
    """The data frames of `SHAPES` from a `grades.parquet`.

    Only the first holds missing grades. The unpaired one holds the questions whose grades are complete and differ.
    """
    grades = pd.read_parquet(table)
    good = grades[grades["status"] == "ok"]
    points = good[["question", "label", "score"]].set_axis(["prompt", "completion", "score"], axis=1)
    labels = grades["label"].nunique()
    unpaired, pairs = [], []
    for question, group in points.groupby("prompt", sort=False):
        rows = list(zip(group["completion"], group["score"], strict=True))
        best = max(score for _, score in rows)
        if len(rows) == labels and any(score < best for _, score in rows):
            unpaired += [(question, name, score == best) for name, score in rows]
        pairs += [(question, a, b, s, t) for (a, s), (b, t) in permutations(rows, 2) if s > t]
    return {
        "grades": grades.astype({"status": str, "grader": str}),
        "pointwise": points.reset_index(drop=True),
        "unpaired": pd.DataFrame(unpaired, columns=["prompt", "completion", "label"]).astype({"label": bool}),
        "pairs": pd.DataFrame(pairs, columns=["prompt", "chosen", "rejected", "score_chosen", "score_rejected"]),
    }
