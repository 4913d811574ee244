"""The grades of a whole split in as few bytes as training needs, read a few thousand questions at a time."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from math import fsum

import numpy as np
import torch
from torch import Tensor

from eightball_ppo.graders.storage.sources import Grades, GradeSource
from eightball_ppo.graders.storage.texts import chunks


@dataclass(frozen=True)
class SplitOfGrades:
    """What is left of `Grades` of N questions: 4 K + 1 bytes each.

    `logp_NK`: float32, NaN rows where a question is not whole. `whole_N`: True where every label has a grade. `count`:
    (question, label) pairs by status. `details`: some of what went wrong. `graded`: good grades, and `missing_S`, of
    those whose judge put some probability on other than the labels, how much.
    """

    logp_NK: Tensor
    whole_N: np.ndarray
    count: Counter[str]
    calls: int
    details: tuple[str, ...]
    graded: int
    missing_S: np.ndarray

    @classmethod
    def of(cls, parts: Iterable[Grades], questions: int, labels: int) -> "SplitOfGrades":
        """The grades of `questions` questions in all, from one part after the other."""
        logp_NK, whole_N = torch.empty(questions, labels), np.empty(questions, dtype=bool)
        count, details, missing = Counter[str](), list[str](), [np.empty(0)]
        row = calls = graded = 0
        for part in parts:
            rows = slice(row, row := row + len(part.score_NK))
            logp_NK[rows], whole_N[rows] = part.logp_NK, part.whole_N
            count += part.count()
            calls += part.calls
            details += [detail for detail in part.details if detail not in details][: 3 - len(details)]
            graded += len(part.missing)
            missing.append(np.array([share for share in part.missing if share]))
        return cls(logp_NK, whole_N, count, calls, tuple(details), graded, np.concatenate(missing))


def read_split(source: GradeSource, questions: Sequence[str]) -> SplitOfGrades:
    """The grades that `source` has of `questions`, one row each. Asks nobody."""
    parts = (source.read(part) for part in chunks(questions))
    return SplitOfGrades.of(parts, len(questions), len(source.labels))


def missing_mass(splits: Iterable[SplitOfGrades]) -> dict[str, float] | None:
    """Mean and largest probability that good grades' judges put on other than the labels; None without any."""
    splits = list(splits)
    graded = sum(own.graded for own in splits)
    if not graded:
        return None
    missing_S = np.concatenate([own.missing_S for own in splits])
    return {"mean": fsum(missing_S) / graded, "max": float(missing_S.max(initial=0.0))}
