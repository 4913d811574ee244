"""The grader protocol, the scores made of a grader's probabilities, and the memo that asks each question once."""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from eightball_ppo.configs import ScoreKind
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet


class Grader(Protocol):
    """Scores every label as an answer to a question.

    `labels`: the K labels, in the order of the columns. `fingerprint`: equal for two graders if and only if they give
    the same scores, so that grades can be stored and shared. `deliberate`: True for a grader that is not meant to know
    the askers' wishes (a rule, an untrained head), so that its accuracy is nobody's business.
    """

    labels: LabelSet
    fingerprint: str
    deliberate: bool

    def score(self, questions: Sequence[str]) -> Tensor:
        """Log-probabilities `score_BK` (float32, CPU) of the labels for B questions; each row's exp sums to 1."""
        ...


def convert_scores(logp_NK: Tensor, kind: ScoreKind) -> Tensor:
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


class GradeBook:
    """Grades asked for so far: each different question is put to the grader once, whoever wants it again.

    `calls` counts the questions that reached the grader.
    """

    def __init__(self, grader: Grader):
        self.grader = grader
        self.calls = 0
        self._logp: dict[str, Tensor] = {}

    def knows(self, questions: Sequence[str]) -> bool:
        """True if every one of `questions` has been graded."""
        return all(question in self._logp for question in questions)

    def logp_NK(self, questions: Sequence[str]) -> Tensor:
        """The grader's log-probabilities of the labels, [N, K], asking for unknown questions only.

        Raises:
            InputError: a grade that is not finite: it would turn every weight into NaN through whitening.
        """
        unknown = [q for q in dict.fromkeys(questions) if q not in self._logp]
        if unknown:
            new_BK = self.grader.score(unknown).float()
            for question, logp_K in zip(unknown, new_BK, strict=True):
                if not torch.isfinite(logp_K).all():
                    raise InputError(
                        f"grader {self.grader.fingerprint}: score {logp_K.tolist()} for {question!r} is not finite"
                    )
                self._logp[question] = logp_K
            self.calls += len(unknown)
        return torch.stack([self._logp[q] for q in questions])
