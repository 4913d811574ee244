"""Scores behind a budget: what is observed, in which order, and what an answer beyond the budget counts as."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import tiny
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.errors import InputError
from eightball_ppo.graders.budgeted_scores import BudgetedScores, check_budget_single_process

Batches = list[list[tuple[int, int]]]
ROWS, LABELS = 4, 3
batches: st.SearchStrategy[Batches] = st.lists(
    st.lists(st.tuples(st.integers(0, ROWS - 1), st.integers(0, LABELS - 1)), min_size=1, max_size=12),
    min_size=1,
    max_size=6,
)


def ask(scores: BudgetedScores, batch: list[tuple[int, int]]) -> Tensor:
    rows_B, actions_B = torch.tensor(batch).T
    return scores(rows_B, actions_B)


@given(batches)
def test_without_a_budget_every_answer_gets_its_score_and_is_paid_for_once(asked: Batches) -> None:
    scores = BudgetedScores(tiny.scores(ROWS, LABELS))
    seen: set[tuple[int, int]] = set()
    for batch in asked:
        assert ask(scores, batch).tolist() == [scores.score_NK[cell].item() for cell in batch]
        seen |= set(batch)
        assert scores.calls == len(seen) and {tuple(cell) for cell in scores.observed_NK.nonzero().tolist()} == seen


@given(batches, st.integers(1, ROWS * LABELS))
def test_a_budget_pays_for_new_answers_in_the_order_in_which_they_come(asked: Batches, budget: int) -> None:
    """Against a budget in plain Python; an answer that is not paid for counts as the mean of those that are."""
    scores = BudgetedScores(tiny.scores(ROWS, LABELS), budget)
    paid: list[tuple[int, int]] = []
    for batch in asked:
        found_B = ask(scores, batch)
        for cell in batch:
            if cell not in paid and len(paid) < budget:
                paid.append(cell)
        mean = sum(scores.score_NK[cell].item() for cell in paid) / len(paid)
        expected = [scores.score_NK[cell].item() if cell in paid else mean for cell in batch]
        assert found_B.tolist() == pytest.approx(expected, abs=1e-6)
        assert {tuple(cell) for cell in scores.observed_NK.nonzero().tolist()} == set(paid)
        assert scores.calls == len(paid) <= budget


def test_one_batch_can_overrun_the_budget_and_repeats_cost_nothing() -> None:
    scores = BudgetedScores(torch.tensor([[1.0, 2.0], [4.0, 8.0]]), budget=2)
    assert ask(scores, [(1, 1), (1, 1), (0, 0), (1, 0), (0, 1)]).tolist() == [8, 8, 1, 4.5, 4.5]
    assert ask(scores, [(0, 1), (0, 0)]).tolist() == [4.5, 1] and scores.calls == 2


@pytest.mark.parametrize(("budget", "rows"), [(None, 10), (3, 1), (11, 3), (30, 10), (99, 10)])
def test_whole_rows_are_bought_as_far_as_the_money_goes(budget: int | None, rows: int) -> None:
    scores = BudgetedScores(tiny.scores(10, 3), budget, seed=1)
    bought = scores.buy_full_rows()
    assert len(bought) == rows == len(set(bought)) and bought == sorted(bought)
    assert scores.calls == 3 * rows and scores.observed_NK.all(1).nonzero().flatten().tolist() == bought
    assert BudgetedScores(tiny.scores(10, 3, seed=9), budget, seed=1).buy_full_rows() == bought


def test_the_seed_chooses_the_rows() -> None:
    chosen = {tuple(BudgetedScores(tiny.scores(10, 3), 12, seed).buy_full_rows()) for seed in range(8)}
    assert len(chosen) > 4 and {row for rows in chosen for row in rows} == set(range(10))


def test_a_budget_below_one_question_is_refused() -> None:
    with pytest.raises(InputError, match=r"--grader_call_budget 2: one question takes 3 calls, a label each; raise it"):
        BudgetedScores(tiny.scores(10, 3), 2).buy_full_rows()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        BudgetedScores(torch.tensor([[0.0, value]]))


def test_it_travels_with_a_model_and_its_state_is_what_was_observed() -> None:
    scores = BudgetedScores(tiny.scores(4))
    assert len(scores) == 4 and list(scores.state_dict()) == ["observed_NK"]
    assert scores.double().score_NK.dtype == torch.float64
    assert ask(scores, [(0, 0)]).dtype == torch.float64 and scores.observed_NK.dtype == torch.bool


def test_several_processes_have_no_common_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    check_budget_single_process(PPOConfig(grader_call_budget=5))
    monkeypatch.setenv("WORLD_SIZE", "2")
    check_budget_single_process(PPOConfig())
    with pytest.raises(InputError, match=r"--grader_call_budget 5: with sampled answers on one process only"):
        check_budget_single_process(PPOConfig(grader_call_budget=5))


def test_joined_processes_count_what_either_paid_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """(Two real processes: `test_groups.py`.)"""
    from torch import distributed

    scores = BudgetedScores(tiny.scores(2, 2))
    ask(scores, [(0, 0)])
    scores.all_reduce_observed()  # one process: nothing to join
    assert scores.calls == 1

    def with_another(observed_NK: Tensor, op: object) -> None:
        assert op is distributed.ReduceOp.MAX
        observed_NK[1, 1] = 1

    monkeypatch.setattr(distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(distributed, "all_reduce", with_another)
    scores.all_reduce_observed()
    assert scores.observed_NK.tolist() == [[True, False], [False, True]] and scores.calls == 2
