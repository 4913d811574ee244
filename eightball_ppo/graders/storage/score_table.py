"""The scores of many questions as one table: what filling or reading a source of grades returns."""

from collections import Counter
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from math import fsum

import numpy as np
import torch
from torch import Tensor

from eightball_ppo.graders.base import Scale

STATUSES = ("ok", "failed", "refused", "skipped")  # skipped: never requested, because no call was allowed
OK = STATUSES.index("ok")
SKIPPED = STATUSES.index("skipped")
MAX_DETAILS = 3
# of one (question, label): the score as the grader gave it (NaN unless ok), the index in STATUSES, seconds since 1970
CELL = np.dtype([("score", np.float64), ("status", np.int8), ("graded_at", np.float64)])


def skipped_cells_NK(questions: int, labels: int) -> np.ndarray:
    """Cells of dtype CELL, shape [questions, labels], none of them graded."""
    cells_NK = np.zeros((questions, labels), CELL)
    cells_NK["score"], cells_NK["status"] = np.nan, SKIPPED
    return cells_NK


@dataclass(frozen=True)
class ScoreTable:
    """Scores of N questions for K labels.

    The table of a split takes 4 K + 1 bytes a question. That of a chunk of a few thousand also has its cells.

    Attributes:
        score_NK: Scores of the labels, shape [N, K], float32; NaN in rows that are not complete.
        scale: "log_prob": the scores are log-probabilities in nats; "raw": in the judge's own unit.
        complete_N: True if every label of the question has a grade, shape [N].
        count: (question, label) grades by status, for each of STATUSES.
        calls: Grader calls that the grades took, in this run or an earlier one.
        details: Up to three failures.
        num_ok: Number of good grades.
        missing_mass_S: The probability that judges put on anything but the labels, for each grade where it is above 0.
        cells_NK: The cells of a chunk, dtype CELL, shape [N, K]; None for a split.
    """

    score_NK: Tensor
    scale: Scale
    complete_N: np.ndarray
    count: Counter[str]
    calls: int
    details: tuple[str, ...]
    num_ok: int
    missing_mass_S: np.ndarray
    cells_NK: np.ndarray | None = None

    @classmethod
    def from_cells(
        cls, cells_NK: np.ndarray, scale: Scale, calls: int, details: Iterable[str], num_ok: int, missing_S: np.ndarray
    ) -> "ScoreTable":
        """The table of a chunk.

        Ratings become log-probabilities by a softmax. That shifts all ratings of a question by the same number, so the
        optimal policy at any KL coefficient is that of the ratings.

        Args:
            cells_NK: Cells of dtype CELL, shape [N, K].
            scale: The unit of the cells' scores.
            calls: As the attribute.
            details: As the attribute, without a limit.
            num_ok: As the attribute.
            missing_S: As the attribute `missing_mass_S`.
        """
        score_NK = torch.from_numpy(np.ascontiguousarray(cells_NK["score"]))
        if scale == "rating":
            score_NK, scale = score_NK.log_softmax(-1), "log_prob"
        complete_N = (cells_NK["status"] == OK).all(1)
        score_NK = score_NK.masked_fill(~torch.from_numpy(complete_N)[:, None], torch.nan).float()
        count = Counter({status: int((cells_NK["status"] == code).sum()) for code, status in enumerate(STATUSES)})
        return cls(score_NK, scale, complete_N, count, calls, tuple(details)[:MAX_DETAILS], num_ok, missing_S, cells_NK)

    @classmethod
    def concatenate(cls, chunks: Iterable["ScoreTable"], questions: int, labels: int) -> "ScoreTable":
        """The table of consecutive chunks with `questions` rows in total; drops their cells."""
        score_NK, complete_N = torch.empty(questions, labels), np.empty(questions, dtype=bool)
        scale: Scale = "log_prob"
        count, details, missing = Counter(dict.fromkeys(STATUSES, 0)), dict[str, None](), [np.empty(0)]
        row = calls = num_ok = 0
        for chunk in chunks:
            rows = slice(row, row := row + len(chunk))
            score_NK[rows], complete_N[rows], scale = chunk.score_NK, chunk.complete_N, chunk.scale
            count.update(chunk.count)
            details.update(dict.fromkeys(chunk.details))
            calls, num_ok = calls + chunk.calls, num_ok + chunk.num_ok
            missing.append(chunk.missing_mass_S)
        about = (count, calls, tuple(details)[:MAX_DETAILS], num_ok, np.concatenate(missing))
        return cls(score_NK, scale, complete_N, *about)

    def __len__(self) -> int:
        return len(self.complete_N)

    @property
    def logp_NK(self) -> Tensor:
        """Log-probabilities of the labels in nats, shape [N, K]; of raw scores, those of their softmax."""
        return self.score_NK if self.scale == "log_prob" else self.score_NK.log_softmax(-1)


def missing_mass(tables: Collection[ScoreTable]) -> dict[str, float] | None:
    """Mean and maximum probability that judges put on anything but the labels; None without a good grade."""
    num_ok = sum(table.num_ok for table in tables)
    if not num_ok:
        return None
    missing_S = np.concatenate([table.missing_mass_S for table in tables])
    return {"mean": fsum(missing_S) / num_ok, "max": float(missing_S.max(initial=0.0))}
