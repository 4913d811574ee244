"""Scores of a grader whose answers differ from call to call: nothing is remembered, and every ask is paid for."""

import hashlib
from collections.abc import Sequence
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from eightball_ppo.config.graded import ScoreType
from eightball_ppo.functional.noise import occurrence_B, shown_label_B
from eightball_ppo.graders.budgeted_scores import BudgetedScores, check_budget
from eightball_ppo.labels import LabelSet


class Answers(Protocol):
    """What a grader answers at each ask: a function of numbers alone, so that a resumed run gets the same answers."""

    def __call__(self, rows_B: Tensor, actions_B: Tensor, asks_B: Tensor) -> Tensor:
        """Scores [B], finite.

        Args:
            rows_B: Question rows, shape [B], on the CPU.
            actions_B: Label ids, shape [B].
            asks_B: How often this (question, label) was asked before, shape [B].
        """


class NoisyAnswers:
    """Answers of which a share shows the score of another label of the question.

    The draws depend on the seed, the grader, the question, the label's name and the number of the ask.

    Args:
        score_NK: The clean scores, shape [N, K].
        rate: Probability that an answer is wrong; all other labels are equally probable then.
        seed: Of the draws.
        texts: The N questions.
        labels: The K labels.
        fingerprint: The grader's.
    """

    def __init__(
        self, score_NK: Tensor, rate: float, seed: int, texts: Sequence[str], labels: LabelSet, fingerprint: str
    ):
        self.score_NK, self.rate = score_NK, rate
        digests = (hashlib.sha256(f"{seed}:{fingerprint}:{text}".encode()).digest()[:8] for text in texts)
        self._key_N = np.fromiter(map(int.from_bytes, digests), np.uint64, len(texts))
        self._sorted_K = torch.tensor(labels.columns_in(labels.canonical()))  # label id -> its place by name
        self._id_K = self._sorted_K.argsort()

    def shown_label_B(self, rows_B: Tensor, actions_B: Tensor, asks_B: Tensor) -> Tensor:
        """The label whose score each answer shows, shape [B]."""
        key_B, labels = self._key_N[rows_B.numpy()], self.score_NK.shape[1]
        return self._id_K[shown_label_B(key_B, self._sorted_K[actions_B], asks_B, self.rate, labels)]

    def __call__(self, rows_B: Tensor, actions_B: Tensor, asks_B: Tensor) -> Tensor:
        """See `Answers`."""
        return self.score_NK[rows_B, self.shown_label_B(rows_B, actions_B, asks_B)]

    def shown_label_NK(self) -> Tensor:
        """The label whose score the first answer of every cell shows, shape [N, K]."""
        rows_NK, actions_NK = _grid(*self.score_NK.shape)
        shown_S = self.shown_label_B(rows_NK.flatten(), actions_NK.flatten(), torch.zeros(rows_NK.numel()).long())
        return shown_S.view_as(rows_NK)


class PerCallScores(BudgetedScores):
    """Scores of the training texts, shape [N, K], from answers that are drawn at every ask; each ask is a call.

    A method that samples answers gets a new answer for each. One that learns from full rows asks every cell once or,
    if the budget is above N x K calls, so often that it is spent, and uses the mean of the answers. Once the budget is
    spent, a cell counts as the mean of its answers, and one that was never asked as the mean of all answers.

    `score_NK` holds the first answers. The state of a resumed run is how often each cell was asked, and the sums of its
    answers.

    Args:
        answers: The grader.
        num_rows: N.
        num_labels: K.
        budget: Maximum number of asks; None for no limit, which is one ask for each cell of a full row.
        seed: Decides which questions are asked first.
        score_type: As of `BudgetedScores`; rows of answers do not sum to one.
    """

    asked_NK: Tensor
    sum_NK: Tensor

    def __init__(
        self,
        answers: Answers,
        num_rows: int,
        num_labels: int,
        budget: int | None = None,
        seed: int = 0,
        score_type: ScoreType = "log_prob",
    ):
        rows_NK, actions_NK = _grid(num_rows, num_labels)
        rows_S, actions_S = rows_NK.flatten(), actions_NK.flatten()
        score_NK = answers(rows_S, actions_S, torch.zeros_like(rows_S)).view_as(rows_NK)
        super().__init__(score_NK, budget, seed, score_type)
        self.answers = answers
        self.register_buffer("asked_NK", torch.zeros_like(score_NK, dtype=torch.int32))
        self.register_buffer("sum_NK", torch.zeros_like(score_NK, dtype=torch.float64))

    @property
    def calls(self) -> int:
        """Number of asks."""
        return int(self.asked_NK.sum())

    def buy_full_rows(self) -> list[int]:
        """Asks all labels of as many random questions as the budget allows, all cells equally often if it is larger.

        Returns:
            The sorted rows that were asked.

        Raises:
            InputError: The budget does not pay for one row.
        """
        rows, labels = self.asked_NK.shape
        check_budget(self.budget, labels)
        payable = rows if self.budget is None else self.budget // labels
        asks_N = torch.full((rows,), payable // rows)
        asks_N[self._order()[0][: payable % rows]] += 1
        for ask in range(int(asks_N.max())):
            rows_M = (asks_N > ask).nonzero().flatten()
            rows_MK, actions_MK = rows_M.unsqueeze(1).expand(-1, labels), torch.arange(labels).expand(len(rows_M), -1)
            self._ask(rows_MK.flatten(), actions_MK.flatten())
        return asks_N.nonzero().flatten().tolist()

    def known_score_NK(self) -> Tensor:
        """The mean of the answers to each cell, shape [N, K]; of all answers where there is none."""
        mean_NK = torch.where(self.asked_NK > 0, self.sum_NK / self.asked_NK, self.sum_NK.sum() / max(1, self.calls))
        return mean_NK.to(self.score_NK.dtype)

    def forward(self, rows_B: Tensor, actions_B: Tensor) -> Tensor:
        """A new answer for each sampled label [B], in their order, until the budget is spent; then what is known."""
        paid = len(rows_B) if self.budget is None else min(len(rows_B), self.budget - self.calls)
        score_B = self._ask(rows_B[:paid], actions_B[:paid])
        if paid == len(rows_B):
            return score_B
        return torch.cat([score_B, self.known_score_NK()[rows_B[paid:], actions_B[paid:]]])

    def _ask(self, rows_B: Tensor, actions_B: Tensor) -> Tensor:
        cells = (rows_B, actions_B)
        asks_B = self.asked_NK[cells] + occurrence_B(rows_B * self.asked_NK.shape[1] + actions_B)
        score_B = self.answers(rows_B.cpu(), actions_B.cpu(), asks_B.cpu()).to(self.score_NK)
        self.asked_NK.index_put_(cells, torch.ones_like(actions_B, dtype=torch.int32), accumulate=True)
        self.sum_NK.index_put_(cells, score_B.double(), accumulate=True)
        self.observed_NK[cells] = True
        return score_B


def _grid(rows: int, labels: int) -> tuple[Tensor, Tensor]:
    """The row and the label of every cell, both of shape [N, K]."""
    rows_NK, actions_NK = torch.meshgrid(torch.arange(rows), torch.arange(labels), indexing="ij")
    return rows_NK, actions_NK
