"""A grader that always prefers one label."""

import math
from collections.abc import Iterable
from typing import Any

from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Grade, Grader, GradeRequest, OnGrade, Scale
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.fingerprint import settings_fingerprint
from eightball_ppo.labels import LabelSet

CONFIDENCE = 0.98  # probability of the preferred label; the others share the rest, so that every log is finite


class RuleGrader(Grader):
    """`rule:LABEL`: gives `label` probability 0.98, whatever the question.

    Raises:
        InputError: `label` is not in `labels`.
    """

    deliberate = True
    free = True
    scale: Scale = "log_prob"

    def __init__(self, label: str, labels: LabelSet):
        if label not in labels.names:
            raise InputError(f"--grader rule:{label}: unknown label; known: {list(labels.names)}")
        self.labels = labels
        names = list(labels.canonical().names)  # the same fingerprint in any order
        self.settings: dict[str, Any] = {"grader": "rule", "label": label, "probability": CONFIDENCE, "labels": names}
        self.fingerprint = settings_fingerprint(self.settings)
        others = math.log((1 - CONFIDENCE) / (len(labels) - 1))
        self._logp_K = tuple(math.log(CONFIDENCE) if name == label else others for name in labels.names)

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        """See `Grader.grade`."""
        for request in budget.allowed(requests):
            on_grade(Grade.from_scores(request, self._logp_K))
