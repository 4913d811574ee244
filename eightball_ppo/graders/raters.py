"""People as graders: raters of a packaged data set, drawn at random; the raters who are not drawn are the gold.

Letters: M raters of a panel, R raters of a text, B texts of a batch, N texts of a split, K labels.
"""

import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from eightball_ppo.config.fields import require
from eightball_ppo.config.graded import ScoreType
from eightball_ppo.data import Questions
from eightball_ppo.data.packaged import ratings_by_text
from eightball_ppo.data.ratings import SENTIMENTS, raters_in_order, sentiment, vote
from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Grade, Grader, GradeRequest, OnGrade, Scale, convert_scores
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.fingerprint import settings_fingerprint
from eightball_ppo.labels import LabelSet

PRIOR = 0.5  # votes that every label has before the panel votes (Jeffreys), so that every logarithm is finite
FIRST_VOTE = 1.001  # what the vote of the rater drawn first counts: a tie is broken by chance, not by label order


class Panel(NamedTuple):
    """The raters that judge a text.

    Attributes:
        size: M, their number.
        seed: Of the draw.
    """

    size: int
    seed: int

    @classmethod
    def parse(cls, argument: str, spec: str) -> "Panel":
        """The panel of `M:SEED` in the `--grader` text `spec`; by default one rater, seed 0.

        Raises:
            InputError: No whole numbers, or a panel without a rater.
        """
        found = re.fullmatch(r"(?:([1-9]\d{0,8})(?::(\d{1,9}))?)?", argument, re.ASCII)
        if found is None:
            raise InputError(f"--grader {spec}: rater, rater:RATERS or rater:RATERS:SEED is needed, e.g. rater:3:0")
        return cls(int(found[1] or 1), int(found[2] or 0))

    def of(self, text: str, ratings: Sequence[int]) -> list[int]:
        """The raters of a text that are drawn; a larger panel with the same seed contains a smaller one."""
        return raters_in_order(text, len(ratings), self.seed)[: self.size]


class RaterGrader(Grader):
    """`rater:M:SEED`: M raters, drawn once for each text, vote; log-probabilities of their votes.

    Args:
        dataset_name: A packaged data set with ratings.
        panel: How many raters are drawn, and the seed.
        labels: The labels, which are `SENTIMENTS` in any order.

    Raises:
        InputError: A data set without ratings, other labels, or a panel that leaves no rater for the gold.
    """

    deliberate = False
    free = True
    scale: Scale = "log_prob"

    def __init__(self, dataset_name: str, panel: Panel, labels: LabelSet):
        self.labels, self._panel = labels, panel
        labels.require_same(LabelSet.of(SENTIMENTS), "--labels", f"the raters of {dataset_name}")
        self._ratings = _ratings(dataset_name)
        fewest = min(map(len, self._ratings.values()))
        reason = f"some texts of {dataset_name} have {fewest} raters, and one at least is needed for the gold"
        require(panel.size < fewest, f"--grader rater:{panel.size}: {reason}; draw at most {fewest - 1}")
        digest = hashlib.sha256(repr(sorted(self._ratings.items())).encode()).hexdigest()[:16]
        self.settings: dict[str, Any] = {"grader": "rater", "raters": panel.size, "seed": panel.seed}
        self.settings |= {"dataset_name": dataset_name, "ratings": digest, "labels": list(labels.canonical().names)}
        self.fingerprint = settings_fingerprint(self.settings)

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        """See `Grader.grade`. A text that no one rated is a failed grade."""
        ids = self.labels.columns_in(LabelSet.of(SENTIMENTS))
        for request in budget.allowed(requests):
            ratings = self._ratings.get(request.question)
            if ratings is None:
                on_grade(Grade(request, "failed", (), "no one rated this text"))
                continue
            votes = [vote(ratings[rater]) for rater in self._panel.of(request.question, ratings)]
            logp_K = vote_logp_BK(torch.tensor([votes]), len(SENTIMENTS))[0, ids]
            on_grade(Grade.from_scores(request, logp_K.tolist()))


def vote_logp_BK(votes_BM: Tensor, num_labels: int) -> Tensor:
    """Log-probabilities of the votes of panels, in nats, float64, shape [B, K].

    p = (votes for the label + 1/2) / (M + K/2), the posterior mean under Jeffreys' prior. Ties go with the first vote.

    Args:
        votes_BM: What each rater voted for, in the order in which they were drawn; label ids, shape [B, M].
        num_labels: K.
    """
    weight_BM = torch.ones(votes_BM.shape, dtype=torch.float64)
    weight_BM[:, 0] = FIRST_VOTE
    count_BK = torch.full((len(votes_BM), num_labels), PRIOR, dtype=torch.float64).scatter_add(1, votes_BM, weight_BM)
    return (count_BK / count_BK.sum(1, keepdim=True)).log()


def gold_of_others(questions: Questions, dataset_name: str, panels: Sequence[Panel], labels: LabelSet) -> Questions:
    """`questions` with the class of the mean rating of those raters who are in no panel as the gold labels.

    Args:
        questions: Texts of the data set, with the labels that all raters gave, or without labels.
        dataset_name: A packaged data set with ratings.
        panels: The raters that grade.
        labels: The labels.

    Raises:
        InputError: A data set without ratings, or a text that all its raters grade.
    """
    if questions.label_ids is None:
        return questions
    ratings, names = _ratings(dataset_name), []
    for text in questions.texts:
        require(text in ratings, f"{questions.source}: no ratings of {text[:40]!r} in {dataset_name}")
        drawn = {rater for panel in panels for rater in panel.of(text, ratings[text])}
        others = [rating for rater, rating in enumerate(ratings[text]) if rater not in drawn]
        require(bool(others), f"{questions.source}: all raters of {text[:40]!r} are in a panel; draw fewer")
        names.append(SENTIMENTS[sentiment(others)])
    return replace(questions, label_ids=[labels.id_of(name) for name in names])


def _ratings(dataset_name: str) -> Mapping[str, tuple[int, ...]]:
    try:
        return ratings_by_text(dataset_name)
    except InputError as error:
        raise InputError(f"--grader rater: {error}") from None


class RaterDraws(nn.Module):
    """Scores of raters who are drawn again at every call: who is asked twice may get two answers.

    Nothing stores a draw. `state_dict` has the number of calls, from which the next draw follows.

    Args:
        texts: The N texts.
        dataset_name: A packaged data set with ratings.
        panel: How many raters judge an answer, and the seed of the draws.
        labels: The K labels, in the order of the actions.
        score_type: The score made of the panel's log-probabilities.

    Raises:
        InputError: A data set without ratings, or a text that fewer people rated than judge.
    """

    num_calls: Tensor

    def __init__(
        self,
        texts: Sequence[str],
        dataset_name: str,
        panel: Panel,
        labels: LabelSet,
        score_type: ScoreType = "log_prob",
    ):
        super().__init__()
        self.panel, self.score_type, self.num_labels = panel, score_type, len(labels)
        ratings, ids = _ratings(dataset_name), LabelSet.of(SENTIMENTS).columns_in(labels)
        votes = [torch.tensor([ids[vote(rating)] for rating in ratings[text]]) for text in texts]
        fewest = min(map(len, votes))
        require(panel.size <= fewest, f"--grader rater:{panel.size}: some texts have {fewest} raters; draw fewer")
        self._votes_NR = nn.utils.rnn.pad_sequence(votes, batch_first=True, padding_value=-1)  # stays on the CPU
        self._is_rated_NR = self._votes_NR >= 0
        self.register_buffer("num_calls", torch.zeros((), dtype=torch.long))

    def draw(self, rows_B: Tensor, actions_B: Tensor) -> Tensor:
        """Scores of sampled answers, each by a panel that is drawn now.

        Args:
            rows_B: Indices of texts, shape [B].
            actions_B: Label ids, shape [B].

        Returns:
            Scores, float32, shape [B].
        """
        generator = np.random.default_rng([self.panel.seed, int(self.num_calls)])
        self.num_calls += 1
        rows, actions_B1 = rows_B.cpu(), actions_B.cpu().unsqueeze(1)
        rank_BR = torch.from_numpy(generator.random((len(rows), self._votes_NR.shape[1])))
        rank_BR[~self._is_rated_NR[rows]] = torch.inf
        drawn_BM = rank_BR.topk(self.panel.size, largest=False).indices
        logp_BK = vote_logp_BK(self._votes_NR[rows].gather(1, drawn_BM), self.num_labels)
        return convert_scores(logp_BK, self.score_type).gather(1, actions_B1).squeeze(1).float().to(rows_B.device)

    def expected_NK(self) -> Tensor:
        """The mean of the scores that `draw` gives with one rater, for every answer; shape [N, K].

        Raises:
            ValueError: The panel has more raters.
        """
        if self.panel.size != 1:
            raise ValueError("the mean over panels of several raters is not computed")
        each_K1 = torch.arange(self.num_labels).unsqueeze(1)
        score_KK = convert_scores(vote_logp_BK(each_K1, self.num_labels), self.score_type)
        voted_NRK = (self._votes_NR.unsqueeze(2) == each_K1.T).double()
        return voted_NRK.sum(1) / self._is_rated_NR.sum(1, keepdim=True) @ score_KK
