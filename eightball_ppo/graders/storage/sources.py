"""Sources of scores: a stored grader, and sources derived from others (ensemble, label noise, label map).

Call `fill(texts)` once, which makes the grader calls that are missing, then `read` any number of times, which makes
none. Derived scores are computed while reading, so ten noise rates on a paid judge cost one grading. A million
questions are graded at once and read a few thousand at a time, so that no list of all of them is needed.
"""

import hashlib
import random
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eightball_ppo.graders.base import Grade, Grader, GradeRequest, Scale, requests_for
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.storage.score_table import MAX_DETAILS, STATUSES, ScoreTable, skipped_cells_NK
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.graders.storage.texts import chunks, first_occurrence_N
from eightball_ppo.labels import LabelSet


class GradeSource(ABC):
    """Scores by question. The attributes are those of `Grader`, and `fingerprints`: its fingerprint and those of every
    source that it is derived from."""

    labels: LabelSet
    scale: Scale
    fingerprint: str
    fingerprints: tuple[str, ...]
    deliberate: bool
    settings: dict[str, Any]

    def fill(self, questions: Sequence[str]) -> ScoreTable:
        """Make the grader calls that are missing, as far as the budget allows; returns the scores of `questions`."""
        self.grade_missing(questions)
        return self.read(questions)

    def read(self, questions: Sequence[str]) -> ScoreTable:
        """The scores there are of `questions`, one row each. Makes no grader call."""
        parts = (self.read_chunk(part) for part in chunks(questions))
        return ScoreTable.concatenate(parts, len(questions), len(self.labels))

    @abstractmethod
    def grade_missing(self, questions: Sequence[str]) -> None:
        """Make the grader calls that are missing, as far as the budget allows."""

    @abstractmethod
    def estimate_cost(self, questions: Sequence[str]) -> tuple[int, int]:
        """(calls, tokens) that `fill` would take if nothing failed, the tokens estimated. Makes no grader call."""

    @abstractmethod
    def read_chunk(self, questions: Sequence[str]) -> ScoreTable:
        """`read` of a few thousand questions, with the cells of the table."""


class StoredGrader(GradeSource):
    """A grader behind the grade store: it is asked for what the store lacks, and the store keeps each grade at once."""

    # So many failures in a row, or in all if they are above the share that is allowed, stop the grading: it would end
    # in an error anyway, and the calls until then can be saved.
    FEWEST_FAILURES = 20
    AT_ONCE = 1024  # grades that cost nothing are kept by so many; a process that dies loses at most these

    def __init__(self, grader: Grader, store: GradeStore, budget: Budget, max_failures: float, progress: bool):
        self.grader = grader
        self.labels, self.scale, self.deliberate = grader.labels, grader.scale, grader.deliberate
        self.fingerprint = grader.fingerprint
        self.fingerprints: tuple[str, ...] = (grader.fingerprint,)
        self.settings = grader.settings
        self._store, self._budget, self._max_failures, self._progress = store, budget, max_failures, progress

    def _missing(self, unique: Iterable[str]) -> Iterable[GradeRequest]:
        requests = requests_for(unique, self.labels, self.scale)
        return self._store.missing(self._store.id_of(self.fingerprint), requests)

    def estimate_cost(self, questions: Sequence[str]) -> tuple[int, int]:
        calls = tokens = 0
        for request in self._missing(compress(questions, first_occurrence_N(questions))):
            calls, tokens = calls + 1, tokens + self.grader.tokens(request)
        return calls, tokens

    def grade_missing(self, questions: Sequence[str]) -> None:
        from tqdm import tqdm

        grader = self._store.register(self.fingerprint, self.settings)
        first = first_occurrence_N(questions)
        total = int(first.sum()) * (1 if self.scale == "log_prob" else len(self.labels))
        bad = in_a_row = 0
        free, waiting = getattr(self.grader, "free", False), list[Grade]()

        def write() -> None:
            if waiting:
                self._store.keep_many(grader, waiting)
                waiting.clear()

        def on_grade(grade: Grade) -> None:
            nonlocal bad, in_a_row
            if free:
                waiting.append(grade)
                if len(waiting) == self.AT_ONCE:
                    write()
            else:
                self._store.keep(grader, grade)
            bar.update()
            if grade.status == "ok":
                in_a_row = 0
                return
            bad, in_a_row = bad + 1, in_a_row + 1
            hopeless = bad > self._max_failures * total or (in_a_row >= self.FEWEST_FAILURES and self._max_failures < 1)
            if bad >= self.FEWEST_FAILURES and hopeless:
                self._budget.stop(f"{bad} of {total} grades failed, the last with: {grade.detail}")
                self._budget.broken = True

        with tqdm(
            total=total, desc=f"grading: {self.fingerprint[:24]}", disable=not self._progress, leave=False
        ) as bar:
            try:
                self.grader.grade(self._missing(compress(questions, first)), on_grade, self._budget)
            finally:
                write()

    def read_chunk(self, questions: Sequence[str]) -> ScoreTable:
        cells_NK = skipped_cells_NK(len(questions), len(self.labels))
        calls = num_ok = 0
        details: dict[str, None] = {}
        missing: list[float] = []
        stored = self._store.read_many(self._store.id_of(self.fingerprint), questions)
        for row, question in enumerate(questions):
            for request in requests_for([question], self.labels, self.scale):
                grade = stored.get(request)
                if grade is None:
                    continue
                columns = slice(None) if request.label is None else self.labels.id_of(request.label)
                cells_NK["status"][row, columns] = STATUSES.index(grade.status)
                cells_NK["graded_at"][row, columns] = grade.graded_at
                calls += grade.calls
                if grade.status == "ok":
                    num_ok += 1
                    missing += [grade.missing] if grade.missing else []
                    cells_NK["score"][row, columns] = grade.scores if request.label is None else grade.scores[0]
                elif len(details) < MAX_DETAILS:
                    details[f"{request.question[:60]!r}: {grade.detail}"] = None
        return ScoreTable.of_cells(cells_NK, self.scale, calls, details, num_ok, np.array(missing))


class DerivedSource(GradeSource):
    """A source computed from other sources, its members, which are filled in turn."""

    scale = "log_prob"

    def __init__(self, members: Sequence[GradeSource], labels: LabelSet, fingerprint: str):
        self.members = members
        self.labels = labels
        self.fingerprint = fingerprint
        self.fingerprints = (fingerprint, *(name for member in members for name in member.fingerprints))
        self.deliberate = all(member.deliberate for member in members)
        self.settings = {"grader": fingerprint.split("(")[0], "of": [member.settings for member in members]}

    def estimate_cost(self, questions: Sequence[str]) -> tuple[int, int]:
        calls, tokens = zip(*(member.estimate_cost(questions) for member in self.members), strict=True)
        return sum(calls), sum(tokens)

    def grade_missing(self, questions: Sequence[str]) -> None:
        for member in self.members:
            member.grade_missing(questions)

    def read_chunk(self, questions: Sequence[str]) -> ScoreTable:
        """Every cell of a question has the worst status of its cells in all members, and their latest time."""
        parts = [member.read_chunk(questions) for member in self.members]
        cells_MNJ = [part.cells_NK for part in parts if part.cells_NK is not None]
        cells_NK = skipped_cells_NK(len(questions), len(self.labels))
        for name in ("status", "graded_at"):
            cells_NK[name] = np.stack([cells_NJ[name].max(1, keepdims=True) for cells_NJ in cells_MNJ]).max(0)
        cells_NK["score"] = self._derive([part.logp_NK for part in parts], questions)
        return ScoreTable.of_cells(
            cells_NK,
            "log_prob",
            sum(part.calls for part in parts),
            (detail for part in parts for detail in part.details),
            sum(part.num_ok for part in parts),
            np.concatenate([part.missing_mass_S for part in parts]),
        )

    @abstractmethod
    def _derive(self, logp_MNJ: Sequence[Tensor], questions: Sequence[str]) -> Tensor:
        """Log-probabilities [N, K] of `questions`, out of those of each member, which are NaN where one is missing."""


class EnsembleSource(DerivedSource):
    """The weighted mean of several graders' probabilities; a question is whole where all of them graded it."""

    def __init__(self, members: Sequence[GradeSource], weights: Sequence[float]):
        total = sum(weights)
        self._share_M = [weight / total for weight in weights]
        inner = ",".join(f"{share:g}*{m.fingerprint}" for share, m in zip(self._share_M, members, strict=True))
        super().__init__(members, members[0].labels, f"mean({inner})")

    def _derive(self, logp_MNJ: Sequence[Tensor], questions: Sequence[str]) -> Tensor:
        logp_MNK = torch.stack([logp_NK.double() for logp_NK in logp_MNJ])
        share_M11 = torch.tensor(self._share_M, dtype=torch.float64)[:, None, None]
        return (logp_MNK + share_M11.log()).logsumexp(0)


class LabelNoiseSource(DerivedSource):
    """A grader that is wrong about a question with probability `rate`.

    Its scores then move on by 1..K-1 labels, so that another label scores best (unless all score alike). Which
    questions, and by how much, is drawn from `seed`, the grader and the question.
    """

    def __init__(self, inner: GradeSource, rate: float, seed: int):
        self._rate, self._seed = rate, seed
        super().__init__([inner], inner.labels, f"noisy:{rate:g}:seed{seed}({inner.fingerprint})")

    def _derive(self, logp_MNJ: Sequence[Tensor], questions: Sequence[str]) -> Tensor:
        logp_NK = logp_MNJ[0].clone()
        for row, question in enumerate(questions):
            key = f"{self._seed}:{self.members[0].fingerprint}:{question}"
            draw = random.Random(hashlib.sha256(key.encode()).digest())
            if draw.random() < self._rate:
                shifts = draw.sample(range(1, len(self.labels)), len(self.labels) - 1)
                moved = [logp_NK[row].roll(shift) for shift in shifts]
                best = logp_NK[row].argmax()
                logp_NK[row] = next((other_K for other_K in moved if other_K.argmax() != best), moved[0])
        return logp_NK


class LabelMapSource(DerivedSource):
    """A grader with other labels: the probabilities of its labels that share one of ours are added up.

    `target_J`: for each of its J labels, the position of ours. Every one of ours has at least one of its.
    """

    def __init__(self, inner: GradeSource, target_J: Sequence[int], labels: LabelSet):
        self._sources_K = [[j for j, k in enumerate(target_J) if k == label] for label in range(len(labels))]
        names = ",".join(f"{name}={labels.names[k]}" for name, k in zip(inner.labels.names, target_J, strict=True))
        super().__init__([inner], labels, f"remapped:{names}({inner.fingerprint})")

    def _derive(self, logp_MNJ: Sequence[Tensor], questions: Sequence[str]) -> Tensor:
        logp_NJ = logp_MNJ[0].double()
        return torch.stack([logp_NJ[:, sources].logsumexp(1) for sources in self._sources_K], dim=1)
