"""Scores in any unit: the KL coefficient, targets, results and policies do not depend on the unit."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from conftest import LABELS as NAMES
from eightball_ppo.config.methods import DistillConfig, ExactConfig, GRPOConfig, PPOConfig, ReferenceConfig, RLOOConfig
from eightball_ppo.data import Questions
from eightball_ppo.errors import InputError
from eightball_ppo.functional import objective
from eightball_ppo.graders.base import convert_scores
from eightball_ppo.graders.judges import as_grader
from eightball_ppo.graders.rules import RuleGrader
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods import distill
from eightball_ppo.methods.inputs import Inputs, load_splits
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.methods.task import Task, load_task
from eightball_ppo.models.loading import load_classifier
from eightball_ppo.runtime.run import read_config, read_metrics, read_results

pytestmark = pytest.mark.usefixtures("no_figures")
LABELS = LabelSet.of(NAMES)
TRAIN = Questions("a list", [f"Will there be {number} of them?" for number in range(10)])
HELDOUT = Questions("another list", ["Is it over?", "Am I late?", "Do I win?"], [0, 0, 1])
SHORT: dict[str, tuple[Any, dict[str, Any]]] = {
    "exact": (ExactConfig, {"num_train_epochs": 20}),
    "ppo": (PPOConfig, {"total_episodes": 160, "per_device_train_batch_size": 40, "num_mini_batches": 2}),
    "rloo": (RLOOConfig, {"total_episodes": 96, "generation_batch_size": 24, "num_generations": 3}),
    "grpo": (GRPOConfig, {"total_episodes": 96, "generation_batch_size": 24, "num_generations": 3}),
}


def judge_in(unit: float) -> Callable[[list[str], list[str]], list[list[float]]]:
    """Another score for every text and label, in units of `unit`."""

    def judge(texts: list[str], labels: list[str]) -> list[list[float]]:
        return [[unit * math.sin(sum(map(ord, text)) * (1 + len(label))) for label in labels] for text in texts]

    return judge


@pytest.fixture
def given(sft_run: Path, tmp_path: Path) -> dict[str, Any]:
    return {"model": load_classifier(str(sft_run), "--sft_model_path"), "train": TRAIN, "evaluation": HELDOUT}


def options(directory: Path, **more: Any) -> dict[str, Any]:
    shared = {"output_dir": str(directory / "run"), "grade_store": str(directory / "grades.sqlite3")}
    return {**shared, "allow_weak_grader": True, "disable_tqdm": True, "labels": list(NAMES), **more}


def task_of(config: Any, judge: Any, given: dict[str, Any]) -> Task:
    inputs = Inputs(judge=as_grader(judge, LABELS), **given)
    return load_task(config, load_splits(config, inputs), inputs)


def spread(unit: float) -> float:
    return float(np.array(judge_in(unit)(list(TRAIN.texts), list(NAMES))).std(1).mean())


@pytest.mark.parametrize("unit", [1e-3, 1000.0])
def test_the_default_kl_coef_is_a_tenth_of_the_spread_and_is_said(
    unit: float, given: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "eightball_ppo")
    task = task_of(ExactConfig(**options(tmp_path)), judge_in(unit), given)
    assert task.unit == pytest.approx(spread(unit), rel=1e-5) and task.beta == pytest.approx(0.1 * task.unit)
    assert task.config.beta == pytest.approx(0.1) and task.config.score_type == "raw"
    assert f"--kl_coef {task.beta:.4g}: 0.1 times the standard deviation" in caplog.text
    expected_NK = torch.tensor(judge_in(unit)(list(TRAIN.texts), list(NAMES)), dtype=torch.float64)
    torch.testing.assert_close(task.graded("train").score_NK, expected_NK, rtol=1e-6, atol=0)
    torch.testing.assert_close(task.train_scores.score_NK.double() * task.unit, expected_NK, rtol=1e-5, atol=0)


def test_the_default_kl_coef_of_probabilities_is_a_tenth(given: dict[str, Any], tmp_path: Path) -> None:
    task = task_of(ExactConfig(**options(tmp_path)), RuleGrader("No", LABELS), given)
    assert (task.beta, task.config.kl_coef, task.unit, task.config.score_type) == (0.1, 0.1, 1.0, "log_prob")


CASES = [(name, scaled) for name in SHORT for scaled in (False, True)]
SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in CASES[1:]]


@pytest.mark.parametrize(("method", "scaled"), [CASES[0], *SLOW])
def test_the_unit_of_the_scores_does_not_change_the_policy(
    method: str, scaled: bool, given: dict[str, Any], tmp_path: Path
) -> None:
    """To the last bit where units are powers of two, with the default KL coefficient and with one that is scaled."""
    config_class, short = SHORT[method]
    weights, results = list[dict[str, Any]](), list[dict[str, Any]]()
    for unit in (1.0, 1024.0):
        kl_coef = 1024 * results[0]["beta"] if results and scaled else None
        config = config_class(**options(tmp_path / f"{unit}", kl_coef=kl_coef), **short)
        run = run_method(config, judge=judge_in(unit), **given)
        results.append(read_results(run))
        weights.append(load_classifier(str(run), "run")[0].state_dict())
        assert read_config(run)["kl_coef"] == results[-1]["beta"] and read_config(run)["score_type"] == "raw"
    assert all(torch.equal(weight, weights[1][name]) for name, weight in weights[0].items())
    for name in ("expected_score", "objective", "optimum_objective"):
        plain, large = (result["splits"]["train"][name] for result in results[:2])
        assert large == pytest.approx(1024 * plain)
    plain, large = (result["splits"]["train"]["optimum_fraction"] for result in results[:2])
    assert large == pytest.approx(plain) and plain != 0
    assert results[1]["beta"] == pytest.approx(102.4 * spread(1.0), rel=1e-5)


def test_the_metrics_of_training_are_in_the_unit_of_the_judge(given: dict[str, Any], tmp_path: Path) -> None:
    config = PPOConfig(**options(tmp_path, log_completions=True), **{**SHORT["ppo"][1], "total_episodes": 80})
    run = run_method(config, judge=judge_in(1000.0), **given)
    rows = [row for row in read_metrics(run) if "objective/scores" in row]
    assert rows and all(abs(row["objective/scores"]) > 1 for row in rows)
    import pandas as pd

    table = pd.read_parquet(run / "completions" / "completions_00001.parquet")
    known = {round(score, 1) for row in judge_in(1000.0)(list(TRAIN.texts), list(NAMES)) for score in row}
    assert {round(score, 1) for score in table["score"]} <= known
    assert rows[0]["objective/scores"] == pytest.approx(table["score"].mean(), rel=1e-4)


def test_targets_of_raw_scores(given: dict[str, Any], tmp_path: Path) -> None:
    """Hard ones are the best label, filtered by the margin to the second; soft ones the optimum."""
    task = task_of(DistillConfig(**options(tmp_path, target="soft", kl_coef=30.0)), judge_in(100.0), given)
    score_NK = task.graded("train").score_NK
    optimum_NK = objective.optimum_logp_NK(task.graded("train").ref_logp_NK, score_NK, 30.0).exp()
    torch.testing.assert_close(distill.targets_NK(task).double(), optimum_NK, atol=1e-5, rtol=0)
    best_N2 = score_NK.topk(2).values
    margin_N = best_N2[:, 0] - best_N2[:, 1]
    rows, middle = list(range(10)), margin_N.median().item() + 1e-3
    kept = distill.confident_rows(task.noisy_logp_NK, rows, middle, raw=True)
    assert kept == torch.where(margin_N >= middle)[0].tolist() and 0 < len(kept) < 10
    run = run_method(DistillConfig(**options(tmp_path), num_train_epochs=1), judge=judge_in(100.0), **given)
    results = read_results(run)
    assert (results["threshold"], results["coverage"], results["thresholds_tried"]) == (None, 1.0, [])


@pytest.mark.parametrize(
    ("config_class", "more", "raw", "message"),
    [
        (ExactConfig, {"score_type": "probability"}, True, "--score_type probability: .* gives raw scores"),
        (ExactConfig, {"score_type": "raw"}, False, "--score_type raw: .* gives probabilities"),
        (DistillConfig, {"threshold": 1.5}, False, "--threshold 1.5: must be a probability, 0 to 1"),
        (
            DistillConfig,
            {"target": "soft", "kl_coef": 0.0},
            True,
            "--target soft: of raw scores needs",
        ),
    ],
)
def test_options_that_do_not_fit_the_scores_are_refused_before_a_call(
    config_class: Any, more: dict[str, Any], raw: bool, message: str, given: dict[str, Any], tmp_path: Path
) -> None:
    def judge(texts: list[str], labels: list[str]) -> Any:
        raise AssertionError("the judge was called")

    def labeller(text: str) -> str:
        raise AssertionError("the judge was called")

    config = config_class(**options(tmp_path, **more))
    with pytest.raises(InputError, match=message):
        run_method(config, judge=judge if raw else labeller, **given)
    assert not (tmp_path / "grades.sqlite3").exists()


def test_raw_scores_pass_through_unchanged() -> None:
    score_NK = torch.tensor([[1e6, -3.0], [0.0, 5.0]])
    assert convert_scores(score_NK, "raw") is score_NK


def test_label_noise_over_a_function_moves_its_stored_scores(given: dict[str, Any], tmp_path: Path) -> None:
    task = task_of(ExactConfig(**options(tmp_path, label_noise=1.0)), judge_in(100.0), given)
    clean_NK, noisy_NK = task.grader_logp_NK["train"], task.noisy_logp_NK
    assert torch.equal(noisy_NK.sort().values, clean_NK.sort().values)
    assert not (noisy_NK.argmax(-1) == clean_NK.argmax(-1)).any()


def test_a_run_with_a_function_records_its_fingerprint_and_needs_the_object_again(
    given: dict[str, Any], tmp_path: Path
) -> None:
    judge = judge_in(1.0)
    run = run_method(ReferenceConfig(**options(tmp_path)), judge=judge, **given)
    fingerprint = as_grader(judge, LABELS).fingerprint
    assert read_results(run)["grader"] == fingerprint and read_config(run)["grader"] == f"object:judge:{fingerprint}"
    assert "judge" in str(read_results(run)["grades"]["grader_settings"])
    again = ReferenceConfig(**options(tmp_path / "again", grader=read_config(run)["grader"]))
    with pytest.raises(InputError, match="was an object in Python; pass it again"):
        run_method(again, **given)
