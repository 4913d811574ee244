"""Sources of scores: a stored grader, and sources derived from others (ensemble, label noise, label map).

Call `fill(texts)` once (makes grader calls), then `read` any number of times (no calls). Derived scores are computed on
reading, so ten noise rates on a paid judge cost one grading. Questions are read in chunks.
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
        fingerprints: `fingerprint`, and those of the sources that this one is derived from.
        deliberate: As `Grader.deliberate`.
        settings: As `Grader.settings`.
    """

    labels: LabelSet
    scale: Scale
    fingerprint: str
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
        self.fingerprint, self.fingerprints = grader.fingerprint, (grader.fingerprint,)
        self.settings = grader.settings
        self._store, self._budget, self._max_failures, self._progress = store, budget, max_failures, progress

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
        grader_id = self._store.register(self.fingerprint, self.settings)
        is_first_N = first_occurrence_N(questions)
        total = int(is_first_N.sum()) * (1 if self.scale == "log_prob" else len(self.labels))
        failures = consecutive = 0
        batch_size = self.WRITE_BATCH if getattr(self.grader, "free", False) else 1
        buffer: list[Grade] = []

        def on_grade(grade: Grade) -> None:
            nonlocal failures, consecutive
            buffer.append(grade)
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
        return ScoreTable.from_cells(cells_NK, self.scale, calls, details, num_ok, np.array(missing))


class DerivedSource(GradeSource):
    """A source computed from other sources, its members, which are filled in turn."""

    scale = "log_prob"

    def __init__(self, members: Sequence[GradeSource], labels: LabelSet, fingerprint: str):
        self.members, self.labels, self.fingerprint = members, labels, fingerprint
        self.fingerprints = (fingerprint, *(name for member in members for name in member.fingerprints))
        self.deliberate = all(member.deliberate for member in members)
        self.settings = {"grader": fingerprint.split("(")[0], "of": [member.settings for member in members]}

    def estimate_cost(self, questions: Sequence[str]) -> tuple[int, int]:
        """See `GradeSource.estimate_cost`."""
        calls, tokens = zip(*(member.estimate_cost(questions) for member in self.members), strict=True)
        return sum(calls), sum(tokens)

    def grade_missing(self, questions: Sequence[str]) -> None:
        """See `GradeSource.grade_missing`."""
        for member in self.members:
            member.grade_missing(questions)

    def read_chunk(self, questions: Sequence[str]) -> ScoreTable:
        """See `GradeSource.read_chunk`. A question's cells have the worst status, and latest time, of all members."""
        parts = [member.read_chunk(questions) for member in self.members]
        cells_MNJ = [part.cells_NK for part in parts if part.cells_NK is not None]
        cells_NK = skipped_cells_NK(len(questions), len(self.labels))
        for name in ("status", "graded_at"):
            cells_NK[name] = np.stack([cells_NJ[name].max(1, keepdims=True) for cells_NJ in cells_MNJ]).max(0)
        cells_NK["score"] = self._derive([part.logp_NK for part in parts], questions)
        calls, num_ok = sum(part.calls for part in parts), sum(part.num_ok for part in parts)
        details = [detail for part in parts for detail in part.details]
        missing_S = np.concatenate([part.missing_mass_S for part in parts])
        return ScoreTable.from_cells(cells_NK, "log_prob", calls, details, num_ok, missing_S)

    @abstractmethod
    def _derive(self, logp_MNJ: Sequence[Tensor], questions: Sequence[str]) -> Tensor:
        """Log-probabilities [N, K] from those of each member, which are NaN where one is missing."""


class EnsembleSource(DerivedSource):
    """The weighted mean of the members' probabilities; a question is complete if it is for all members."""

    def __init__(self, members: Sequence[GradeSource], weights: Sequence[float]):
        total = sum(weights)
        self._share_M = [weight / total for weight in weights]
        weighted = ",".join(f"{share:g}*{m.fingerprint}" for share, m in zip(self._share_M, members, strict=True))
        super().__init__(members, members[0].labels, f"mean({weighted})")

    def _derive(self, logp_MNJ: Sequence[Tensor], questions: Sequence[str]) -> Tensor:
        logp_MNK = torch.stack([logp_NK.double() for logp_NK in logp_MNJ])
        share_M11 = torch.tensor(self._share_M, dtype=torch.float64)[:, None, None]
        return (logp_MNK + share_M11.log()).logsumexp(0)


class LabelNoiseSource(DerivedSource):
    """Rolls the scores of a question by 1 to K-1 labels with probability `rate`, so that another label scores best.

    The draw depends on `seed`, the member's fingerprint and the question.
    """

    def __init__(self, member: GradeSource, rate: float, seed: int):
        self._rate, self._seed = rate, seed
        super().__init__([member], member.labels, f"noisy:{rate:g}:seed{seed}({member.fingerprint})")

    def _derive(self, logp_MNJ: Sequence[Tensor], questions: Sequence[str]) -> Tensor:
        logp_NK = logp_MNJ[0].clone()
        for row, question in enumerate(questions):
            key = f"{self._seed}:{self.members[0].fingerprint}:{question}"
            rng = random.Random(hashlib.sha256(key.encode()).digest())
            if rng.random() < self._rate:
                shifts = rng.sample(range(1, len(self.labels)), len(self.labels) - 1)
                rolled = [logp_NK[row].roll(shift) for shift in shifts]
                best = logp_NK[row].argmax()
                logp_NK[row] = next((other_K for other_K in rolled if other_K.argmax() != best), rolled[0])
        return logp_NK


class LabelMapSource(DerivedSource):
    """Maps the J labels of a member to K others, adding the probabilities of labels with the same target.

    Args:
        member: The source with J labels.
        target_J: The new label id of each of the J labels; every new label is a target.
        labels: The K labels.
    """

    def __init__(self, member: GradeSource, target_J: Sequence[int], labels: LabelSet):
        self._sources_K = [[j for j, k in enumerate(target_J) if k == label] for label in range(len(labels))]
        names = ",".join(f"{name}={labels.names[k]}" for name, k in zip(member.labels.names, target_J, strict=True))
        super().__init__([member], labels, f"remapped:{names}({member.fingerprint})")

    def _derive(self, logp_MNJ: Sequence[Tensor], questions: Sequence[str]) -> Tensor:
        logp_NJ = logp_MNJ[0].double()
        return torch.stack([logp_NJ[:, sources].logsumexp(1) for sources in self._sources_K], dim=1)
