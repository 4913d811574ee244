"""Where a method's grades come from: a stored grader, or grades made of other grades (noisy, averaged, remapped).

A source is filled with questions first, which costs, and read as often as one likes, which does not. What is made of
other grades is made while reading: ten noise rates on a paid judge cost one grading. A million questions are filled at
once and read a few thousand at a time (`graders/splits.py`), so that no list of all of them is needed.
"""

import hashlib
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import compress
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from eightball_ppo.graders.base import Ask, Grade, Grader, Scale, asks_of
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.graders.storage.texts import first_N
from eightball_ppo.labels import LabelSet

STATUSES = ("ok", "failed", "refused", "skipped")  # skipped: never asked, because no call was allowed any more
OK = STATUSES.index("ok")
SKIPPED = STATUSES.index("skipped")


@dataclass(frozen=True)
class Grades:
    """Grades of N questions: `score_NK` (NaN where there is none), `status_NK` (positions in STATUSES), `graded_at_NK`
    (seconds since 1970), `calls` that they took in all, some of what went wrong in `details`, and of every good grade
    the probability that its judge put on other than the labels, `missing`."""

    scale: Scale
    score_NK: Tensor
    status_NK: np.ndarray
    graded_at_NK: np.ndarray
    calls: int
    details: tuple[str, ...] = ()
    missing: tuple[float, ...] = ()

    @property
    def whole_N(self) -> np.ndarray:
        """True where every label of the question has a grade."""
        return (self.status_NK == OK).all(1)

    @property
    def logp_NK(self) -> Tensor:
        """Log-probabilities of the labels, float32; NaN rows where a question is not whole.

        Ratings become the softmax that gives a label with one point more e times the probability. That moves every
        rating of a question by one number, so the best policy of a price of KL is that of the ratings themselves.
        """
        score_NK = self.score_NK if self.scale == "log_prob" else self.score_NK.log_softmax(-1)
        return score_NK.masked_fill(~torch.from_numpy(self.whole_N)[:, None], torch.nan).float()

    def count(self) -> Counter[str]:
        """How many (question, label) pairs have each status."""
        return Counter({status: int((self.status_NK == code).sum()) for code, status in enumerate(STATUSES)})


class GradeSource(Protocol):
    """What methods see of graders; see the module's docstring. The attributes are those of `Grader`, and
    `fingerprints`: its own and those of all that it is made of."""

    labels: LabelSet
    fingerprint: str
    fingerprints: tuple[str, ...]
    deliberate: bool
    settings: dict[str, Any]

    def fill(self, questions: Sequence[str]) -> None:
        """Ask for whatever is missing, as far as the budget allows."""
        ...

    def outlook(self, questions: Sequence[str]) -> tuple[int, int]:
        """(calls, tokens) that `fill` would take if nothing failed, the tokens estimated."""
        ...

    def read(self, questions: Sequence[str]) -> Grades:
        """The grades there are. Asks nobody."""
        ...


class StoredGrader:
    """A grader behind the grade store: asked for what the store lacks, and heard at once by the store."""

    # So many failures in a row, or in all if they are above the share that is allowed, stop the grading: it would end
    # in an error anyway, and the calls until then can be saved.
    FEWEST_FAILURES = 20
    AT_ONCE = 1024  # grades that cost nothing are kept by so many; a process that dies loses at most these

    def __init__(self, grader: Grader, store: GradeStore, budget: Budget, max_failures: float, progress: bool):
        self.grader = grader
        self.labels, self.fingerprint, self.deliberate = grader.labels, grader.fingerprint, grader.deliberate
        self.fingerprints: tuple[str, ...] = (grader.fingerprint,)
        self.settings = grader.settings
        self._store, self._budget, self._max_failures, self._progress = store, budget, max_failures, progress

    def _missing(self, unique: Iterable[str]) -> Iterable[Ask]:
        asks = asks_of(unique, self.labels, self.grader.scale)
        return self._store.missing(self._store.id_of(self.fingerprint), asks)

    def outlook(self, questions: Sequence[str]) -> tuple[int, int]:
        calls = tokens = 0
        for ask in self._missing(compress(questions, first_N(questions))):
            calls, tokens = calls + 1, tokens + self.grader.tokens(ask)
        return calls, tokens

    def fill(self, questions: Sequence[str]) -> None:
        from tqdm import tqdm

        grader = self._store.register(self.fingerprint, self.settings)
        first = first_N(questions)
        asks = int(first.sum()) * (1 if self.grader.scale == "log_prob" else len(self.labels))
        bad = in_a_row = 0
        free, waiting = getattr(self.grader, "free", False), list[Grade]()

        def write() -> None:
            if waiting:
                self._store.keep_many(grader, waiting)
                waiting.clear()

        def keep(grade: Grade) -> None:
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
            hopeless = bad > self._max_failures * asks or (in_a_row >= self.FEWEST_FAILURES and self._max_failures < 1)
            if bad >= self.FEWEST_FAILURES and hopeless:
                self._budget.stop(f"{bad} of {asks} grades failed, the last with: {grade.detail}")
                self._budget.broken = True

        with tqdm(total=asks, desc=f"grading: {self.fingerprint[:24]}", disable=not self._progress, leave=False) as bar:
            try:
                self.grader.grade(self._missing(compress(questions, first)), keep, self._budget)
            finally:
                write()

    def read(self, questions: Sequence[str]) -> Grades:
        shape = (len(questions), len(self.labels))
        score_NK = np.full(shape, np.nan)
        status_NK = np.full(shape, SKIPPED, dtype=np.int8)
        graded_at_NK = np.zeros(shape)
        calls, grader = 0, self._store.id_of(self.fingerprint)
        details: dict[str, None] = {}
        missing: list[float] = []
        stored = self._store.read_many(grader, questions)
        for row, question in enumerate(questions):
            for ask in asks_of([question], self.labels, self.grader.scale):
                grade = stored.get(ask)
                if grade is None:
                    continue
                columns = slice(None) if ask.label is None else self.labels.id_of(ask.label)
                status_NK[row, columns] = STATUSES.index(grade.status)
                graded_at_NK[row, columns] = grade.graded_at
                calls += grade.calls
                if grade.status == "ok":
                    missing.append(grade.missing)
                    score_NK[row, columns] = grade.scores if ask.label is None else grade.scores[0]
                elif len(details) < 3:
                    details[f"{ask.question[:60]!r}: {grade.detail}"] = None
        return Grades(
            self.grader.scale,
            torch.from_numpy(score_NK),
            status_NK,
            graded_at_NK,
            calls,
            tuple(details),
            tuple(missing),
        )


class _Made:
    """A source made of other sources, which are filled in turn."""

    def __init__(self, members: Sequence[GradeSource], labels: LabelSet, fingerprint: str):
        self.members = members
        self.labels = labels
        self.fingerprint = fingerprint
        self.fingerprints = (fingerprint, *(own for member in members for own in member.fingerprints))
        self.deliberate = all(member.deliberate for member in members)
        self.settings = {"grader": fingerprint.split("(")[0], "of": [member.settings for member in members]}

    def outlook(self, questions: Sequence[str]) -> tuple[int, int]:
        calls, tokens = zip(*(member.outlook(questions) for member in self.members), strict=True)
        return sum(calls), sum(tokens)

    def fill(self, questions: Sequence[str]) -> None:
        for member in self.members:
            member.fill(questions)

    def _join(self, parts: Sequence[Grades], score_NK: Tensor) -> Grades:
        """Log-probabilities `score_NK` that rest on `parts`: as whole as the least whole of them."""
        status_NK = np.stack([part.status_NK.max(1, keepdims=True) for part in parts]).max(0)
        graded_at_NK = np.stack([part.graded_at_NK.max(1, keepdims=True) for part in parts]).max(0)
        shape = (len(score_NK), len(self.labels))
        return Grades(
            "log_prob",
            score_NK,
            np.broadcast_to(status_NK, shape).copy(),
            np.broadcast_to(graded_at_NK, shape).copy(),
            sum(part.calls for part in parts),
            tuple(detail for part in parts for detail in part.details)[:3],
            tuple(missing for part in parts for missing in part.missing),
        )


class Averaged(_Made):
    """The weighted mean of several graders' probabilities; a question is whole where all of them graded it."""

    def __init__(self, members: Sequence[GradeSource], weights: Sequence[float]):
        total = sum(weights)
        self._share_M = [weight / total for weight in weights]
        inner = ",".join(f"{share:g}*{m.fingerprint}" for share, m in zip(self._share_M, members, strict=True))
        super().__init__(members, members[0].labels, f"mean({inner})")

    def read(self, questions: Sequence[str]) -> Grades:
        parts = [member.read(questions) for member in self.members]
        logp_MNK = torch.stack([part.logp_NK.double() for part in parts])
        share_M11 = torch.tensor(self._share_M, dtype=torch.float64)[:, None, None]
        return self._join(parts, (logp_MNK + share_M11.log()).logsumexp(0))


class Noisy(_Made):
    """A grader whose call about a question is wrong with probability `rate`: its scores then move on by 1..K-1 labels,
    so that another one is its favourite (unless it likes all alike). Which calls, and by how much, is drawn from
    `seed`, the grader and the question."""

    def __init__(self, inner: GradeSource, rate: float, seed: int):
        self._rate, self._seed = rate, seed
        super().__init__([inner], inner.labels, f"noisy:{rate:g}:seed{seed}({inner.fingerprint})")

    def read(self, questions: Sequence[str]) -> Grades:
        grades = self.members[0].read(questions)
        logp_NK = grades.logp_NK
        for row, question in enumerate(questions):
            own = f"{self._seed}:{self.members[0].fingerprint}:{question}"
            draw = random.Random(hashlib.sha256(own.encode()).digest())
            if draw.random() < self._rate:
                shifts = draw.sample(range(1, len(self.labels)), len(self.labels) - 1)
                moved = [logp_NK[row].roll(shift) for shift in shifts]
                favourite = logp_NK[row].argmax()
                logp_NK[row] = next((other_K for other_K in moved if other_K.argmax() != favourite), moved[0])
        return self._join([grades], logp_NK)


class Remapped(_Made):
    """A grader with other labels: the probabilities of its labels that share one of ours are added up.

    `target_J`: for each of its J labels, the position of ours. Every one of ours has at least one of its.
    """

    def __init__(self, inner: GradeSource, target_J: Sequence[int], labels: LabelSet):
        self._sources_K = [[j for j, k in enumerate(target_J) if k == own] for own in range(len(labels))]
        names = ",".join(f"{name}={labels.names[k]}" for name, k in zip(inner.labels.names, target_J, strict=True))
        super().__init__([inner], labels, f"remapped:{names}({inner.fingerprint})")

    def read(self, questions: Sequence[str]) -> Grades:
        grades = self.members[0].read(questions)
        logp_NJ = grades.logp_NK.double()
        logp_NK = torch.stack([logp_NJ[:, sources].logsumexp(1) for sources in self._sources_K], dim=1)
        return self._join([grades], logp_NK)
