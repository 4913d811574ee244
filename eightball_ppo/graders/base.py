"""The grader interface (requests in, one `Grade` each out), and the score that training maximizes."""

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
MAX_DETAIL_LENGTH = 200  # characters of a failure's reason that are stored


class GradeRequest(NamedTuple):
    """One question, to be scored for all labels at once or, if `label` is given, for this label only."""

    question: str
    label: str | None = None


class Grade(NamedTuple):
    """A grader's reply to one request.

    Attributes:
        request: What was graded.
        status: "ok", "failed", or "refused" if the judge declined.
        scores: K log-probabilities in nats, or one rating; empty unless `status` is "ok".
        detail: The reason of a failure.
        calls: Calls that the grade took, retries included.
        tokens: Tokens that it took.
        missing: Probability that the judge put on anything but the labels (or ratings); 0 where unknown.
        graded_at: Seconds since 1970, set by the store.
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
    def from_scores(
        cls, request: GradeRequest, scores: Sequence[float], calls: int = 1, tokens: int = 0, missing: float = 0.0
    ) -> "Grade":
        """An "ok" grade, or a failed one if a score is not finite."""
        if all(map(math.isfinite, scores)):
            return cls(request, "ok", tuple(scores), "", calls, tokens, missing)
        return cls(request, "failed", (), f"scores {list(scores)} are not finite", calls, tokens)


OnGrade = Callable[[Grade], None]


class Grader(Protocol):
    """Scores labels as answers to a question.

    A grader may set `free = True` if its grades cost nothing: the store then writes them in large transactions.

    Attributes:
        labels: The K labels, in the order of `Grade.scores`.
        scale: "log_prob": one request gives the K log-probabilities of a question. "rating": one request rates one
            (question, label), 1 to 10.
        fingerprint: Equal for two graders if and only if they grade alike; the key of stored grades.
        deliberate: True for a deliberately biased grader (a rule, an untrained head), whose accuracy is not checked.
        settings: What the fingerprint is a hash of; holds no secret.
    """

    labels: LabelSet
    scale: Scale
    fingerprint: str
    deliberate: bool
    settings: dict[str, Any]

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        """Grades `requests` and calls `on_grade` with each grade, in any order, from the calling thread.

        Args:
            requests: Consumed lazily, and no further once `budget` allows no call.
            on_grade: Called once per request, also for failures.
            budget: Every call is reserved from it.
        """
        ...

    def tokens(self, request: GradeRequest) -> int:
        """Estimated tokens of one request; 0 if tokens cost nothing."""
        return 0


def requests_for(questions: Iterable[str], labels: LabelSet, scale: Scale) -> Iterable[GradeRequest]:
    """Every request that grading `questions` takes."""
    if scale == "log_prob":
        return map(GradeRequest, questions)
    return (GradeRequest(question, label) for question in questions for label in labels.names)


def batched(items: Iterable[T], size: int) -> Iterable[list[T]]:
    """Splits `items` into lists of at most `size`, none of them empty."""
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
