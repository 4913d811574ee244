"""Grades that are few or wrong: a budget that counts what training observes, and noise that results do not see."""

from pathlib import Path
from typing import Any

import pytest
import torch
from short_methods import SAMPLED, WHOLE_ROWS, Make, loaded, numbers, train
from torch import Tensor

from eightball_ppo.errors import InputError
from eightball_ppo.evaluation import evaluate
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.methods.task import Task, load_task
from eightball_ppo.runtime.run import read_results

# --- budgets


@pytest.mark.parametrize("method", WHOLE_ROWS)
def test_whole_rows_are_paid_for_and_nothing_else_is_looked_at(
    method: str, options: Make, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """7 of 60 questions for 23 calls; whatever the grades of the others are, the policy has the same bits."""
    short = {"num_train_epochs": 2} if method != "best_of_n" else {}

    def forged(config: Any, questions: Any, *_: Any) -> Task[Any]:
        own = load_task(config, questions)
        bought = BudgetedScores(own.train_scores.score_NK, config.grader_call_budget, config.seed).buy_full_rows()
        others = [row for row in range(60) if row not in bought]
        own.train_scores.score_NK[others] = torch.randn(len(others), 3)
        own.noisy_logp_NK[others] = torch.randn(len(others), 3).log_softmax(-1)
        return own

    honest = train(method, options(method, grader_call_budget=23, **short))
    results = read_results(honest)
    assert results["grader_calls"] == 21 and results["grader_call_budget"] == 23
    assert results["splits"]["train"]["questions"] == 60
    monkeypatch.setattr("eightball_ppo.methods.run_method.load_task", forged)
    blind = train(method, options(method, grader_call_budget=23, **short))
    assert (honest / "model.safetensors").read_bytes() == (blind / "model.safetensors").read_bytes()


def test_under_a_budget_best_of_n_does_not_ask_for_heldout_questions(options: Make, no_figures: None) -> None:
    results = read_results(train("best_of_n", options("best_of_n", grader_call_budget=90)))
    assert numbers(results["splits"]["heldout"]) == pytest.approx(numbers(results["reference"]["heldout"]), abs=1e-6)
    assert results["splits"]["train"]["objective"] > results["reference"]["train"]["objective"]


@pytest.mark.parametrize("method", SAMPLED)
def test_sampled_answers_are_paid_for_until_the_budget_is_spent(
    method: str, options: Make, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what was not paid for is not looked at: other grades there, and the policy has the same bits."""
    seen: list[BudgetedScores] = []
    unpaid: Tensor | None = None

    def watched(config: Any, questions: Any, *_: Any) -> Task[Any]:
        own = load_task(config, questions)
        if unpaid is not None:
            own.train_scores.score_NK[unpaid] += 3
        seen.append(own.train_scores)
        return own

    monkeypatch.setattr("eightball_ppo.methods.run_method.load_task", watched)
    honest = train(method, options(method, grader_call_budget=50))
    assert read_results(honest)["grader_calls"] == 50
    unpaid = ~seen[0].observed_NK
    assert unpaid.sum() == 130
    blind = train(method, options(method, grader_call_budget=50))
    assert torch.equal(seen[0].observed_NK, seen[1].observed_NK)
    assert (honest / "model.safetensors").read_bytes() == (blind / "model.safetensors").read_bytes()


@pytest.mark.parametrize("method", WHOLE_ROWS)
def test_a_budget_below_one_question_is_refused_and_nothing_is_left(method: str, options: Make) -> None:
    config = options(method, grader_call_budget=2)
    with pytest.raises(InputError, match="--grader_call_budget 2: one question takes 3 calls") as error:
        train(method, config)
    assert "\n" not in str(error.value) and not list(Path(config.output_dir).parent.iterdir())


def test_hard_targets_with_too_few_questions_to_validate_on_are_refused(options: Make) -> None:
    with pytest.raises(InputError, match="1 questions cannot be split") as error:
        train("distill", options("distill", grader_call_budget=3))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", SAMPLED)
def test_sampling_against_a_budget_takes_one_process(
    method: str, options: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(InputError, match="on one process only"):
        train(method, options(method, grader_call_budget=50))


# --- noise


def test_training_sees_noisy_grades_and_results_the_clean_ones(options: Make) -> None:
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
    assert all(torch.equal(scores[0], own) for own in scores)
    assert not torch.equal(scores[0], loaded(options("exact", label_noise=0.4, seed=1)).train_scores.score_NK)


@pytest.mark.parametrize("method", ["exact", "distill_soft", "best_of_n"])
def test_who_learns_from_wrong_grades_alone_gets_worse_by_the_right_ones(
    method: str, options: Make, no_figures: None
) -> None:
    short = {"exact": {"num_train_epochs": 80}, "distill_soft": {"num_train_epochs": 16}}.get(method, {})
    results = read_results(train(method, options(method, label_noise=1.0, **short)))
    assert results["label_noise"] == 1 and results["grader_calls"] == 180
    trained, reference = results["splits"]["train"], results["reference"]["train"]
    assert trained["expected_score"] < reference["expected_score"] and trained["win_rate"] < 0.4
    clean = loaded(options("sft"))
    graded = clean.graded("train")
    expected = evaluate(graded.ref_logp_NK, graded, 0.1, clean.labels)["expected_score"]
    assert reference["expected_score"] == pytest.approx(expected)
