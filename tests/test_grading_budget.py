"""Budgets of grading: calls, money and time are limits that no call in flight exceeds."""

import time

import pytest

from eightball_ppo.graders.budget import Budget


def test_calls_are_counted_up_to_the_limit() -> None:
    budget = Budget(max_calls=2)
    assert budget.reserve() and budget.reserve() and budget.stopped is None
    assert not budget.reserve() and budget.calls == 2 and budget.stopped == "--max_grader_calls 2 is spent"
    unlimited = Budget()
    assert all(unlimited.reserve(10**9) for _ in range(100)) and unlimited.stopped is None and unlimited.cost == 0


def test_tokens_in_flight_count_towards_the_cost() -> None:
    """2 a thousand tokens and 1 in all: 500 tokens, those in flight among them."""
    budget = Budget(max_cost=1.0, price_per_1k_tokens=2.0)
    assert budget.reserve(300) and budget.cost == 0
    budget.settle(300, 100)
    assert budget.tokens == 100 and budget.cost == pytest.approx(0.2)
    assert budget.reserve(300) and budget.reserve(100)  # 100 used, 400 in flight: just all of it
    assert not budget.reserve(1) and budget.stopped == "--max_cost 1.0 is spent"
    budget.settle(300, 0)
    budget.settle(100, 0)
    assert not budget.reserve(1)  # a stopped budget stays stopped
    assert (budget.calls, budget.tokens) == (3, 100)


def test_no_call_starts_after_the_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    budget = Budget(timeout=5.0)
    now = 1004.0
    assert budget.reserve() and budget.seconds_left == 1.0
    now = 1006.0
    assert not budget.reserve() and budget.seconds_left == 0.0 and budget.stopped == "--grading_timeout 5.0 is over"
    now = 1000.0
    assert not budget.reserve() and Budget().seconds_left is None


def test_requests_are_taken_only_as_they_are_used() -> None:
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
