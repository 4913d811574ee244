"""Sources of scores, and the first of them: a stored grader. `derived.py` has those that are computed from others.

Call `fill(texts)` once (makes grader calls), then `read` any number of times (no calls). Questions are read in chunks.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from itertools import compress
from typing import Any

import numpy as np
from tqdm import tqdm

from eightball_ppo.data.texts import first_occurrence_N
from eightball_ppo.graders.base import Grade, Grader, GradeRequest, Scale, requests_for
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.storage.score_table import MAX_DETAILS, STATUSES, ScoreTable, skipped_cells_NK
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import LabelSet

CHUNK_SIZE = 2048  # questions that are read at once


class GradeSource(ABC):
    """Scores by question.

    Attributes:
        labels: The K labels.
        scale: As `Grader.scale`.
        fingerprint: As `Grader.fingerprint`.
        audited_as: `fingerprint` without the columns of the data; audits are kept under it.
        fingerprints: `fingerprint` and `audited_as`, and those of the sources that this one is derived from.
        deliberate: As `Grader.deliberate`.
        settings: As `Grader.settings`.
        rated: Whether scores were made of ratings, each of a label by itself; then they are no probabilities.
    """

    labels: LabelSet
    scale: Scale
    rated: bool = False
    fingerprint: str
    audited_as: str
    fingerprints: tuple[str, ...]
    deliberate: bool
    settings: dict[str, Any]

    def fill(self, questions: Sequence[str]) -> ScoreTable:
        """Makes the grader calls that are missing, within the budget; returns the scores."""
        self.grade_missing(questions)
        return self.read(questions)

    def read(self, questions: Sequence[str]) -> ScoreTable:
        """The stored scores, one row per question. Makes no grader call."""
        starts = range(0, len(questions), CHUNK_SIZE)
        chunks = (self.read_chunk(questions[start : start + CHUNK_SIZE]) for start in starts)
        return ScoreTable.concatenate(chunks, len(questions), len(self.labels))

    def num_requests(self, questions: int) -> int:
        """Requests that so many distinct questions take where nothing is stored."""
        return questions

    @abstractmethod
    def grade_missing(self, questions: Sequence[str]) -> None:
        """Makes the grader calls that are missing, within the budget."""

    @abstractmethod
    def estimate_cost(self, questions: Sequence[str]) -> tuple[int, int]:
        """(calls, estimated tokens) that `fill` would take without failures. Makes no grader call."""

    @abstractmethod
    def read_chunk(self, questions: Sequence[str]) -> ScoreTable:
        """`read` for a few thousand questions, with `ScoreTable.cells_NK`."""


class StoredGrader(GradeSource):
    """A grader behind the grade store: it grades what the store lacks, and the store writes each grade at once.

    Args:
        grader: The grader.
        store: Where its grades are.
        budget: Limits its calls.
        max_failures: Share of failed grades above which grading stops.
        progress: Whether to show a progress bar.
    """

    # So many failures in a row, or in total if they are above the allowed share, stop the grading, which would end in
    # an error anyway.
    MIN_FAILURES = 20
    WRITE_BATCH = 1024  # grades of a free grader in one transaction; a process that dies loses at most these

    def __init__(self, grader: Grader, store: GradeStore, budget: Budget, max_failures: float, progress: bool):
        self.grader = grader
        self.labels, self.scale, self.deliberate = grader.labels, grader.scale, grader.deliberate
        self.fingerprint = grader.fingerprint
        self.audited_as = getattr(grader, "audited_as", grader.fingerprint)
        self.fingerprints = tuple(dict.fromkeys((self.fingerprint, self.audited_as)))
        self.settings, self.rated = grader.settings, grader.scale == "rating"
        self._store, self._budget, self._max_failures, self._progress = store, budget, max_failures, progress

    def _stored_labels(self) -> LabelSet:
        """The labels in the order of the stored scores: that of the first grader with this fingerprint."""
        stored = self._store.settings_of(self.fingerprint) or {}
        return LabelSet.of(stored.get("labels", self.labels.names))

    def num_requests(self, questions: int) -> int:
        """See `GradeSource.num_requests`."""
        return questions * (len(self.labels) if self.scale == "rating" else 1)

    def _missing(self, unique: Iterable[str]) -> Iterable[GradeRequest]:
        requests = requests_for(unique, self.labels, self.scale)
        return self._store.missing(self._store.id_of(self.fingerprint), requests)

    def estimate_cost(self, questions: Sequence[str]) -> tuple[int, int]:
        """See `GradeSource.estimate_cost`."""
        calls = tokens = 0
        for request in self._missing(compress(questions, first_occurrence_N(questions))):
            calls, tokens = calls + 1, tokens + self.grader.tokens(request)
        return calls, tokens

    def grade_missing(self, questions: Sequence[str]) -> None:
        """See `GradeSource.grade_missing`."""
        names = list(self.labels.names)
        grader_id = self._store.register(self.fingerprint, {"labels": names, **self.settings})
        columns = self._stored_labels().columns_in(self.labels)
        is_first_N = first_occurrence_N(questions)
        total = self.num_requests(int(is_first_N.sum()))
        failures = consecutive = 0
        batch_size = self.WRITE_BATCH if getattr(self.grader, "free", False) else 1
        buffer: list[Grade] = []

        def on_grade(grade: Grade) -> None:
            nonlocal failures, consecutive
            whole_row = grade.status == "ok" and grade.request.label is None
            buffer.append(grade._replace(scores=tuple(grade.scores[k] for k in columns)) if whole_row else grade)
            if len(buffer) == batch_size:
                self._store.write(grader_id, *buffer)
                buffer.clear()
            bar.update()
            if grade.status == "ok":
                consecutive = 0
                return
            failures, consecutive = failures + 1, consecutive + 1
            hopeless = consecutive >= self.MIN_FAILURES and self._max_failures < 1
            if failures >= self.MIN_FAILURES and (hopeless or failures > self._max_failures * total):
                self._budget.stop(f"{failures} of {total} grades failed, the last with: {grade.detail}")
                self._budget.broken = True

        name = f"grading: {self.fingerprint[:24]}"
        with tqdm(total=total, desc=name, disable=not self._progress, leave=False) as bar:
            try:
                self.grader.grade(self._missing(compress(questions, is_first_N)), on_grade, self._budget)
            finally:
                self._store.write(grader_id, *buffer)

    def read_chunk(self, questions: Sequence[str]) -> ScoreTable:
        """See `GradeSource.read_chunk`."""
        cells_NK = skipped_cells_NK(len(questions), len(self.labels))
        calls = num_ok = 0
        details: dict[str, None] = {}
        missing: list[float] = []
        stored = self._store.read(self._store.id_of(self.fingerprint), questions)
        in_order = np.array(self.labels.columns_in(self._stored_labels()))
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
                    whole_row = request.label is None
                    cells_NK["score"][row, columns] = np.array(grade.scores)[in_order] if whole_row else grade.scores[0]
                elif len(details) < MAX_DETAILS:
                    details[f"{request.question[:60]!r}: {grade.detail}"] = None
        return ScoreTable.from_cells(cells_NK, self.scale, calls, details, num_ok, np.array(missing))
