"""Python functions as judges: every kind gives its grades; what is no grade is a reason, and never a number."""

import asyncio
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from eightball_ppo.errors import InputError
from eightball_ppo.graders import judges
from eightball_ppo.graders.base import Grade, GradeRequest
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.judges import as_grader
from eightball_ppo.graders.rules import RuleGrader
from eightball_ppo.graders.verbalizers import EPSILON
from eightball_ppo.labels import LabelSet

LABELS = LabelSet.of(["Yes", "No", "Maybe"])
TEXTS = ["short", "a bit longer", "the longest of them"]
Rows = list[list[float]]


def length_scores(texts: list[str], labels: list[str]) -> Rows:
    """1000 times the number of characters that text and label have together."""
    return [[1000.0 * (len(text) + len(label)) for label in labels] for text in texts]


def grades_of(judge: Any, texts: list[str] = TEXTS, **options: Any) -> list[Grade]:
    grader = as_grader(judge, LABELS, **options)
    found: list[Grade] = []
    grader.grade(map(GradeRequest, texts), found.append, Budget())
    assert [grade.request.question for grade in found] == texts
    return found


def scores_of(judge: Any, texts: list[str] = TEXTS, **options: Any) -> Rows:
    return [list(grade.scores) for grade in grades_of(judge, texts, **options)]


def details_of(judge: Any, texts: list[str] = TEXTS, **options: Any) -> list[str]:
    grades = grades_of(judge, texts, **options)
    assert all(grade.status == "failed" and not grade.scores for grade in grades)
    return [grade.detail for grade in grades]


async def async_scores(texts: list[str], labels: list[str]) -> Rows:
    await asyncio.sleep(0)
    return length_scores(texts, labels)


class Scorer:
    def __call__(self, texts: list[str], labels: list[str]) -> Rows:
        return length_scores(texts, labels)

    async def later(self, texts: list[str], labels: list[str]) -> Rows:
        return length_scores(texts, labels)


@pytest.mark.parametrize(
    "judge",
    [
        length_scores,
        async_scores,
        Scorer(),
        Scorer().later,
        lambda texts, labels, temperature=1.0: np.array(length_scores(texts, labels)),
        lambda texts, labels: torch.tensor(length_scores(texts, labels), dtype=torch.float64, requires_grad=True),
        lambda texts, labels: [torch.tensor(row) for row in length_scores(texts, labels)],
    ],
)
def test_scores_of_a_function_are_kept_in_their_unit(judge: Callable[..., Any]) -> None:
    grader = as_grader(judge, LABELS)
    assert grader.scale == "raw" and scores_of(judge) == length_scores(TEXTS, list(LABELS.names))


def test_an_async_judge_works_inside_a_running_event_loop() -> None:
    async def cell_of_a_notebook() -> Rows:
        return scores_of(async_scores)

    assert asyncio.run(cell_of_a_notebook()) == length_scores(TEXTS, list(LABELS.names))


def test_a_function_is_called_with_64_texts_at_once() -> None:
    sizes: list[int] = []

    def judge(texts: list[str], labels: list[str]) -> Rows:
        sizes.append(len(texts))
        return length_scores(texts, labels)

    grades_of(judge, [f"text {number}" for number in range(150)])
    assert sizes == [64, 64, 22]


def test_a_judge_that_raises_on_its_third_batch_keeps_the_grades_of_the_others() -> None:
    calls: list[int] = []

    def judge(texts: list[str], labels: list[str]) -> Rows:
        calls.append(len(texts))
        if len(calls) == 3:
            raise RuntimeError("the quota\nis spent")
        return length_scores(texts, labels)

    grades = grades_of(judge, [f"text {number}" for number in range(200)])
    assert [grade.status for grade in grades] == ["ok"] * 128 + ["failed"] * 64 + ["ok"] * 8
    assert grades[130].detail == "RuntimeError: the quota is spent"


def test_nan_infinity_and_none_are_missing_grades() -> None:
    def judge(texts: list[str], labels: list[str]) -> list[list[float | None] | None]:
        return [[1.0, math.nan, 0.0], [1.0, math.inf, 0.0], None]

    details = details_of(judge)
    assert "nan" in details[0] and "inf" in details[1] and details[2] == "the judge returned None"
    assert "nan" in details_of(lambda texts, labels: [[None, 1.0, 2.0]] * len(texts))[0]


@pytest.mark.parametrize(
    ("result", "message"),
    [
        ([[1.0, 2.0, 3.0]] * 2, r"returned 2 rows for 3 texts; scores \[N, K\] = \[3, 3\] are needed"),
        ([[1.0, 2.0]] * 3, "returned a row of 2 scores"),
        ([1.0, 2.0, 3.0], "returned '1.0' of type float"),
        ([["high", "low", "low"]] * 3, "returned 'high' of type str as a score"),
        ("Yes", "returned 'Yes' of type str"),
        (None, "returned 'None' of type NoneType"),
        (np.zeros((3, 3, 1)), "as a score; numbers are needed"),
    ],
)
def test_a_wrong_shape_or_type_ends_in_one_line(result: Any, message: str) -> None:
    with pytest.raises(InputError, match=rf"^judge .*{message}") as error:
        grades_of(lambda texts, labels: result)
    assert "\n" not in str(error.value)


def test_what_a_judge_prints_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    def judge(text: str) -> str:
        print("thinking about", text)
        return "Yes"

    grades_of(judge)
    assert capsys.readouterr() == ("", "".join(f"thinking about {text}\n" for text in TEXTS))


def label_of(text: str) -> str | None:
    return {"short": "No", "a bit longer": " yes ", "nothing": None}.get(text, "Perhaps")


async def async_label_of(text: str) -> str | None:
    await asyncio.sleep(0)
    if text == "error":
        raise ValueError("unreadable")
    return label_of(text)


@pytest.mark.parametrize("judge", [label_of, async_label_of])
def test_a_labeller_gives_nearly_all_probability_to_its_label(judge: Callable[..., Any]) -> None:
    assert as_grader(judge, LABELS).scale == "log_prob"
    first, second = ([math.exp(score) for score in row] for row in scores_of(judge, TEXTS[:2]))
    assert first == pytest.approx([EPSILON / 2, 1 - EPSILON, EPSILON / 2])
    assert second == pytest.approx([1 - EPSILON, EPSILON / 2, EPSILON / 2])
    known = "['Yes', 'No', 'Maybe']"
    assert details_of(judge, ["nothing", "what?"]) == [
        *("the judge returned None", f"the judge returned 'Perhaps', which is none of {known}")
    ]


def test_an_error_of_a_labeller_costs_one_text_alone() -> None:
    grades = grades_of(async_label_of, ["short", "error", "a bit longer"])
    assert [grade.status for grade in grades] == ["ok", "failed", "ok"]
    assert grades[1].detail == "ValueError: unreadable"


@pytest.mark.parametrize(
    "judge",
    [
        lambda: 1,
        lambda a, b, c: 1,
        lambda texts, labels, *, key: 1,
        lambda *everything: 1,
        lambda **everything: 1,
    ],
)
def test_wrong_arguments_are_refused_before_any_call(judge: Callable[..., Any]) -> None:
    with pytest.raises(InputError, match=r"^judge .*(a judge is f\(texts, labels\)|f\(texts, labels\)$)"):
        as_grader(judge, LABELS)


@pytest.mark.parametrize("judge", [3, [], None, {"Yes": 1}])
def test_what_is_no_judge_is_refused(judge: Any) -> None:
    with pytest.raises(InputError, match=r"^judge: "):
        as_grader(judge, LABELS)


def test_a_grader_a_text_and_a_list_of_several_kinds_are_judges() -> None:
    rule = RuleGrader("No", LABELS)
    assert as_grader(rule, LABELS) is rule and isinstance(as_grader("rule:Yes", LABELS), RuleGrader)
    mixed = as_grader([rule, length_scores, label_of], LABELS, weights=[2.0, 1.0, 1.0])
    assert mixed.scale == "log_prob" and isinstance(mixed, judges.EnsembleGrader)
    (row,) = scores_of([rule, length_scores, label_of], ["short"], weights=[2.0, 1.0, 1.0])
    # "Maybe" has the highest raw score by 2,000, so a softmax puts all of its probability there
    expected = [
        0.5 * 0.01 + 0.25 * EPSILON / 2,
        0.5 * 0.98 + 0.25 * (1 - EPSILON),
        0.5 * 0.01 + 0.25 + 0.25 * EPSILON / 2,
    ]
    assert [math.exp(score) for score in row] == pytest.approx(expected)
    raw = as_grader([length_scores, Scorer()], LABELS, weights=[2.0, 0.5])
    assert raw.scale == "raw"
    (summed,) = scores_of([length_scores, Scorer()], ["short"], weights=[2.0, 0.5])
    assert summed == [2.5 * score for score in length_scores(["short"], list(LABELS.names))[0]]
    with pytest.raises(InputError, match="2 weights are given for 1 judges"):
        as_grader(rule, LABELS, weights=[1.0, 1.0])


def test_the_fingerprint_follows_source_version_and_state_and_not_the_order_of_labels() -> None:
    def judge_above(threshold: float) -> Callable[..., Any]:
        return lambda texts, labels: [[float(len(text) > threshold)] * len(labels) for text in texts]

    def fingerprint(judge: Any, labels: LabelSet = LABELS) -> str:
        return as_grader(judge, labels).fingerprint

    assert fingerprint(length_scores) == fingerprint(length_scores, LabelSet.of(["Maybe", "Yes", "No"]))
    assert fingerprint(judge_above(3)) == fingerprint(judge_above(3)) != fingerprint(judge_above(4))
    versioned = Scorer()
    plain = fingerprint(versioned)
    versioned.version = "2"  # type: ignore[attr-defined]
    assert fingerprint(versioned) != plain == fingerprint(Scorer())
    assert fingerprint(length_scores) != fingerprint(async_scores) and fingerprint(label_of).startswith("python:")
    assert as_grader(length_scores, LABELS).settings["labels"] == ["Maybe", "No", "Yes"]
