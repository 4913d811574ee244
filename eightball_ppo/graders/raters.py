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
from eightball_ppo.functional.noise import uniform_B
from eightball_ppo.graders.base import Grade, Grader, GradeRequest, OnGrade, Scale, convert_scores
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.fingerprint import settings_fingerprint
from eightball_ppo.graders.per_call_scores import Answers
from eightball_ppo.labels import LabelSet

PRIOR = 0.5  # votes that every label has before the panel votes (Jeffreys), so that every logarithm is finite
FIRST_VOTE = 1.001  # what the vote of the rater drawn first counts: a tie is broken by chance, not by label order


class Panel(NamedTuple):
    """The raters that judge a text.

    Attributes:
        size: M, their number.
        seed: Of the draw.
        per_call: Whether they are drawn again at every call, and not once for each text.
    """

    size: int
    seed: int
    per_call: bool = False

    @classmethod
    def parse(cls, argument: str, spec: str) -> "Panel":
        """The panel of `M:SEED` in the `--grader` text `spec`; by default one rater, seed 0.

        Raises:
            InputError: No whole numbers, or a panel without a rater.
        """
        found = re.fullmatch(r"(?:([1-9]\d{0,8})(?::(\d{1,9}))?(:call)?)?", argument, re.ASCII)
        if found is None:
            forms = "rater, rater:RATERS, rater:RATERS:SEED, or one of the last two with :call behind it"
            raise InputError(f"--grader {spec}: {forms} is needed, e.g. rater:3:0")
        return cls(int(found[1] or 1), int(found[2] or 0), found[3] is not None)

    def of(self, text: str, ratings: Sequence[int]) -> list[int]:
        """The raters of a text whose votes are its grade, all of them if every call draws its own.

        A larger panel with the same seed contains a smaller one.
        """
        order = raters_in_order(text, len(ratings), self.seed)
        return order if self.per_call else order[: self.size]


class RaterGrader(Grader):
    """`rater:M:SEED`: M raters, drawn once for each text, vote; log-probabilities of their votes.

    `rater:M:SEED:call`: the votes of all raters of a text; training asks `RaterAnswers`.

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
        self.settings |= {"per_call": True} if panel.per_call else {}
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
        panels: The raters that grade. Those that are drawn at every call grade no held-out text while a policy learns.
        labels: The labels.

    Raises:
        InputError: A data set without ratings, or a text that all its raters grade.
    """
    if questions.label_ids is None:
        return questions
    ratings, names = _ratings(dataset_name), []
    for text in questions.texts:
        require(text in ratings, f"{questions.source}: no ratings of {text[:40]!r} in {dataset_name}")
        drawn = {rater for panel in panels if not panel.per_call for rater in panel.of(text, ratings[text])}
        others = [rating for rater, rating in enumerate(ratings[text]) if rater not in drawn]
        require(bool(others), f"{questions.source}: all raters of {text[:40]!r} are in a panel; draw fewer")
        names.append(SENTIMENTS[sentiment(others)])
    return replace(questions, label_ids=[labels.id_of(name) for name in names])


def _ratings(dataset_name: str) -> Mapping[str, tuple[int, ...]]:
    try:
        return ratings_by_text(dataset_name)
    except InputError as error:
        raise InputError(f"--grader rater: {error}") from None


class RaterAnswers(Answers):
    """`rater:M:call`: M raters of a text, drawn again at every ask: who is asked twice may get two answers.

    A draw depends on the seed, the text, the label's name and the number of the ask alone.

    Args:
        texts: The N texts.
        dataset_name: A packaged data set with ratings.
        panel: How many raters judge an answer, and the seed of the draws.
        labels: The K labels, in the order of the actions.
        score_type: The score made of the panel's log-probabilities.
    """

    def __init__(self, texts: Sequence[str], dataset_name: str, panel: Panel, labels: LabelSet, score_type: ScoreType):
        self.panel, self.score_type, self.num_labels = panel, score_type, len(labels)
        ratings, sentiments = _ratings(dataset_name), LabelSet.of(SENTIMENTS)
        ids = sentiments.columns_in(labels)  # the label id of each sentiment
        votes = [torch.tensor([ids[vote(rating)] for rating in ratings[text]]) for text in texts]
        self._votes_NR = nn.utils.rnn.pad_sequence(votes, batch_first=True, padding_value=-1)
        self._place_K = torch.tensor(labels.columns_in(sentiments))
        digests = (hashlib.sha256(f"{panel.seed}:{text}".encode()).digest()[:8] for text in texts)
        self._key_N = np.fromiter(map(int.from_bytes, digests), np.uint64, len(texts))

    def __call__(self, rows_B: Tensor, actions_B: Tensor, asks_B: Tensor) -> Tensor:
        """See `Answers`; float32."""
        votes_BR = self._votes_NR[rows_B]
        B, R = votes_BR.shape
        each_B = (counter_B.repeat_interleave(R) for counter_B in (self._place_K[actions_B], asks_B))
        rank_BR = uniform_B(self._key_N[rows_B].repeat(R), *each_B, torch.arange(R).repeat(B))[0].view(B, R)
        drawn_BM = rank_BR.where(votes_BR >= 0, torch.inf).topk(self.panel.size, largest=False).indices
        logp_BK = vote_logp_BK(votes_BR.gather(1, drawn_BM), self.num_labels)
        return convert_scores(logp_BK, self.score_type).gather(1, actions_B.unsqueeze(1))[:, 0].float()
