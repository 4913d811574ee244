"""Targets of distillation, its threshold, and the annealed objective of the exact gradient."""

from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from pytest import MonkeyPatch
from short_methods import Make, loaded, train
from torch import Tensor

import tiny
from eightball_ppo.errors import InputError
from eightball_ppo.functional import objective
from eightball_ppo.methods import distill, exact
from eightball_ppo.methods.exact import AnnealedObjective
from eightball_ppo.methods.resume_task import resume_context_for_task
from eightball_ppo.methods.task import Task

CPU = torch.device("cpu")


def test_targets_are_the_top_label_the_distribution_or_the_optimum(options: Make) -> None:
    task = loaded(options("sft", label_noise=0.5))
    logp_NK = task.noisy_logp_NK
    assert not torch.equal(logp_NK.argmax(-1), task.grader_logp_NK["train"].argmax(-1))
    hard, soft, boltzmann = (
        distill.targets_NK(replace(task, config=options(method, kl_coef=0.3)))
        for method in ("distill", "distill_soft", "distill_boltzmann")
    )
    assert torch.equal(hard.argmax(-1), logp_NK.argmax(-1)) and torch.equal(hard.sort().values[:, :2], 0 * hard[:, :2])
    torch.testing.assert_close(soft, logp_NK.softmax(-1))
    optimum_NK = objective.optimum_logp_NK(task.graded("train").ref_logp_NK, logp_NK.double(), 0.3)
    torch.testing.assert_close(boltzmann.double(), optimum_NK.exp(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("label_noise", [0.0, 0.5])
def test_training_and_results_use_scores_of_the_score_type(options: Make, label_noise: float) -> None:
    task = loaded(options("sft", score_type="probability", label_noise=label_noise))
    torch.testing.assert_close(task.train_scores.score_NK, task.noisy_logp_NK.exp())
    torch.testing.assert_close(task.graded("train").score_NK[:], task.grader_logp_NK["train"].double().exp())


def test_threshold_is_chosen_on_grades_within_the_budget_and_said(
    options: Make, monkeypatch: MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """With label noise; the trained policies here are all the reference."""
    caplog.set_level("INFO", "eightball_ppo")
    config = options("distill", label_noise=0.5, grader_call_budget=45)
    task = loaded(config)
    rows, trained = task.train_scores.buy_favourites(complete=False), list[set[int]]()

    def distil(task: Task[Any], kept: list[int], *_: Any) -> tuple[Any, int]:
        trained.append(set(kept))
        return task.classifier, 7

    monkeypatch.setattr(distill, "train_on_targets", distil)
    run: Any = None
    search = distill.ThresholdSearch(None)
    resume = distill.choose_threshold(search, task, rows, run, resume_context_for_task(task, None))
    threshold, tried = search.threshold, search.tried
    assert all(later < before for before, later in pairwise([set(rows), *trained]))
    assert resume.updates_before == search.updates == 7 * len(trained)
    validation = sorted(set(rows) - trained[0])
    ref_logp_NK = task.ref_logits_NK["train"][validation].log_softmax(-1)
    score = objective.expected_score_N(ref_logp_NK, task.train_scores.known_score_NK()[validation]).mean().item()
    assert len(validation) == round(0.2 * len(rows))
    assert [row["validation_score"] for row in tried] == pytest.approx([score] * len(tried))
    assert threshold == 0 and tried[0]["coverage"] == 1 and len(tried) > 2
    said = f"--threshold 0: has the best of {len(tried)} policies on {len(validation)} validation questions; 100 %"
    assert said in caplog.text


def test_annealed_loss_is_the_objective_divided_by_beta() -> None:
    ref_logp_NK, score_NK = tiny.scores(5, seed=1).log_softmax(-1), tiny.scores(5, seed=2)
    logits_BK, rows_B = tiny.scores(2, seed=3), torch.tensor([4, 1])
    logp_BK = logits_BK.log_softmax(-1)

    def expected(beta: float) -> Tensor:
        return -objective.objective_N(logp_BK, ref_logp_NK[rows_B], score_NK[rows_B], beta).mean() / beta

    loss = AnnealedObjective(ref_logp_NK, score_NK, 0.2, 4, CPU)
    for share in (exact.MIN_ANNEAL_FRACTION, 1 / 4, 2 / 4, 3 / 4, 1.0, 1.0):
        torch.testing.assert_close(loss(logits_BK, rows_B), expected(0.2 / share))
    plain = AnnealedObjective(ref_logp_NK, score_NK, 0.2, 0, CPU)
    torch.testing.assert_close(plain(logits_BK, rows_B), expected(0.2))
    free = AnnealedObjective(ref_logp_NK, score_NK, 0.0, 0, CPU)
    score = objective.expected_score_N(logp_BK, score_NK[rows_B]).mean()
    torch.testing.assert_close(free(logits_BK, rows_B), -score)


@pytest.mark.parametrize(("batch", "processes", "steps"), [(200, 1, 3), (16, 1, 12), (16, 2, 6), (60, 4, 3)])
def test_beta_reaches_kl_coef_within_the_steps_of_a_process(
    batch: int, processes: int, steps: int, options: Make, monkeypatch: MonkeyPatch
) -> None:
    caught: list[AnnealedObjective] = []

    def fit(*arguments: Any, **_: Any) -> None:
        caught.append(arguments[-1])
        raise InputError("far enough")

    monkeypatch.setattr("eightball_ppo.methods.task.train_classifier", fit)
    monkeypatch.setattr(exact, "num_processes", lambda: processes)
    with pytest.raises(InputError, match="far enough"):
        train("exact", options("exact", num_train_epochs=3, per_device_train_batch_size=batch, anneal_fraction=0.5))
    assert caught[0].annealing_steps == 0.5 * steps and caught[0].beta == 0.1
