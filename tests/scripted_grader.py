"""A grader that answers by a script, behind a store in memory."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from eightball_ppo.graders.base import Grade, GradeRequest, OnGrade, Scale, batched
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.storage.score_table import STATUSES
from eightball_ppo.graders.storage.sources import StoredGrader
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

LABELS = LabelSet.of(EIGHTBALL_LABELS)
QUESTIONS = [f"Is it {number}?" for number in range(12)]
FAILED, REFUSED = STATUSES.index("failed"), STATUSES.index("refused")
Script = Callable[[GradeRequest], Sequence[float] | str]


def logp(*p_K: float) -> list[float]:
    return [math.log(p) for p in p_K]


class Scripted:
    """A grader that answers by its script: scores, or a status that is not ok. Records every request.

    `at_once`: how many requests it takes before it answers any.
    """

    deliberate = False

    def __init__(self, script: Script, scale: Scale = "log_prob", labels: LabelSet = LABELS, name: str = "scripted"):
        self.labels, self.scale, self.fingerprint = labels, scale, name
        self.settings: dict[str, Any] = {"grader": name}
        self.script, self.at_once = script, 1
        self.requests: list[GradeRequest] = []

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        for request in itertools.chain.from_iterable(batched(budget.allowed(requests), self.at_once)):
            self.requests.append(request)
            answer = self.script(request)
            if isinstance(answer, str):
                on_grade(Grade(request, answer, (), f"it {answer}"))  # type: ignore[arg-type]
            else:
                on_grade(Grade.of(request, answer, tokens=self.tokens(request)))

    def tokens(self, request: GradeRequest) -> int:
        return len(request.question)


def stored(grader: Scripted, budget: Budget | None = None, max_failures: float = 1.0) -> StoredGrader:
    """The grader behind a store in memory."""
    return StoredGrader(grader, GradeStore(":memory:"), budget or Budget(), max_failures, progress=False)


def filled(script: Script, questions: Sequence[str] = QUESTIONS, **options: Any) -> StoredGrader:
    """A source whose grades are all there."""
    source = stored(Scripted(script, **options))
    source.fill(questions)
    return source


def random_logp(request: GradeRequest) -> list[float]:
    """Other log-probabilities for every question."""
    generator = torch.Generator().manual_seed(sum(map(ord, request.question)))
    return (2 * torch.randn(len(LABELS), generator=generator, dtype=torch.float64)).log_softmax(-1).tolist()
