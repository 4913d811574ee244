"""The interface of a grader: it takes requests and hands on each grade as it is made. And scores made of grades."""

import itertools
import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from eightball_ppo.config.graded import ScoreType
from eightball_ppo.graders.budget import Budget
from eightball_ppo.labels import LabelSet

T = TypeVar("T")
Status = Literal["ok", "failed", "refused"]
Scale = Literal["log_prob", "rating"]
MAX_DETAIL_LENGTH = 200  # characters of what went wrong that are worth keeping


class GradeRequest(NamedTuple):
    """One question for all labels at once or, where `label` is given, for this label alone."""

    question: str
    label: str | None = None


class Grade(NamedTuple):
    """A grader's reply to one request.

    `scores`: K log-probabilities (nats), or one rating; empty unless `status` is ok. `detail`: what went wrong
    otherwise. `calls`, `tokens`: what the grade cost. `missing`: probability that the judge put on other than what it
    was asked for; 0 where it is not known. `graded_at`: seconds since 1970, set by the store when it keeps the grade.
    """

    request: GradeRequest
    status: Status
    scores: tuple[float, ...] = ()
    detail: str = ""
    calls: int = 1
    tokens: int = 0
    missing: float = 0.0
    graded_at: float = 0.0

    @classmethod
    def of(
        cls, request: GradeRequest, scores: Sequence[float], calls: int = 1, tokens: int = 0, missing: float = 0.0
    ) -> "Grade":
        """An ok grade, or a failed one where a score is not finite: that is no grade, and never becomes a number."""
        if all(math.isfinite(score) for score in scores):
            return cls(request, "ok", tuple(scores), "", calls, tokens, missing)
        return cls(request, "failed", (), f"scores {list(scores)} are not finite"[:MAX_DETAIL_LENGTH], calls, tokens)


OnGrade = Callable[[Grade], None]


class Grader(Protocol):
    """Scores labels as answers to a question.

    `labels`: the K labels, in the order of the columns. `scale`: "log_prob" for a grader that gives the K
    log-probabilities of one question in one request; "rating" for one that rates one (question, label) in a request, 1
    to 10.
    `fingerprint`: equal for two graders if and only if they grade alike, so that grades can be stored and shared.
    `deliberate`: True for a grader that is not meant to know the askers' wishes (a rule, an untrained head), so that
    its accuracy is nobody's business. `settings`: what the fingerprint stands for, in words, without any secret.
    A grader whose grades cost nothing may say `free = True`: they are then kept by the thousand, not one by one.
    """

    labels: LabelSet
    scale: Scale
    fingerprint: str
    deliberate: bool
    settings: dict[str, Any]

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        """Grade `requests`; call `on_grade` with every grade once it is made, in any order, from the calling thread.

        Takes requests only as fast as it can answer them, and no more once `budget` allows no call.
        """
        ...

    def tokens(self, request: GradeRequest) -> int:
        """About how many tokens one request takes; 0 where tokens cost nothing."""
        ...


def requests_for(questions: Iterable[str], labels: LabelSet, scale: Scale) -> Iterable[GradeRequest]:
    """Every request that it takes to grade `questions`."""
    if scale == "log_prob":
        return (GradeRequest(question) for question in questions)
    return (GradeRequest(question, label) for question in questions for label in labels.names)


def batched(items: Iterable[T], size: int) -> Iterable[list[T]]:
    """`items` in lists of at most `size`, none of them empty."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def convert_scores(logp_NK: Tensor, kind: ScoreType) -> Tensor:
    """The score that training maximises, made of the grader's log-probabilities; same shape.

    `log_prob`: log p in nats. `probability`: p. `logit_margin`: log p - log(1 - p), the log-odds against all others.
    """
    match kind:
        case "log_prob":
            return logp_NK
        case "probability":
            return logp_NK.exp()
        case "logit_margin":
            # log(1 - p) as a logsumexp over the other labels: exact also where p rounds to 1
            others_NKK = logp_NK.unsqueeze(-2).expand(*logp_NK.shape, logp_NK.shape[-1])
            diagonal = torch.eye(logp_NK.shape[-1], dtype=torch.bool, device=logp_NK.device)
            return logp_NK - others_NKK.masked_fill(diagonal, -torch.inf).logsumexp(-1)
