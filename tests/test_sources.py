"""Sources of grades: asked once and within the budget; what is made of grades against numbers by hand."""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
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
from eightball_ppo.graders.storage.score_table import OK, SKIPPED, STATUSES, ScoreTable, skipped_cells_NK
from eightball_ppo.graders.storage.sources import EnsembleSource, LabelMapSource, LabelNoiseSource, StoredGrader
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

LABELS = LabelSet.of(EIGHTBALL_LABELS)
QUESTIONS = [f"Is it {number}?" for number in range(12)]
FAILED, REFUSED = STATUSES.index("failed"), STATUSES.index("refused")
Script = Callable[[GradeRequest], Sequence[float] | str]


def logp(*p_K: float) -> list[float]:
    return [math.log(p) for p in p_K]


class Scripted:
    """A grader that says what its script says: scores, or a status that is not ok. Remembers every request.

    `at_once`: how many requests it takes before it answers any.
    """

    deliberate = False

    def __init__(self, script: Script, scale: Scale = "log_prob", labels: LabelSet = LABELS, name: str = "scripted"):
        self.labels, self.scale, self.fingerprint = labels, scale, name
        self.settings: dict[str, Any] = {"grader": name}
        self.script = script
        self.asked: list[GradeRequest] = []
        self.at_once = 1

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        for request in itertools.chain.from_iterable(batched(budget.allowed(requests), self.at_once)):
            self.asked.append(request)
            said = self.script(request)
            if isinstance(said, str):
                on_grade(Grade(request, said, (), f"it {said}"))  # type: ignore[arg-type]
            else:
                on_grade(Grade.from_scores(request, said, tokens=self.tokens(request)))

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


# --- a grader behind the store


@pytest.mark.parametrize("at_once", [1, 5, 100])
def test_every_question_is_asked_once(at_once: int) -> None:
    grader = Scripted(random_logp)
    grader.at_once = at_once
    source = stored(grader)
    source.fill([*QUESTIONS, *QUESTIONS[::-1]])
    assert [request.question for request in grader.asked] == QUESTIONS
    source.fill(QUESTIONS)
    source.fill([*QUESTIONS[:3], "Another one?"])
    assert [request.question for request in grader.asked] == [*QUESTIONS, "Another one?"]
    grades = source.read_chunk([QUESTIONS[4], QUESTIONS[2], QUESTIONS[4]])
    expected = [random_logp(GradeRequest(QUESTIONS[row])) for row in (4, 2, 4)]
    assert cells(grades, "score").tolist() == expected and grades.complete_N.all() and source.scale == "log_prob"
    assert grades.calls == 3 and (abs(cells(grades, "graded_at") - time.time()) < 60).all()


def test_ratings_are_asked_label_by_label_and_stand_in_their_columns() -> None:
    grader = Scripted(lambda request: [2.0 + LABELS.id_of(request.label or "")], "rating")
    source = stored(grader, Budget(max_calls=5))
    source.fill(QUESTIONS[:3])
    assert grader.asked == [GradeRequest(q, name) for q in QUESTIONS[:3] for name in LABELS.names][:5]
    grades = source.read_chunk(QUESTIONS[:3])
    assert source.scale == "rating" and grades.complete_N.tolist() == [True, False, False]
    assert cells(grades, "status").tolist() == [[OK] * 3, [OK, OK, SKIPPED], [SKIPPED] * 3]
    nan = math.nan
    np.testing.assert_array_equal(cells(grades, "score"), [[2, 3, 4], [2, 3, nan], [nan, nan, nan]])
    np.testing.assert_array_equal(grades.logp_NK.isnan(), [[False] * 3, [True] * 3, [True] * 3])


def test_what_failed_is_told_and_asked_again() -> None:
    said: dict[str, Sequence[float] | str] = {QUESTIONS[0]: "failed", QUESTIONS[1]: "refused"}
    grader = Scripted(lambda request: said.get(request.question, logp(0.5, 0.25, 0.25)))
    source = stored(grader)
    source.fill(QUESTIONS[:4])
    grades = source.read_chunk(QUESTIONS[:4])
    assert (
        cells(grades, "status")[:, 0].tolist() == [FAILED, REFUSED, OK, OK]
        and grades.complete_N.tolist() == [False] * 2 + [True] * 2
    )
    assert grades.details == ("'Is it 0?': it failed", "'Is it 1?': it refused")
    assert grades.logp_NK[:2].isnan().all() and np.isnan(cells(grades, "score")[:2]).all()
    del said[QUESTIONS[0]]
    source.fill(QUESTIONS[:4])
    assert [request.question for request in grader.asked[4:]] == QUESTIONS[:2]
    assert cells(source.read_chunk(QUESTIONS[:4]), "status")[:, 0].tolist() == [OK, REFUSED, OK, OK]
    assert source.read(QUESTIONS[:4]).calls == 4 + 2


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_scores_that_are_not_finite_are_failures(bad: float) -> None:
    grades = filled(lambda _: [-0.5, bad, -0.5], QUESTIONS[:2]).read_chunk(QUESTIONS[:2])
    assert grades.count == {"ok": 0, "failed": 6, "refused": 0, "skipped": 0}
    assert "are not finite" in grades.details[0] and np.isnan(cells(grades, "score")).all()


@pytest.mark.parametrize(("scale", "calls"), [("log_prob", 12), ("rating", 36)])
@pytest.mark.parametrize("allowed", [0, 1, 7, 12, 36, 99])
def test_the_budget_leaves_the_rest_skipped_and_every_pair_is_counted(scale: Scale, calls: int, allowed: int) -> None:
    said: Script = random_logp if scale == "log_prob" else lambda _: [5.0]
    grader = Scripted(lambda request: "failed" if "3" in request.question else said(request), scale)
    budget = Budget(max_calls=allowed)
    source = stored(grader, budget)
    source.fill(QUESTIONS)
    count = source.read(QUESTIONS).count
    made = min(allowed, calls)
    assert len(grader.asked) == budget.calls == made and count.total() == len(QUESTIONS) * len(LABELS)
    assert count["skipped"] == (calls - made) * (36 // calls) and count["refused"] == 0
    assert budget.stopped == (f"--max_grader_calls {allowed} is spent" if allowed < calls else None)
    assert set(count) == set(STATUSES)


@pytest.mark.parametrize("scale", ["log_prob", "rating"])
def test_the_outlook_is_what_filling_takes(scale: Scale) -> None:
    grader = Scripted(random_logp if scale == "log_prob" else lambda _: [5.0], scale)
    source = stored(grader)
    source.fill(QUESTIONS[:5])
    before = len(grader.asked)
    everything = [*QUESTIONS, *QUESTIONS[:7]]
    calls, tokens = source.estimate_cost(everything)
    assert len(grader.asked) == before
    source.fill(everything)
    new = grader.asked[before:]
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
def test_hopeless_grading_is_stopped(max_failures: float, bad: Callable[[int], bool], asked: int) -> None:
    numbers = {f"{number}": number for number in range(100)}
    grader = Scripted(lambda request: "failed" if bad(numbers[request.question]) else logp(0.5, 0.25, 0.25))
    budget = Budget()
    source = stored(grader, budget, max_failures)
    source.fill(list(numbers))
    assert len(grader.asked) == asked and (budget.stopped is None) == (asked == 100)
    if budget.stopped:
        assert budget.stopped.endswith("of 100 grades failed, the last with: it failed")


def test_looking_makes_no_file(tmp_path: Path) -> None:
    store = GradeStore(tmp_path / "grades.sqlite3")
    source = StoredGrader(Scripted(random_logp), store, Budget(), 1.0, progress=False)
    assert source.estimate_cost(QUESTIONS)[0] == 12 and source.read(QUESTIONS).count["skipped"] == 36
    assert not store.path.exists()
    source.fill(QUESTIONS)
    assert store.path.exists() and source.estimate_cost(QUESTIONS)[0] == 0


def test_another_grader_on_the_same_store_is_another_grader() -> None:
    store = GradeStore(":memory:")
    first, second, again = (Scripted(random_logp, name=name) for name in ("one", "two", "one"))
    for grader in (first, second, again):
        StoredGrader(grader, store, Budget(), 1.0, progress=False).fill(QUESTIONS)
    assert [len(grader.asked) for grader in (first, second, again)] == [12, 12, 0]
    assert store.settings_of("two") == {"grader": "two"}


# --- ratings as scores


def table_of(score_NK: Tensor, scale: Scale) -> ScoreTable:
    """Good grades with these scores."""
    cells_NK = skipped_cells_NK(*score_NK.shape)
    cells_NK["score"], cells_NK["status"] = score_NK, OK
    return ScoreTable.from_cells(cells_NK, scale, 0, (), len(score_NK), np.empty(0))


@given(st.integers(0, 2**31), st.integers(2, 6), st.floats(0.1, 5))
@settings(deadline=None)
def test_the_best_policy_of_ratings_is_that_of_their_log_probabilities(seed: int, labels: int, beta: float) -> None:
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


def test_log_probabilities_are_left_as_they_are() -> None:
    score_NK = torch.tensor([logp(0.5, 0.25, 0.25), logp(0.2, 0.2, 0.2)], dtype=torch.float64)  # 0.6 in all is no error
    assert torch.equal(table_of(score_NK, "log_prob").logp_NK, score_NK.float())


# --- several graders


def test_averages_by_hand() -> None:
    """3/4 of (0.5, 0.25, 0.25) and 1/4 of (0.1, 0.8, 0.1)."""
    members = [filled(lambda _: logp(0.5, 0.25, 0.25)), filled(lambda _: logp(0.1, 0.8, 0.1), name="other")]
    p_NK = EnsembleSource(members, [3.0, 1.0]).read(QUESTIONS).logp_NK.exp()
    torch.testing.assert_close(p_NK, torch.tensor([[0.4, 0.3875, 0.2125]]).expand(12, 3))
    equal_NK = EnsembleSource(members, [7.0, 7.0]).read(QUESTIONS).logp_NK.exp()
    torch.testing.assert_close(equal_NK, torch.tensor([[0.3, 0.525, 0.175]]).expand(12, 3))
    names = {
        EnsembleSource(members, weights).fingerprint for weights in ([3.0, 1.0], [1.0, 3.0], [1.0, 1.0], [6.0, 2.0])
    }
    assert names == {
        "mean(0.75*scripted,0.25*other)",
        "mean(0.25*scripted,0.75*other)",
        "mean(0.5*scripted,0.5*other)",
    }


def test_what_is_made_of_deliberate_graders_alone_is_deliberate() -> None:
    honest, rule = filled(random_logp), filled(random_logp, name="rule")
    rule.deliberate = True
    mixed = EnsembleSource([honest, LabelNoiseSource(rule, 0.5, 0)], [1.0, 1.0])
    assert not mixed.deliberate and EnsembleSource([rule, LabelNoiseSource(rule, 0.5, 0)], [1.0, 1.0]).deliberate
    of = [{"grader": "scripted"}, {"grader": "noisy:0.5:seed0", "of": [{"grader": "rule"}]}]
    assert mixed.settings == {"grader": "mean", "of": of}


def test_averages_of_ratings_and_log_probabilities() -> None:
    """Ratings 8, 7 and 7 are worth e : 1 : 1."""
    rates = filled(lambda request: [8.0 if request.label == "Yes" else 7.0], scale="rating")
    p_K = EnsembleSource([rates, filled(lambda _: logp(0.5, 0.25, 0.25))], [1.0, 1.0]).read(QUESTIONS).logp_NK[0].exp()
    e = math.e
    assert p_K.tolist() == pytest.approx([(e / (e + 2) + 0.5) / 2, *[(1 / (e + 2) + 0.25) / 2] * 2])


def test_an_average_is_whole_only_where_all_are() -> None:
    def but(number: int, status: str) -> Script:
        return lambda request: status if request.question == QUESTIONS[number] else logp(0.5, 0.25, 0.25)

    first = stored(Scripted(but(0, "failed")))
    second = stored(Scripted(but(1, "refused")), Budget(max_calls=3))
    third = stored(
        Scripted(lambda request: "failed" if request == GradeRequest(QUESTIONS[2], "No") else [5.0], "rating")
    )
    both = EnsembleSource([first, second, third], [1.0, 1.0, 1.0])
    assert both.estimate_cost(QUESTIONS[:5]) == (5 + 5 + 15, 25 * len(QUESTIONS[0]))
    both.fill(QUESTIONS[:5])
    assert [len(member.grader.asked) for member in (first, second, third)] == [5, 3, 15]  # type: ignore[attr-defined]
    grades = both.read_chunk(QUESTIONS[:5])
    assert grades.complete_N.tolist() == [False] * 5
    assert cells(grades, "status").tolist() == [[code] * 3 for code in (FAILED, REFUSED, FAILED, SKIPPED, SKIPPED)]
    assert grades.logp_NK.isnan().all() and grades.calls == 5 + 3 + 15 and len(grades.details) == 3
    pair = EnsembleSource([first, third], [1.0, 1.0]).read(QUESTIONS[:5])
    assert pair.complete_N.tolist() == [False, True, False, True, True]
    assert pair.logp_NK.isfinite().all(1).tolist() == pair.complete_N.tolist()


# --- noise

MANY = [f"Question {number}?" for number in range(2000)]


@pytest.fixture(scope="module")
def many() -> StoredGrader:
    return filled(random_logp, MANY)


def favourites(source: LabelNoiseSource | StoredGrader, questions: Sequence[str] = MANY) -> Tensor:
    return source.read(questions).logp_NK.argmax(1)


def test_noise_of_rate_zero_is_the_grader_and_of_rate_one_never_agrees(many: StoredGrader) -> None:
    assert torch.equal(LabelNoiseSource(many, 0.0, 3).read(MANY).logp_NK, many.read(MANY).logp_NK)
    assert not (favourites(LabelNoiseSource(many, 1.0, 3)) == favourites(many)).any()


def test_noise_comes_at_its_rate_and_moves_evenly(many: StoredGrader) -> None:
    moved_N = (favourites(LabelNoiseSource(many, 0.3, 0)) - favourites(many)) % 3
    sigma = math.sqrt(0.3 * 0.7 / len(MANY))
    assert abs((moved_N != 0).double().mean().item() - 0.3) < 4 * sigma
    once, twice = int((moved_N == 1).sum()), int((moved_N == 2).sum())
    assert abs(once - twice) < 4 * math.sqrt(once + twice)


def test_noise_is_of_the_seed_and_the_question_alone(many: StoredGrader) -> None:
    noisy = LabelNoiseSource(many, 0.3, 5)
    logp_NK = noisy.read(MANY).logp_NK
    assert torch.equal(noisy.read(MANY[::-1]).logp_NK, logp_NK.flip(0))
    assert torch.equal(noisy.read(MANY[100:110] * 2).logp_NK, logp_NK[100:110].repeat(2, 1))
    assert torch.equal(LabelNoiseSource(many, 0.3, 5).read(MANY).logp_NK, logp_NK)
    assert not torch.equal(LabelNoiseSource(many, 0.3, 6).read(MANY).logp_NK, logp_NK)
    assert torch.equal(logp_NK.sort(1).values, many.read(MANY).logp_NK.sort(1).values)  # the same scores, moved on
    assert LabelNoiseSource(many, 0.3, 5).fingerprint == "noisy:0.3:seed5(scripted)"


def test_many_noise_rates_cost_one_grading() -> None:
    grader = Scripted(random_logp)
    source = stored(grader)
    for rate in (0.0, 0.1, 0.3, 1.0):
        noisy = LabelNoiseSource(source, rate, 0)
        noisy.fill(QUESTIONS)
        assert noisy.read(QUESTIONS).calls == noisy.read(QUESTIONS).calls == 12
        assert noisy.estimate_cost(QUESTIONS) == (0, 0)
    assert len(grader.asked) == 12


def test_noise_leaves_what_failed_failed() -> None:
    inner = filled(
        lambda request: "refused" if request.question == QUESTIONS[2] else random_logp(request), QUESTIONS[:3]
    )
    grades = LabelNoiseSource(inner, 1.0, 0).read_chunk(QUESTIONS[:4])
    assert cells(grades, "status")[:, 0].tolist() == [OK, OK, REFUSED, SKIPPED]
    assert grades.logp_NK.isnan().any(1).tolist() == [False, False, True, True]
    assert grades.details == ("'Is it 2?': it refused",)


def test_noise_on_noise_is_noise_of_its_own(many: StoredGrader) -> None:
    twice = LabelNoiseSource(LabelNoiseSource(many, 0.3, 0), 0.3, 0)
    changed = (favourites(twice) != favourites(many)).double().mean().item()
    expected = 2 * 0.3 * 0.7 + 0.3 * 0.3 / 2  # one of both, or both but not back
    assert abs(changed - expected) < 4 * math.sqrt(expected * (1 - expected) / len(MANY))


# --- other labels


def test_labels_that_share_a_target_are_added_up() -> None:
    two = LabelSet.of(["Good", "Bad"])
    inner = filled(lambda _: logp(0.5, 0.2, 0.3), QUESTIONS[:2])
    grades = LabelMapSource(inner, [1, 0, 1], two).read_chunk(QUESTIONS[:3])
    assert grades.logp_NK[:2].exp().tolist() == [pytest.approx([0.2, 0.8])] * 2
    assert cells(grades, "score").shape == cells(grades, "status").shape == cells(grades, "graded_at").shape == (3, 2)
    assert grades.complete_N.tolist() == [True, True, False] and grades.logp_NK[2].isnan().all()
    swapped = LabelMapSource(inner, [1, 0, 2], LabelSet.of(["a", "b", "c"])).read(QUESTIONS[:1])
    assert swapped.logp_NK[0].exp().tolist() == pytest.approx([0.2, 0.5, 0.3])
    fingerprints = {LabelMapSource(inner, target, two).fingerprint for target in ([1, 0, 1], [0, 0, 1], [0, 1, 1])}
    assert "remapped:Yes=Bad,No=Good,Maybe=Bad(scripted)" in fingerprints and len(fingerprints) == 3


def test_labels_of_tiny_probability_stay_finite() -> None:
    inner = filled(lambda _: [0.0, -800.0, -801.0], QUESTIONS[:1])
    logp_NK = LabelMapSource(inner, [0, 1, 1], LabelSet.of(["Good", "Bad"])).read(QUESTIONS[:1]).logp_NK
    assert logp_NK[0].tolist() == pytest.approx([0.0, -800 + math.log1p(math.exp(-1))])


# --- budgets


def test_calls_are_counted_and_end() -> None:
    budget = Budget(max_calls=2)
    assert budget.reserve() and budget.reserve() and budget.stopped is None
    assert not budget.reserve() and budget.calls == 2 and budget.stopped == "--max_grader_calls 2 is spent"
    unlimited = Budget()
    assert all(unlimited.reserve(10**9) for _ in range(100)) and unlimited.stopped is None and unlimited.cost == 0


def test_money_is_reserved_before_it_is_spent() -> None:
    """2 a thousand tokens and 1 in all: 500 tokens, those in flight among them."""
    budget = Budget(max_cost=1.0, price_per_1k_tokens=2.0)
    assert budget.reserve(300) and budget.cost == 0
    budget.settle(300, 100)
    assert budget.tokens == 100 and budget.cost == pytest.approx(0.2)
    assert budget.reserve(300) and budget.reserve(100)  # 100 used, 400 in flight: just all of it
    assert not budget.reserve(1) and budget.stopped == "--max_cost 1.0 is spent"
    budget.settle(300, 0)
    budget.settle(100, 0)
    assert not budget.reserve(1)  # what has stopped stays so
    assert (budget.calls, budget.tokens) == (3, 100)


@given(
    st.integers(0, 1000),
    st.lists(st.tuples(st.integers(0, 300), st.floats(0, 1), st.booleans()), max_size=30),
)
@settings(deadline=None)
def test_calls_in_flight_cannot_overspend(most: int, calls: list[tuple[int, float, bool]]) -> None:
    """As long as none takes more tokens than were set aside for it."""
    budget = Budget(max_cost=float(most), price_per_1k_tokens=1000.0)
    in_flight: list[tuple[int, int]] = []
    for tokens, share, waits in calls:
        if budget.reserve(tokens):
            in_flight.append((tokens, int(share * tokens)))
        if not waits:
            for reserved, used in in_flight:
                budget.settle(reserved, used)
            in_flight = []
        assert budget.cost + sum(reserved for reserved, _ in in_flight) <= most
    for reserved, used in in_flight:
        budget.settle(reserved, used)
    assert budget.cost <= most


def test_time_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    budget = Budget(timeout=5.0)
    now = 1004.0
    assert budget.reserve() and budget.seconds_left == 1.0
    now = 1006.0
    assert not budget.reserve() and budget.seconds_left == 0.0 and budget.stopped == "--grading_timeout 5.0 is over"
    now = 1000.0
    assert not budget.reserve() and Budget().seconds_left is None


def test_the_first_reason_to_stop_stays() -> None:
    budget = Budget(max_calls=0)
    budget.stop("the server is gone")
    assert not budget.reserve() and budget.stopped == "the server is gone" and budget.calls == 0


def test_allowed_takes_items_only_as_they_are_used() -> None:
    taken: list[int] = []
    budget = Budget(max_calls=3)
    allowed = budget.allowed(taken.append(n) or n for n in range(100))  # type: ignore[func-returns-value]
    assert taken == [] and next(allowed) == 0 and taken == [0] and budget.calls == 1
    assert list(allowed) == [1, 2] and len(taken) <= 4 and budget.calls == 3
    stopped = Budget()
    items = stopped.allowed(range(100))
    assert next(items) == 0
    stopped.stop("enough")
    assert list(items) == [] and stopped.calls == 1
