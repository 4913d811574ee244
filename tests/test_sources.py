"""Sources of grades: each question is graded once, within the budget; ensembles, noise and label maps by hand."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from conftest import cells
from eightball_ppo.functional import objective
from eightball_ppo.graders.base import Grade, GradeRequest, OnGrade, Scale, batched
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.storage.derived import EnsembleSource, LabelNoiseSource
from eightball_ppo.graders.storage.score_table import OK, SKIPPED, STATUSES, ScoreTable, skipped_cells_NK
from eightball_ppo.graders.storage.sources import StoredGrader
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

LABELS = LabelSet.of(EIGHTBALL_LABELS)
QUESTIONS = [f"Is it {number}?" for number in range(12)]
FAILED, REFUSED = STATUSES.index("failed"), STATUSES.index("refused")
Script = Callable[[GradeRequest], Sequence[float] | str]


def logp(*p_K: float) -> list[float]:
    return [math.log(p) for p in p_K]


class Scripted:
    """A grader that answers by its script: scores, or a status that is not ok. Records every request.

    `at_once`: how many requests it takes before it answers any.
    """

    deliberate = False

    def __init__(self, script: Script, scale: Scale = "log_prob", labels: LabelSet = LABELS, name: str = "scripted"):
        self.labels, self.scale, self.fingerprint = labels, scale, name
        self.settings: dict[str, Any] = {"grader": name}
        self.script, self.at_once = script, 1
        self.requests: list[GradeRequest] = []

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        for request in itertools.chain.from_iterable(batched(budget.allowed(requests), self.at_once)):
            self.requests.append(request)
            answer = self.script(request)
            if isinstance(answer, str):
                on_grade(Grade(request, answer, (), f"it {answer}"))  # type: ignore[arg-type]
            else:
                on_grade(Grade.from_scores(request, answer, tokens=self.tokens(request)))

    def tokens(self, request: GradeRequest) -> int:
        return len(request.question)


def stored(grader: Scripted, budget: Budget | None = None, max_failures: float = 1.0) -> StoredGrader:
    """The grader behind a store in memory."""
    return StoredGrader(grader, GradeStore(":memory:"), budget or Budget(), max_failures, progress=False)


def filled(script: Script, questions: Sequence[str] = QUESTIONS, **options: Any) -> StoredGrader:
    """A source whose grades are all there."""
    source = stored(Scripted(script, **options))
    source.fill(questions)
    return source


def random_logp(request: GradeRequest) -> list[float]:
    """Other log-probabilities for every question."""
    generator = torch.Generator().manual_seed(sum(map(ord, request.question)))
    return (2 * torch.randn(len(LABELS), generator=generator, dtype=torch.float64)).log_softmax(-1).tolist()


@pytest.mark.parametrize("at_once", [1, 5, 100])
def test_every_question_is_graded_once(at_once: int) -> None:
    grader = Scripted(random_logp)
    grader.at_once = at_once
    source = stored(grader)
    source.fill([*QUESTIONS, *QUESTIONS[::-1]])
    assert [request.question for request in grader.requests] == QUESTIONS
    source.fill(QUESTIONS)
    source.fill([*QUESTIONS[:3], "Another one?"])
    assert [request.question for request in grader.requests] == [*QUESTIONS, "Another one?"]
    grades = source.read_chunk([QUESTIONS[4], QUESTIONS[2], QUESTIONS[4]])
    expected = [random_logp(GradeRequest(QUESTIONS[row])) for row in (4, 2, 4)]
    assert cells(grades, "score").tolist() == expected and grades.complete_N.all() and source.scale == "log_prob"
    assert grades.calls == 3 and (abs(cells(grades, "graded_at") - time.time()) < 60).all()


def test_ratings_are_requested_label_by_label_and_read_by_column() -> None:
    grader = Scripted(lambda request: [2.0 + LABELS.id_of(request.label or "")], "rating")
    source = stored(grader, Budget(max_calls=5))
    source.fill(QUESTIONS[:3])
    assert grader.requests == [GradeRequest(q, name) for q in QUESTIONS[:3] for name in LABELS.names][:5]
    grades = source.read_chunk(QUESTIONS[:3])
    assert source.scale == "rating" and grades.complete_N.tolist() == [True, False, False]
    assert cells(grades, "status").tolist() == [[OK] * 3, [OK, OK, SKIPPED], [SKIPPED] * 3]
    nan = math.nan
    np.testing.assert_array_equal(cells(grades, "score"), [[2, 3, 4], [2, 3, nan], [nan, nan, nan]])
    np.testing.assert_array_equal(grades.logp_NK.isnan(), [[False] * 3, [True] * 3, [True] * 3])


def test_failed_grades_are_reported_and_requested_again() -> None:
    answers: dict[str, Sequence[float] | str] = {QUESTIONS[0]: "failed", QUESTIONS[1]: "refused"}
    grader = Scripted(lambda request: answers.get(request.question, logp(0.5, 0.25, 0.25)))
    source = stored(grader)
    source.fill(QUESTIONS[:4])
    grades = source.read_chunk(QUESTIONS[:4])
    assert (
        cells(grades, "status")[:, 0].tolist() == [FAILED, REFUSED, OK, OK]
        and grades.complete_N.tolist() == [False] * 2 + [True] * 2
    )
    assert grades.details == ("'Is it 0?': it failed", "'Is it 1?': it refused")
    assert grades.logp_NK[:2].isnan().all() and np.isnan(cells(grades, "score")[:2]).all()
    del answers[QUESTIONS[0]]
    source.fill(QUESTIONS[:4])
    assert [request.question for request in grader.requests[4:]] == QUESTIONS[:2]
    assert cells(source.read_chunk(QUESTIONS[:4]), "status")[:, 0].tolist() == [OK, REFUSED, OK, OK]
    assert source.read(QUESTIONS[:4]).calls == 4 + 2


@pytest.mark.parametrize(("scale", "calls"), [("log_prob", 12), ("rating", 36)])
@pytest.mark.parametrize("allowed", [0, 1, 7, 12, 36, 99])
def test_grades_beyond_the_budget_are_skipped_and_all_cells_are_counted(scale: Scale, calls: int, allowed: int) -> None:
    scores: Script = random_logp if scale == "log_prob" else lambda _: [5.0]
    grader = Scripted(lambda request: "failed" if "3" in request.question else scores(request), scale)
    budget = Budget(max_calls=allowed)
    source = stored(grader, budget)
    source.fill(QUESTIONS)
    count = source.read(QUESTIONS).count
    made = min(allowed, calls)
    assert len(grader.requests) == budget.calls == made and count.total() == len(QUESTIONS) * len(LABELS)
    assert count["skipped"] == (calls - made) * (36 // calls) and count["refused"] == 0
    assert budget.stopped == (f"--max_grader_calls {allowed} is spent" if allowed < calls else None)
    assert set(count) == set(STATUSES)


@pytest.mark.parametrize("scale", ["log_prob", "rating"])
def test_the_estimate_is_the_cost_of_filling(scale: Scale) -> None:
    grader = Scripted(random_logp if scale == "log_prob" else lambda _: [5.0], scale)
    source = stored(grader)
    source.fill(QUESTIONS[:5])
    before = len(grader.requests)
    everything = [*QUESTIONS, *QUESTIONS[:7]]
    calls, tokens = source.estimate_cost(everything)
    assert len(grader.requests) == before
    source.fill(everything)
    new = grader.requests[before:]
    assert calls == len(new) == 7 * (1 if scale == "log_prob" else 3)
    assert tokens == sum(len(request.question) for request in new)
    assert source.estimate_cost(everything) == (0, 0)


@pytest.mark.parametrize(
    ("max_failures", "bad", "asked"),
    [
        (0.1, lambda n: True, 20),  # 20 in a row
        (0.1, lambda n: n % 2 == 0, 39),  # the 20th of all is above a tenth of 100
        (0.3, lambda n: n % 2 == 0, 61),  # the 31st is above 30
        (0.9, lambda n: n >= 50, 70),  # 20 in a row, whatever came before
        (0.5, lambda n: n % 2 == 0, 100),  # as many as are allowed
        (1.0, lambda n: True, 100),  # all are allowed
    ],
)
def test_grading_stops_when_too_many_grades_fail(max_failures: float, bad: Callable[[int], bool], asked: int) -> None:
    numbers = {f"{number}": number for number in range(100)}
    grader = Scripted(lambda request: "failed" if bad(numbers[request.question]) else logp(0.5, 0.25, 0.25))
    budget = Budget()
    source = stored(grader, budget, max_failures)
    source.fill(list(numbers))
    assert len(grader.requests) == asked and (budget.stopped is None) == (asked == 100)
    if budget.stopped:
        assert budget.stopped.endswith("of 100 grades failed, the last with: it failed")


def table_of(score_NK: Tensor, scale: Scale) -> ScoreTable:
    """Good grades with these scores."""
    cells_NK = skipped_cells_NK(*score_NK.shape)
    cells_NK["score"], cells_NK["status"] = score_NK, OK
    return ScoreTable.from_cells(cells_NK, scale, 0, (), len(score_NK), np.empty(0))


@given(st.integers(0, 2**31), st.integers(2, 6), st.floats(0.1, 5))
@settings(deadline=None)
def test_ratings_have_the_same_optimum_as_their_log_probabilities(seed: int, labels: int, beta: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    rating_NK = 1 + 9 * torch.rand(3, labels, generator=generator, dtype=torch.float64)
    ref_logp_NK = torch.randn(3, labels, generator=generator, dtype=torch.float64).log_softmax(-1)
    logp_NK = table_of(rating_NK, "rating").logp_NK
    torch.testing.assert_close(logp_NK.exp().sum(1), torch.ones(3))
    torch.testing.assert_close(logp_NK[:, 0] - logp_NK[:, 1], (rating_NK[:, 0] - rating_NK[:, 1]).float())
    torch.testing.assert_close(
        objective.optimum_logp_NK(ref_logp_NK, logp_NK.double(), beta),
        objective.optimum_logp_NK(ref_logp_NK, rating_NK, beta),
        atol=1e-4,
        rtol=1e-5,
    )


def test_weighted_averages_by_hand() -> None:
    """3/4 of (0.5, 0.25, 0.25) and 1/4 of (0.1, 0.8, 0.1)."""
    members = [filled(lambda _: logp(0.5, 0.25, 0.25)), filled(lambda _: logp(0.1, 0.8, 0.1), name="other")]
    p_NK = EnsembleSource(members, [3.0, 1.0]).read(QUESTIONS).logp_NK.exp()
    torch.testing.assert_close(p_NK, torch.tensor([[0.4, 0.3875, 0.2125]]).expand(12, 3))
    equal_NK = EnsembleSource(members, [7.0, 7.0]).read(QUESTIONS).logp_NK.exp()
    torch.testing.assert_close(equal_NK, torch.tensor([[0.3, 0.525, 0.175]]).expand(12, 3))
    assert {EnsembleSource(members, weights).fingerprint for weights in ([3.0, 1.0], [6.0, 2.0], [1.0, 1.0])} == {
        *("mean(0.75*scripted,0.25*other)", "mean(0.5*scripted,0.5*other)")
    }


def test_an_ensemble_is_deliberate_only_if_all_members_are() -> None:
    honest, rule = filled(random_logp), filled(random_logp, name="rule")
    rule.deliberate = True
    mixed = EnsembleSource([honest, LabelNoiseSource(rule, 0.5, 0)], [1.0, 1.0])
    assert not mixed.deliberate and EnsembleSource([rule, LabelNoiseSource(rule, 0.5, 0)], [1.0, 1.0]).deliberate
    of = [{"grader": "scripted"}, {"grader": "noisy:0.5:seed0", "of": [{"grader": "rule"}]}]
    assert mixed.settings == {"grader": "mean", "of": of}


def test_an_average_is_complete_only_where_all_members_are() -> None:
    def except_for(number: int, status: str) -> Script:
        return lambda request: status if request.question == QUESTIONS[number] else logp(0.5, 0.25, 0.25)

    first = stored(Scripted(except_for(0, "failed")))
    second = stored(Scripted(except_for(1, "refused")), Budget(max_calls=3))
    third = stored(
        Scripted(lambda request: "failed" if request == GradeRequest(QUESTIONS[2], "No") else [5.0], "rating")
    )
    both = EnsembleSource([first, second, third], [1.0, 1.0, 1.0])
    assert both.estimate_cost(QUESTIONS[:5]) == (5 + 5 + 15, 25 * len(QUESTIONS[0]))
    both.fill(QUESTIONS[:5])
    assert [len(member.grader.requests) for member in (first, second, third)] == [5, 3, 15]  # type: ignore[attr-defined]
    grades = both.read_chunk(QUESTIONS[:5])
    assert grades.complete_N.tolist() == [False] * 5
    assert cells(grades, "status").tolist() == [[code] * 3 for code in (FAILED, REFUSED, FAILED, SKIPPED, SKIPPED)]
    assert grades.logp_NK.isnan().all() and grades.calls == 5 + 3 + 15 and len(grades.details) == 3
    pair = EnsembleSource([first, third], [1.0, 1.0]).read(QUESTIONS[:5])
    assert pair.complete_N.tolist() == [False, True, False, True, True]
    assert pair.logp_NK.isfinite().all(1).tolist() == pair.complete_N.tolist()
