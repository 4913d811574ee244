"""Graders, the scores made of them, and the memo."""

import re
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from conftest import read_rows
from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import GradeBook, convert_scores
from eightball_ppo.graders.bert import BertGrader
from eightball_ppo.graders.registry import load_grader, parse_grader
from eightball_ppo.graders.rules import RuleGrader
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

LABELS = LabelSet.of(EIGHTBALL_LABELS)
QUESTIONS = [row["question"] for row in read_rows("heldout")[:70]]


class _Counting:
    """Gives log p from the question's length, and counts."""

    labels = LABELS
    fingerprint = "counting"
    deliberate = True

    def __init__(self) -> None:
        self.asked: list[str] = []

    def score(self, questions: Sequence[str]) -> Tensor:
        self.asked += questions
        return torch.tensor([[len(q), 0.0, 1.0] for q in questions]).log_softmax(-1)


@given(st.integers(2, 6), st.integers(0, 10_000))
def test_score_kinds_are_functions_of_the_probability(labels: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logp_NK = (3 * torch.randn(5, labels, generator=generator, dtype=torch.float64)).log_softmax(-1)
    p_NK = logp_NK.exp()
    assert torch.equal(convert_scores(logp_NK, "log_prob"), logp_NK)
    torch.testing.assert_close(convert_scores(logp_NK, "probability"), p_NK)
    torch.testing.assert_close(
        convert_scores(logp_NK, "logit_margin"), logp_NK - (1 - p_NK).log(), atol=1e-6, rtol=1e-6
    )


def test_logit_margin_is_finite_where_the_probability_rounds_to_one() -> None:
    logp_1K = torch.tensor([[40.0, 0.0, 0.0]]).log_softmax(-1)
    margin_1K = convert_scores(logp_1K, "logit_margin")
    assert torch.isfinite(margin_1K).all() and margin_1K[0, 0].item() == pytest.approx(40 - 0.6931, abs=1e-3)


def test_memo_never_asks_the_same_question_twice() -> None:
    grader = _Counting()
    book = GradeBook(grader)
    first = book.logp_NK(["a", "bb", "a"])
    assert grader.asked == ["a", "bb"] and torch.equal(first[0], first[2])
    again = book.logp_NK(["bb", "ccc", "a"])
    assert grader.asked == ["a", "bb", "ccc"] and book.calls == 3 and torch.equal(again[2], first[0])
    assert book.knows(["a", "ccc"]) and not book.knows(["a", "d"])


def test_a_grade_that_is_not_finite_is_refused() -> None:
    grader = _Counting()
    grader.score = lambda questions: torch.tensor([[0.0, float("nan"), 0.0]])  # type: ignore[method-assign]
    with pytest.raises(InputError, match="'why' is not finite"):
        GradeBook(grader).logp_NK(["why"])


def test_rule_prefers_its_label_and_sums_to_one() -> None:
    logp_BK = RuleGrader("No", LABELS).score(["a", "b"])
    assert logp_BK.shape == (2, 3) and logp_BK.exp()[0].tolist() == pytest.approx([0.01, 0.98, 0.01])


def test_random_head_is_noise_drawn_from_its_seed() -> None:
    first, again, other = (BertGrader.random_head(LABELS, seed) for seed in (0, 0, 1))
    logp_NK = first.score(QUESTIONS)
    assert torch.equal(logp_NK, again.score(QUESTIONS)) and first.fingerprint == again.fingerprint
    assert not torch.allclose(logp_NK, other.score(QUESTIONS)) and first.fingerprint != other.fingerprint
    torch.testing.assert_close(logp_NK.exp().sum(1), torch.ones(len(QUESTIONS)))


def test_reward_model_grades_do_not_depend_on_the_batch(reward_run: Path) -> None:
    grader = BertGrader.from_directory(str(reward_run))
    together_NK = grader.score(QUESTIONS)
    alone_NK = torch.cat([grader.score([question]) for question in QUESTIONS[:10]])
    torch.testing.assert_close(together_NK[:10], alone_NK, atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("bret", "unknown grader; did you mean bert?"),
        ("xyz", "unknown grader; known: bert, random-head, rule"),
        ("rule", "which label?"),
        ("rule:Perhaps", "unknown label; known: ['Yes', 'No', 'Maybe']"),
        ("random-head:x", "the seed must be a whole number"),
        ("bert:runs/reward", "--reward_model_path"),
    ],
)
def test_bad_specs_are_one_clear_line(spec: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        load_grader(spec, LABELS, "runs/reward")
    assert parse_grader("random-head:7") == ("random-head", "7")


def test_reward_model_with_other_labels_is_refused(reward_run: Path) -> None:
    with pytest.raises(InputError, match=r"labels differ: --labels has \['Yes', 'No'\]"):
        load_grader("bert", LabelSet.of(["Yes", "No"]), str(reward_run))
