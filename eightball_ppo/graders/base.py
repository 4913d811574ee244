"""The grader interface (requests in, one `Grade` each out), and the score that training maximizes."""

import itertools
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor

from eightball_ppo.config.graded import ScoreType
from eightball_ppo.graders.budget import Budget
from eightball_ppo.labels import LabelSet

T = TypeVar("T")
Status = Literal["ok", "failed", "refused"]
Scale = Literal["log_prob", "rating", "raw"]
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
        scores: K log-probabilities in nats, K raw scores, or one rating; empty unless `status` is "ok".
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
        """An "ok" grade, or a failed one if a score is not finite in float32."""
        if all(abs(score) <= MAX_SCORE for score in scores):  # False for NaN
            return cls(request, "ok", tuple(scores), "", calls, tokens, missing)
        return cls(request, "failed", (), f"scores {list(scores)} are not finite", calls, tokens)


MAX_SCORE = 1e38  # tables hold float32
OnGrade = Callable[[Grade], None]


class Grader(Protocol):
    """Scores labels as answers to a question.

    A grader may set `free = True` if its grades cost nothing: the store then writes them in large transactions. One
    whose fingerprint covers the columns of the data sets `audited_as` to that without them: audits are kept under it.

    Attributes:
        labels: The K labels, in the order of `Grade.scores`; sources put the scores into the order of a run.
        scale: "log_prob": one request gives the K log-probabilities of a question. "rating": one request rates one
            (question, label), 1 to 10. "raw": one request gives K scores in the judge's own unit.
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
    if scale == "rating":
        return (GradeRequest(question, label) for question in questions for label in labels.names)
    return map(GradeRequest, questions)


def batched(items: Iterable[T], size: int) -> Iterable[list[T]]:
    """Splits `items` into lists of at most `size`, none of them empty."""
    iterator = iter(items)
    while batch := list(itertools.islice(iterator, size)):
        yield batch


def convert_scores(logp_NK: Tensor, kind: ScoreType) -> Tensor:
    """The scores that training maximises, in memory linear in K.

    Args:
        logp_NK: The grader's log-probabilities in nats, [N, K]; for `raw` its scores in any unit.
        kind: `log_prob` (log p in nats), `probability` (p), `logit_margin` (log p - log(1 - p), the log-odds
            against all other labels), or `raw` (unchanged).

    Returns:
        Scores, [N, K].
    """
    match kind:
        case "log_prob" | "raw":
            return logp_NK
        case "probability":
            return logp_NK.exp()
        case "logit_margin":
            # log(1 - p): over the other labels for the most probable one, exact also where its p rounds to 1; for the
            # others, whose share of the total is at most 1/2, by subtraction, which loses no digits
            top_N1, total_N1 = logp_NK.argmax(-1, keepdim=True), logp_NK.logsumexp(-1, keepdim=True)
            not_top_N1 = logp_NK.scatter(-1, top_N1, -torch.inf).logsumexp(-1, keepdim=True)
            others_NK = total_N1 + torch.log1p(-(logp_NK - total_N1).exp())
            return logp_NK - others_NK.scatter(-1, top_N1, not_top_N1)


def log_probabilities(score_NK: Tensor, kind: ScoreType) -> Tensor:
    """The log-probabilities, in nats, of which `convert_scores` made the scores [N, K]; `raw` scores unchanged."""
    match kind:
        case "log_prob" | "raw":
            return score_NK
        case "probability":
            return score_NK.log()
        case "logit_margin":
            return torch.nn.functional.logsigmoid(score_NK)
