"""Budgets of scores that training observes and of calls while grading; label noise in training alone."""

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from short_methods import SAMPLED, WHOLE_ROWS, Make, loaded, numbers, train
from torch import Tensor

import tiny
from eightball_ppo.errors import InputError
from eightball_ppo.evaluation import evaluate
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.methods.task import Task, load_task
from eightball_ppo.runtime.run import read_results

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
def test_without_a_budget_every_answer_gets_its_score_and_counts_once(asked: Batches) -> None:
    scores = BudgetedScores(tiny.scores(ROWS, LABELS))
    seen: set[tuple[int, int]] = set()
    for batch in asked:
        assert ask(scores, batch).tolist() == [scores.score_NK[cell].item() for cell in batch]
        seen |= set(batch)
        assert scores.calls == len(seen) and {tuple(cell) for cell in scores.observed_NK.nonzero().tolist()} == seen


@given(batches, st.integers(1, ROWS * LABELS))
def test_a_budget_buys_new_answers_in_their_order(asked: Batches, budget: int) -> None:
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


def test_answers_beyond_the_budget_get_the_mean_and_repeats_are_free() -> None:
    scores = BudgetedScores(torch.tensor([[1.0, 2.0], [4.0, 8.0]]), budget=2)
    assert ask(scores, [(1, 1), (1, 1), (0, 0), (1, 0), (0, 1)]).tolist() == [8, 8, 1, 4.5, 4.5]
    assert ask(scores, [(0, 1), (0, 0)]).tolist() == [4.5, 1] and scores.calls == 2


@pytest.mark.parametrize(("budget", "rows"), [(None, 10), (3, 1), (11, 3), (30, 10), (99, 10)])
def test_full_rows_are_bought_up_to_the_budget(budget: int | None, rows: int) -> None:
    scores = BudgetedScores(tiny.scores(10, 3), budget, seed=1)
    bought = scores.buy_full_rows()
    assert len(bought) == rows == len(set(bought)) and bought == sorted(bought)
    assert scores.calls == 3 * rows and scores.observed_NK.all(1).nonzero().flatten().tolist() == bought
    assert BudgetedScores(tiny.scores(10, 3, seed=9), budget, seed=1).buy_full_rows() == bought


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_scores_that_are_not_finite_are_refused(value: float) -> None:
    with pytest.raises(ValueError, match="not finite"):
        BudgetedScores(torch.tensor([[0.0, value]]))


def test_the_state_dict_is_the_observed_mask() -> None:
    scores = BudgetedScores(tiny.scores(4))
    assert len(scores) == 4 and list(scores.state_dict()) == ["observed_NK"]
    assert scores.double().score_NK.dtype == torch.float64
    assert ask(scores, [(0, 0)]).dtype == torch.float64 and scores.observed_NK.dtype == torch.bool


def slow_unless(method: str, *fast: str) -> Any:
    return method if method in fast else pytest.param(method, marks=pytest.mark.slow)


@pytest.mark.parametrize("method", [slow_unless(method, "exact", "best_of_n") for method in WHOLE_ROWS])
def test_cells_are_bought_up_to_the_budget_and_no_other_score_is_read(
    method: str, options: Make, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Questions cost two calls at most; the policy has the same bits whatever the cells not asked hold."""
    tasks, asked_NK = list[Task[Any]](), None
    short = {"num_train_epochs": 2} if method != "best_of_n" else {}

    def with_other_scores(config: Any, questions: Any, *_: Any) -> Task[Any]:
        task = load_task(config, questions)
        if asked_NK is not None:
            task.train_scores.score_NK[~asked_NK] = torch.randn(180)[: int((~asked_NK).sum())]
            task.noisy_logp_NK[~asked_NK] = torch.randn(180)[: int((~asked_NK).sum())]
        tasks.append(task)
        return task

    monkeypatch.setattr("eightball_ppo.methods.run_method.load_task", with_other_scores)
    honest = train(method, options(method, grader_call_budget=23, **short))
    results = read_results(honest)
    asked_NK = tasks[0].train_scores.observed_NK
    whole = method in ("exact", "best_of_n")
    assert results["grader_calls"] == int(asked_NK.sum()) == (22 if whole else 23)
    assert asked_NK.sum(1).unique().tolist() == ([0, 2] if whole else [0, 1, 2])
    assert results["grader_call_budget"] == 23 and results["splits"]["train"]["questions"] == 60
    blind = train(method, options(method, grader_call_budget=23, **short))
    assert (honest / "model.safetensors").read_bytes() == (blind / "model.safetensors").read_bytes()


def test_under_a_budget_best_of_n_leaves_held_out_questions_alone(options: Make, no_figures: None) -> None:
    results = read_results(train("best_of_n", options("best_of_n", grader_call_budget=60)))
    assert numbers(results["splits"]["heldout"]) == pytest.approx(numbers(results["reference"]["heldout"]), abs=1e-6)
    assert results["splits"]["train"]["objective"] > results["reference"]["train"]["objective"]


@pytest.mark.parametrize("method", [slow_unless(method, "ppo") for method in SAMPLED])
def test_sampled_answers_are_bought_up_to_the_budget_and_no_other_score_is_read(
    method: str, options: Make, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The policy has the same bits with other scores where nothing was bought."""
    seen: list[BudgetedScores] = []
    unpaid: Tensor | None = None

    def recorded(config: Any, questions: Any, *_: Any) -> Task[Any]:
        task = load_task(config, questions)
        if unpaid is not None:
            task.train_scores.score_NK[unpaid] += 3
        seen.append(task.train_scores)
        return task

    monkeypatch.setattr("eightball_ppo.methods.run_method.load_task", recorded)
    honest = train(method, options(method, grader_call_budget=50, total_episodes=240))
    assert read_results(honest)["grader_calls"] == 50
    unpaid = ~seen[0].observed_NK
    assert unpaid.sum() == 130 and unpaid.sum(1).min() == 1  # the third label of a question costs nothing
    blind = train(method, options(method, grader_call_budget=50, total_episodes=240))
    assert torch.equal(seen[0].observed_NK, seen[1].observed_NK)
    assert (honest / "model.safetensors").read_bytes() == (blind / "model.safetensors").read_bytes()


@pytest.mark.parametrize("method", WHOLE_ROWS)
def test_a_budget_below_one_question_is_refused_and_writes_nothing(method: str, options: Make) -> None:
    config = options(method, grader_call_budget=1)
    with pytest.raises(InputError, match="--grader_call_budget 1: one question takes 2 calls, a label each") as error:
        train(method, config)
    assert "\n" not in str(error.value) and not list(Path(config.output_dir).parent.iterdir())


def test_hard_targets_with_too_few_questions_to_validate_on_are_refused(options: Make) -> None:
    with pytest.raises(InputError, match="1 questions cannot be split") as error:
        train("distill", options("distill", grader_call_budget=3))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", SAMPLED)
def test_sampling_methods_refuse_a_budget_on_two_processes(
    method: str, options: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="on one process only"):
        train(method, options(method, grader_call_budget=50))


def test_training_gets_noisy_scores_and_results_use_the_clean_ones(options: Make) -> None:
    clean = loaded(options("exact"))
    assert torch.equal(clean.train_scores.score_NK.double(), clean.graded("train").score_NK)
    noisy = loaded(options("exact", label_noise=0.4))
    for split in ("train", "heldout"):
        assert torch.equal(noisy.graded(split).score_NK, clean.graded(split).score_NK)
    noisy_NK, clean_NK = noisy.train_scores.score_NK, clean.train_scores.score_NK
    wrong_N = noisy_NK.argmax(-1) != clean_NK.argmax(-1)
    assert 10 <= wrong_N.sum() <= 38  # 24 in the mean, with a deviation of 3.8
    assert torch.equal(noisy_NK[~wrong_N], clean_NK[~wrong_N])
    assert torch.equal(noisy_NK.sort().values, clean_NK.sort().values)  # the same numbers, on other labels
    torch.testing.assert_close(noisy.noisy_logp_NK, noisy_NK)


def test_the_same_seed_gives_every_method_the_same_noise(options: Make) -> None:
    scores = [
        loaded(options(method, label_noise=0.4)).train_scores.score_NK
        for method in ("sft", "exact", "distill", "ppo", "grpo")
    ]
    assert all(torch.equal(scores[0], other) for other in scores)
    assert not torch.equal(scores[0], loaded(options("exact", label_noise=0.4, seed=1)).train_scores.score_NK)


@pytest.mark.parametrize("method", [slow_unless(method, "exact") for method in ("exact", "distill_soft", "best_of_n")])
def test_training_on_wrong_scores_alone_lowers_the_true_score(method: str, options: Make, no_figures: None) -> None:
    short = {"exact": {"num_train_epochs": 80}, "distill_soft": {"num_train_epochs": 16}}.get(method, {})
    results = read_results(train(method, options(method, label_noise=1.0, **short)))
    assert results["label_noise"] == 1 and results["grader_calls"] == (300 if method == "best_of_n" else 180)
    trained, reference = results["splits"]["train"], results["reference"]["train"]
    assert trained["expected_score"] < reference["expected_score"] and trained["win_rate"] < 0.46
    clean = loaded(options("sft"))
    graded = clean.graded("train")
    expected = evaluate(graded.ref_logp_NK, graded, 0.1, clean.labels)["expected_score"]
    assert reference["expected_score"] == pytest.approx(expected)


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
