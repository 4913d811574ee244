"""What the demo answers, and what its page is made of, without a browser."""

import math
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from demo_runs import LABELS, NASTY, QUESTIONS, make_runs

from eightball_ppo import predict
from eightball_ppo.config.stages import PredictConfig
from eightball_ppo.config.tools import DemoConfig
from eightball_ppo.demo import views
from eightball_ppo.demo.charts import round_ticks
from eightball_ppo.demo.session import (
    MAX_QUESTION_LENGTH,
    DemoSession,
    InvalidQuestion,
    beta_grid,
    beta_index,
    optimum,
    policy_point,
)
from eightball_ppo.graders.bert import BertGrader


@pytest.fixture(scope="module")
def runs(once: Callable[..., Path], sft_run: Path) -> Path:
    return once("demo", lambda directory: make_runs(directory, sft_run))


@pytest.fixture(scope="module")
def ball(runs: Path) -> DemoSession:
    return DemoSession(DemoConfig(runs=[str(runs / "distill"), str(runs / "ppo")]))


# --- answers


@pytest.mark.parametrize("question", [QUESTIONS[0], QUESTIONS[2], NASTY[1], NASTY[3]])
def test_answers_are_those_of_predict(question: str, ball: DemoSession, runs: Path) -> None:
    answer = ball.ask(f"  {question} ")
    for policy, logp_K in zip(ball.all_policies, answer.logp_PK, strict=True):
        config = PredictConfig(question=question, model_name_or_path=str(policy.directory))
        text, label, probability = predict.answers(config)[0]
        assert text == answer.question
        assert logp_K.exp().tolist() == pytest.approx(list(probability.values()), abs=1e-6)
    assert ball.top_answer(answer) == (label, pytest.approx(probability[label], abs=1e-6))
    grader = BertGrader.from_directory(str(runs / "reward"))
    assert answer.grader_logp_K is not None
    torch.testing.assert_close(answer.grader_logp_K.float(), grader.logp_BK([question])[0])


@pytest.mark.parametrize("text", ["", "  \n\t", "\u200b", "\x00", None])
def test_text_without_a_question_is_refused(text: Any, ball: DemoSession) -> None:
    with pytest.raises(InvalidQuestion, match="needs a question"):
        ball.ask(text)


def test_long_question_is_cut_and_a_huge_one_is_refused(ball: DemoSession) -> None:
    assert ball.ask("rich " * (MAX_QUESTION_LENGTH // 5)).truncated == ("sft", "distill", "ppo")
    assert ball.ask("Will I be rich?").truncated == ()
    with pytest.raises(InvalidQuestion, match="100,000 characters"):
        ball.ask("x" * 100_000)
    assert ball.ask("a\ud800b").question == "a?b"


def test_concurrent_questions_get_their_own_answers(ball: DemoSession) -> None:
    questions = [f"Will {'very ' * (i % 7)}number {i} win?" for i in range(20)]
    alone = [ball.ask(question) for question in questions]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(ball.ask, questions))
    for one, other in zip(alone, together, strict=True):
        assert one.question == other.question
        torch.testing.assert_close(one.logp_PK, other.logp_PK)


def test_optimum_goes_from_the_reference_to_the_favourite_as_beta_falls(ball: DemoSession) -> None:
    answer = ball.ask(QUESTIONS[0])
    assert answer.score_K is not None
    points = [optimum(answer, beta) for beta in ball.betas]
    assert points[0].probability_K == pytest.approx(answer.logp_PK[0].exp().tolist()) and points[0].kl == 0
    assert max(points[-1].probability_K) == 1 and points[-1].probability_K[int(answer.score_K.argmax())] == 1
    assert points[-1].expected_score == pytest.approx(answer.score_K.max().item())
    assert points[-2].kl == pytest.approx(points[-1].kl) and points[1].kl == pytest.approx(0, abs=1e-3)
    for before, after in pairwise(points):
        assert after.kl >= before.kl - 1e-9 and after.expected_score >= before.expected_score - 1e-9
    policy, best = policy_point(answer, answer.logp_PK[-1]), optimum(answer, 0.5)
    assert best.expected_score - 0.5 * best.kl >= policy.expected_score - 0.5 * policy.kl


@pytest.mark.parametrize("beta", [0.0, 0.05, 0.1, 0.123, 7.0, 300.0, 1e-5])
def test_trained_beta_is_on_the_slider(beta: float) -> None:
    found = beta_grid(beta)
    assert found[beta_index(found, beta)] == beta and math.isinf(found[0]) and found[-1] == 0
    assert found == sorted(set(found), reverse=True)


# --- the page


def test_nothing_that_is_typed_or_read_becomes_markup(ball: DemoSession) -> None:
    for text in ("<script>alert(1)</script>", '"><img src=x onerror=alert(1)>'):
        answer = ball.ask(text)
        pages = [views.answer_view(ball, answer), views.error_view(text), views.ball_view(text)]
        assert not [page for page in pages if "<script" in page or "<img" in page]
        assert "&lt;" in pages[0]
    table, examples = views.changes_view(ball)
    flips = pd.read_parquet(ball.last.directory / "before_after.parquet")
    assert "<b>" not in table and examples and set(examples) <= set(flips["question"])


@pytest.mark.parametrize("label", ["Yes", "Outlook not so good", "x" * 300, "W" * 24, "a b c d e f g h i j k l m"])
def test_any_label_fits_into_the_window(label: str) -> None:
    lines, size = views.window_lines(label)
    assert 1 <= len(lines) <= 3 and all(len(line) <= 11 for line in lines) and 8 <= size <= 34


def test_bars_show_the_probability_of_every_label(ball: DemoSession) -> None:
    page = views.answers_view(ball, ball.ask("Will I win?"))
    meters = re.findall(r'role="meter" aria-label="([^"]+)".*?aria-valuenow="([\d.]+)"', page)
    assert len(meters) == 4 * 3 and meters[0][0] == "Reference: Yes" and meters[-1][0] == "Reward model: Maybe"
    assert sum(float(value) for _, value in meters) == pytest.approx(400, abs=1)
    assert "meter" not in views.answers_view(ball, None)


def test_changed_answers_curves_and_numbers_are_those_of_the_runs(ball: DemoSession) -> None:
    frame = pd.read_parquet(ball.last.directory / "before_after.parquet")
    columns = [[f"{when}_probability_{name}" for name in LABELS.names] for when in ("before", "after")]
    before, after = (frame[names].to_numpy().argmax(1) for names in columns)
    page, _ = views.changes_view(ball)
    assert page.count('class="q"') == (before != after).sum() > 0
    assert page.count('"correct"') + page.count('"wrong"') == (before != after).sum()
    curves = views.curves_view(ball)
    assert (
        curves.count("<polyline") == 6 and "PPO: 480 episodes" in curves and "Distillation: 4 optimizer steps" in curves
    )
    assert "ppo from 0.10 to 0.40" in curves
    numbers = views.numbers_view(ball)
    assert f"{ball.last.results['splits']['heldout']['kl']:.3f}" in numbers and numbers.count("<tr>") == 4


@pytest.mark.parametrize(("low", "high"), [(0.0, 1.0), (-3.9, -0.1), (2.0, 2.0), (-1e-9, 0), (0.2, 12345.0)])
def test_axis_marks_enclose_the_values(low: float, high: float) -> None:
    marks = round_ticks(low, high)
    assert marks[0] <= low + 1e-9 and marks[-1] >= high - 1e-9 and 2 <= len(marks) <= 8
