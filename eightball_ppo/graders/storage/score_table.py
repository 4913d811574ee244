"""The scores of many questions as one table: what filling or reading a source of grades returns."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from math import fsum

import numpy as np
import torch
from torch import Tensor

from eightball_ppo.graders.base import Scale

STATUSES = ("ok", "failed", "refused", "skipped")  # skipped: never asked, because no call was allowed any more
OK = STATUSES.index("ok")
SKIPPED = STATUSES.index("skipped")
MAX_DETAILS = 3
CELL = np.dtype([("score", np.float64), ("status", np.int8), ("graded_at", np.float64)])
"""One (question, label): score as the grader gave it (NaN unless ok), position in STATUSES, seconds since 1970."""


def skipped_cells_NK(questions: int, labels: int) -> np.ndarray:
    """Cells of dtype CELL that nobody has asked for yet."""
    cells_NK = np.zeros((questions, labels), CELL)
    cells_NK["score"], cells_NK["status"] = np.nan, SKIPPED
    return cells_NK


@dataclass(frozen=True)
class ScoreTable:
    """Scores of N questions for K labels, what is missing of them, and what they cost.

    A whole split takes 4 K + 1 bytes a question. A chunk of a few thousand also has its cells one by one, for exports.

    Attributes:
        logp_NK: log-probabilities of the labels in nats, float32; a row of NaN where a label has no grade.
        whole_N: True where every label of the question has a grade.
        count: (question, label) pairs by status, for every one of STATUSES.
        calls: grader calls that these grades took in all, in this run or an earlier one.
        details: examples of what went wrong, at most three.
        num_ok: good grades; `missing_mass_S`: the probability that their judge put on other than the labels, of those
            where it is above 0.
        cells_NK: of a chunk its cells, dtype CELL; None of a whole split.
    """

    logp_NK: Tensor
    whole_N: np.ndarray
    count: Counter[str]
    calls: int
    details: tuple[str, ...]
    num_ok: int
    missing_mass_S: np.ndarray
    cells_NK: np.ndarray | None = None

    @classmethod
    def of_cells(
        cls, cells_NK: np.ndarray, scale: Scale, calls: int, details: Iterable[str], num_ok: int, missing_S: np.ndarray
    ) -> "ScoreTable":
        """The table of a chunk.

        Ratings become the softmax that gives a label with one point more e times the probability. That moves every
        rating of a question by one number, so the best policy at a KL coefficient is that of the ratings themselves.

        Args:
            cells_NK: one cell for every (question, label), dtype CELL.
            scale: what the cells' scores are.
            missing_S: as the attribute `missing_mass_S`.
        """
        score_NK = torch.from_numpy(np.ascontiguousarray(cells_NK["score"]))
        logp_NK = score_NK if scale == "log_prob" else score_NK.log_softmax(-1)
        whole_N = (cells_NK["status"] == OK).all(1)
        logp_NK = logp_NK.masked_fill(~torch.from_numpy(whole_N)[:, None], torch.nan).float()
        count = Counter({status: int((cells_NK["status"] == code).sum()) for code, status in enumerate(STATUSES)})
        return cls(logp_NK, whole_N, count, calls, tuple(details)[:MAX_DETAILS], num_ok, missing_S, cells_NK)

    @classmethod
    def concatenate(cls, chunks: Iterable["ScoreTable"], questions: int, labels: int) -> "ScoreTable":
        """The table [questions, labels] of chunks that come one after the other; their cells are dropped."""
        logp_NK, whole_N = torch.empty(questions, labels), np.empty(questions, dtype=bool)
        count, details, missing = Counter(dict.fromkeys(STATUSES, 0)), dict[str, None](), [np.empty(0)]
        row = calls = num_ok = 0
        for chunk in chunks:
            rows = slice(row, row := row + len(chunk))
            logp_NK[rows], whole_N[rows] = chunk.logp_NK, chunk.whole_N
            count.update(chunk.count)
            details.update(dict.fromkeys(chunk.details))
            calls, num_ok = calls + chunk.calls, num_ok + chunk.num_ok
            missing.append(chunk.missing_mass_S)
        return cls(logp_NK, whole_N, count, calls, tuple(details)[:MAX_DETAILS], num_ok, np.concatenate(missing))

    def __len__(self) -> int:
        return len(self.whole_N)


def missing_mass(tables: Iterable[ScoreTable]) -> dict[str, float] | None:
    """Mean and largest probability that good grades' judges put on other than the labels; None without any grade."""
    tables = list(tables)
    num_ok = sum(table.num_ok for table in tables)
    if not num_ok:
        return None
    missing_S = np.concatenate([table.missing_mass_S for table in tables])
    return {"mean": fsum(missing_S) / num_ok, "max": float(missing_S.max(initial=0.0))}
