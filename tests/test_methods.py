"""Every method end to end on small data: a whole run that says what its saved policy does; budgets, noise, options."""

import dataclasses
import importlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from spies import Spy
from torch import Tensor
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertForSequenceClassification

import tiny
from conftest import LABELS
from eightball_ppo import objective
from eightball_ppo.configs import (
    BestOfNConfig,
    DistillConfig,
    ExactConfig,
    GradeConfig,
    GradedConfig,
    GRPOConfig,
    PPOConfig,
    ReferenceConfig,
    RLOOConfig,
)
from eightball_ppo.errors import DryRun, InputError
from eightball_ppo.evaluation import evaluate
from eightball_ppo.methods import best_of_n, distill, exact, grade, measuring
from eightball_ppo.methods.distill import TargetLoss
from eightball_ppo.methods.exact import AnnealedObjective
from eightball_ppo.methods.exact_trainer import keeping_task
from eightball_ppo.methods.task import Task, load_splits, load_task
from eightball_ppo.methods.training_grades import TrainingGrades
from eightball_ppo.models.loading import load_classifier, table_logits_NK
from eightball_ppo.models.modeling_recall import RecallForSequenceClassification
from eightball_ppo.report import plots
from eightball_ppo.runs import read_metrics, read_results

CPU = torch.device("cpu")
GROUPS: dict[str, Any] = {"total_episodes": 600, "steps_per_generation": 2, "num_iterations": 2}
# name in results.json -> module, options class, options for a short run
METHODS: dict[str, tuple[str, type[GradedConfig], dict[str, Any]]] = {
    "sft": ("reference", ReferenceConfig, {}),
    "distill": ("distill", DistillConfig, {"num_train_epochs": 2}),
    "distill_soft": ("distill", DistillConfig, {"target": "soft", "num_train_epochs": 8}),
    "distill_boltzmann": ("distill", DistillConfig, {"target": "boltzmann", "num_train_epochs": 8}),
    "ppo": ("ppo", PPOConfig, {"total_episodes": 480, "num_generations": 2}),
    "rloo": ("rloo", RLOOConfig, GROUPS),
    "grpo": ("grpo", GRPOConfig, GROUPS),
    "best_of_n": ("best_of_n", BestOfNConfig, {}),
    "exact": ("exact", ExactConfig, {"num_train_epochs": 150}),
}
WHOLE_ROWS = ("distill", "distill_soft", "distill_boltzmann", "best_of_n", "exact")
SAMPLED = ("ppo", "rloo", "grpo")
FILES = {
    *("config.yaml", "environment.json", "metrics.jsonl", "results.json", "README.md", "model.safetensors"),
    *("config.json", "tokenizer.json", "curves.png", "labels.png", "before_after.parquet"),
}
Make = Callable[..., Any]


@pytest.fixture(scope="module")
def options(
    tmp_path_factory: pytest.TempPathFactory, small_data: Path, sft_run: Path, reward_run: Path
) -> Callable[..., Any]:
    """The options of a short run of a method: a directory of its own, and one table of the reward model's grades."""
    graded = tmp_path_factory.mktemp("grades")
    asked: dict[str, Any] = {"reward_model_path": str(reward_run), "grade_store": str(graded / "grades.sqlite3")}
    own = GradeConfig(dataset_name=str(small_data), output_dir=str(graded / "table"), disable_tqdm=True, **asked)
    table = grade.run(own) / "grades.parquet"

    def make(method: str, **overrides: Any) -> Any:
        _, config_class, short = METHODS[method]
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path_factory.mktemp("runs") / method),
            "dataset_name": str(small_data),
            "labels": LABELS,
            "sft_model_path": str(sft_run),
            "grade_table": str(table),
            "disable_tqdm": True,
        }
        return config_class(**{**settings, **short, **overrides})

    return make


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a record, without the histograms inside it."""
    return {name: value for name, value in record.items() if not isinstance(value, dict)}


def train(method: str, config: Any) -> Path:
    return importlib.import_module(f"eightball_ppo.methods.{METHODS[method][0]}").train(config)


def loaded(config: GradedConfig) -> Task:
    return load_task(config, load_splits(config))


@pytest.fixture(scope="module")
def runs(options: Make) -> dict[str, Path]:
    """A run of every method."""
    return {method: train(method, options(method)) for method in METHODS}


@pytest.fixture
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take longer than these runs."""
    monkeypatch.setattr(plots, "curves", lambda *_: None)
    monkeypatch.setattr(plots, "label_histogram", lambda *_: None)


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_whole_and_its_saved_policy_gives_its_results_back(
    method: str, runs: dict[str, Path], options: Make
) -> None:
    run = runs[method]
    assert {path.name for path in run.iterdir()} >= FILES
    results = read_results(run)
    assert (results["method"], results["seed"], results["beta"], results["score"]) == (method, 0, 0.1, "log_prob")
    assert results["grader_noise"] == 0 and results["grader_call_budget"] is None
    policy, _ = load_classifier(str(run), "run")
    ground = loaded(options("sft"))
    for split, then in results["splits"].items():
        logp_NK = table_logits_NK(policy, ground.tokens[split]).double().log_softmax(-1)
        now = evaluate(logp_NK, ground.graded(split), 0.1, ground.labels)
        assert set(now) == set(then)
        for name in ("expected_score", "kl", "objective", "frontier_distance", "win_rate", "tie_rate", "entropy"):
            assert now[name] == pytest.approx(then[name], rel=1e-5, abs=1e-6), name
    rows = [row for row in read_metrics(run) if row["stage"] == method]
    assert rows[-1]["exact/objective"] == pytest.approx(results["splits"]["train"]["objective"], abs=1e-5)
    assert rows[-1]["grader_calls"] == results["grader_calls"]
    card = (run / "README.md").read_text()
    assert f"- {method}\n" in card and ("- trl\n" in card) == (method in SAMPLED)


def test_what_each_method_took(runs: dict[str, Path]) -> None:
    """60 training questions with 3 labels; what was asked on top to measure is no part of it."""
    results = {method: read_results(run) for method, run in runs.items()}
    for method in WHOLE_ROWS:
        assert results[method]["grader_calls"] == 180 and results[method]["episodes"] == 0
    assert results["sft"]["grader_calls"] == results["sft"]["episodes"] == 0
    for method in SAMPLED:
        assert 100 < results[method]["grader_calls"] <= 180, method
        seen = [row["grader_calls"] for row in read_metrics(runs[method]) if "episode" in row]
        assert seen == sorted(seen) and seen[0] < seen[-1] == results[method]["grader_calls"]
    assert [results[method]["episodes"] for method in SAMPLED] == [480, 720, 720]  # whole batches
    assert results["rloo"]["generation_batch_size"] == 360 and results["rloo"]["updates"] == 2
    for method in ("distill_soft", "distill_boltzmann"):
        assert results[method]["coverage"] == 1 and results[method]["thresholds_tried"] == []
    assert results["distill_boltzmann"]["target"] == "boltzmann" and results["best_of_n"]["best_of"] >= 1
    assert results["exact"]["anneal"] == 0.8


def test_the_exact_gradient_reaches_the_optimum_and_nobody_gets_further(runs: dict[str, Path]) -> None:
    fraction = {method: read_results(run)["splits"]["train"]["optimum_fraction"] for method, run in runs.items()}
    assert fraction["exact"] > 0.995 and fraction["exact"] == max(fraction.values())
    assert fraction["sft"] == 0
    assert all(fraction[method] > 0.02 for method in METHODS if method != "sft"), fraction


def test_the_reference_wins_half_the_time_and_lies_on_the_frontier(runs: dict[str, Path]) -> None:
    results = read_results(runs["sft"])
    assert results["splits"] == results["reference"]
    for record in results["splits"].values():
        assert record["win_rate"] == pytest.approx(0.5) and record["frontier_distance"] == 0 == record["kl"]
    assert read_results(runs["exact"])["splits"]["train"]["win_rate"] > 0.7


def test_best_of_n_chooses_n_by_the_objective_and_answers_exactly_so(
    runs: dict[str, Path], options: Make, no_figures: None
) -> None:
    ground = loaded(options("best_of_n"))
    graded = ground.graded("train")
    value = {
        n: objective.objective_N(
            objective.best_of_n_logp_NK(graded.ref_logp_NK, graded.score_NK, n),
            graded.ref_logp_NK,
            graded.score_NK,
            0.1,
        )
        .mean()
        .item()
        for n in best_of_n.CANDIDATES
    }
    assert read_results(runs["best_of_n"])["best_of"] == max(value, key=lambda n: value[n]) > 1
    run = train("best_of_n", options("best_of_n", best_of=3))
    assert read_results(run)["best_of"] == 3
    policy, _ = load_classifier(str(run), "run")
    for split in ("train", "heldout"):  # held-out questions are asked, too
        own = ground.graded(split)
        expected_NK = objective.best_of_n_logp_NK(own.ref_logp_NK, own.score_NK, 3)
        found_NK = table_logits_NK(policy, ground.tokens[split]).double().log_softmax(-1)
        torch.testing.assert_close(found_NK, expected_NK, atol=1e-5, rtol=1e-5)


def test_a_tie_among_numbers_of_answers_goes_to_the_smaller() -> None:
    ref_logp_NK = torch.tensor([[0.5, 0.5]]).double().log()
    assert best_of_n.choose_n(ref_logp_NK, torch.ones(1, 2).double(), 0.1) == 1
    rare_NK = torch.tensor([[0.01, 0.99]]).log().double().log_softmax(-1)
    assert best_of_n.choose_n(rare_NK, torch.tensor([[1.0, 0.0]]).double(), 0.01) == 128
    assert best_of_n.choose_n(ref_logp_NK, torch.tensor([[1.0, 0.0]]).double(), 100.0) == 1
    extreme_NK = torch.tensor([[0.0, -200.0]]).double().log_softmax(-1)
    assert best_of_n.choose_n(extreme_NK, torch.tensor([[1.0, 0.0]]).double(), 0.1) == 1  # nothing to gain


def test_targets_are_the_favourite_the_distribution_or_the_optimum(options: Make) -> None:
    ground = loaded(options("sft", grader_noise=0.5))
    logp_NK = ground.lessons_logp_NK
    assert not torch.equal(logp_NK.argmax(-1), ground.grader_logp_NK["train"].argmax(-1))
    hard, soft, boltzmann = (
        distill.targets_NK(ground, options("distill", target=target, kl_coef=0.3))
        for target in ("hard", "soft", "boltzmann")
    )
    assert torch.equal(hard.argmax(-1), logp_NK.argmax(-1)) and torch.equal(hard.sort().values[:, :2], 0 * hard[:, :2])
    torch.testing.assert_close(soft, logp_NK.softmax(-1))
    optimum_NK = objective.optimum_logp_NK(ground.graded("train").ref_logp_NK, logp_NK.double(), 0.3)
    torch.testing.assert_close(boltzmann.double(), optimum_NK.exp(), atol=1e-5, rtol=0)


def test_a_threshold_is_chosen_by_the_grades_that_training_may_see(
    options: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among the questions that were bought, noise included; the policies here are all the reference."""
    config = options("distill", grader_noise=0.5, grader_call_budget=90)
    ground = loaded(config)
    rows, trained = ground.lessons.whole_rows(), list[set[int]]()

    def distil(own: Task, kept: list[int], *_: Any) -> tuple[Any, int]:
        trained.append(set(kept))
        return own.classifier, 7

    monkeypatch.setattr(distill, "distil", distil)
    run: Any = None
    search = distill.Search(None)
    keeping = distill.choose_threshold(search, ground, rows, config, run, keeping_task(ground, None))
    threshold, tried = search.threshold, search.tried
    assert all(later < before for before, later in pairwise([set(rows), *trained]))
    assert keeping.before == search.updates == 7 * len(trained)
    own = sorted(set(rows) - trained[0])
    ref_logp_NK = ground.ref_logits_NK["train"][own].log_softmax(-1)
    score = objective.expected_score_N(ref_logp_NK, ground.lessons.score_NK[own]).mean().item()
    assert len(own) == 6 and [row["validation_score"] for row in tried] == pytest.approx([score] * len(tried))
    assert threshold == 0 and tried[0]["coverage"] == 1 and len(tried) > 2


def test_distilled_policies_go_where_their_targets_are(runs: dict[str, Path], options: Make) -> None:
    """The soft one nears the grader's distribution, the Boltzmann one the optimum; each more than the other does."""
    ground = loaded(options("sft"))
    graded = ground.graded("train")
    aim = {
        "distill_soft": ground.grader_logp_NK["train"].double().log_softmax(-1),
        "distill_boltzmann": objective.optimum_logp_NK(graded.ref_logp_NK, graded.score_NK, 0.1),
    }
    found = {}
    for method in aim:
        policy, _ = load_classifier(str(runs[method]), "run")
        found[method] = table_logits_NK(policy, ground.tokens["train"]).double().log_softmax(-1)
    for method, other in (("distill_soft", "distill_boltzmann"), ("distill_boltzmann", "distill_soft")):
        cross = {own: -(aim[method].exp() * logp_NK).sum(-1).mean() for own, logp_NK in found.items()}
        assert cross[method] < cross[other]


def test_the_annealed_loss_is_the_objective_in_units_of_its_price() -> None:
    ref_logp_NK, score_NK = tiny.scores(5, seed=1).log_softmax(-1), tiny.scores(5, seed=2)
    logits_BK, rows_B = tiny.scores(2, seed=3), torch.tensor([4, 1])
    logp_BK = logits_BK.log_softmax(-1)

    def expected(beta: float) -> Tensor:
        return -objective.objective_N(logp_BK, ref_logp_NK[rows_B], score_NK[rows_B], beta).mean() / beta

    loss = AnnealedObjective(ref_logp_NK, score_NK, 0.2, 4, CPU)
    for share in (exact.DEAREST, 1 / 4, 2 / 4, 3 / 4, 1.0, 1.0):
        torch.testing.assert_close(loss(logits_BK, rows_B), expected(0.2 / share))
    plain = AnnealedObjective(ref_logp_NK, score_NK, 0.2, 0, CPU)
    torch.testing.assert_close(plain(logits_BK, rows_B), expected(0.2))
    free = AnnealedObjective(ref_logp_NK, score_NK, 0.0, 0, CPU)
    score = objective.expected_score_N(logp_BK, score_NK[rows_B]).mean()
    torch.testing.assert_close(free(logits_BK, rows_B), -score)


def test_tables_of_targets_move_to_the_device_once() -> None:
    meta = torch.device("meta")
    logits_BK, rows_B = torch.zeros(2, 3, device=meta), torch.zeros(2, dtype=torch.long, device=meta)
    table_NK = tiny.scores(1000)
    for loss in (AnnealedObjective(table_NK, table_NK, 0.2, 4, meta), TargetLoss(table_NK, meta)):
        with Spy() as spy:
            loss(logits_BK, rows_B)
        assert spy.ran and not [name for name in spy.ran if "copy" in name], type(loss)


@pytest.mark.parametrize(("batch", "processes", "steps"), [(200, 1, 3), (16, 1, 12), (16, 2, 6), (60, 4, 3)])
def test_the_price_falls_to_its_own_within_the_steps_there_are(
    batch: int, processes: int, steps: int, options: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On several processes each makes fewer steps; there is only one here, so what it would fit is caught."""
    caught: list[AnnealedObjective] = []

    def fit(*arguments: Any, **_: Any) -> None:
        caught.append(arguments[-1])
        raise InputError("far enough")

    monkeypatch.setattr(exact, "fit", fit)
    monkeypatch.setattr(exact, "num_processes", lambda: processes)
    with pytest.raises(InputError, match="far enough"):
        train("exact", options("exact", num_train_epochs=3, per_device_train_batch_size=batch, anneal=0.5))
    assert caught[0].annealing_steps == 0.5 * steps and caught[0].beta == 0.1


# budgets


@pytest.mark.parametrize("method", WHOLE_ROWS)
def test_whole_rows_are_paid_for_and_nothing_else_is_looked_at(
    method: str, options: Make, no_figures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """7 of 60 questions for 23 calls; whatever the grades of the others are, the policy has the same bits."""
    module = importlib.import_module(f"eightball_ppo.methods.{METHODS[method][0]}")
    short = {"num_train_epochs": 2} if method != "best_of_n" else {}

    def forged(config: Any, questions: Any) -> Task:
        own = load_task(config, questions)
        bought = TrainingGrades(own.lessons.score_NK, config.grader_call_budget, config.seed).whole_rows()
        others = [row for row in range(60) if row not in bought]
        own.lessons.score_NK[others] = torch.randn(len(others), 3)
        own.lessons_logp_NK[others] = torch.randn(len(others), 3).log_softmax(-1)
        return own

    honest = train(method, options(method, grader_call_budget=23, **short))
    results = read_results(honest)
    assert results["grader_calls"] == 21 and results["grader_call_budget"] == 23
    assert results["splits"]["train"]["questions"] == 60
    monkeypatch.setattr(module, "load_task", forged)
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
    module = importlib.import_module(f"eightball_ppo.methods.{'ppo' if method == 'ppo' else 'groups'}")
    tills: list[TrainingGrades] = []
    unpaid: Tensor | None = None

    def watched(config: Any, questions: Any) -> Task:
        own = load_task(config, questions)
        if unpaid is not None:
            own.lessons.score_NK[unpaid] += 3
        tills.append(own.lessons)
        return own

    monkeypatch.setattr(module, "load_task", watched)
    honest = train(method, options(method, grader_call_budget=50))
    assert read_results(honest)["grader_calls"] == 50
    unpaid = ~tills[0].paid_NK
    assert unpaid.sum() == 130
    blind = train(method, options(method, grader_call_budget=50))
    assert torch.equal(tills[0].paid_NK, tills[1].paid_NK)
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


# noise


def test_training_sees_noisy_grades_and_results_the_clean_ones(options: Make) -> None:
    clean = loaded(options("exact"))
    assert torch.equal(clean.lessons.score_NK.double(), clean.graded("train").score_NK)
    noisy = loaded(options("exact", grader_noise=0.4))
    for split in ("train", "heldout"):
        assert torch.equal(noisy.graded(split).score_NK, clean.graded(split).score_NK)
    lessons_NK, clean_NK = noisy.lessons.score_NK, clean.lessons.score_NK
    wrong_N = lessons_NK.argmax(-1) != clean_NK.argmax(-1)
    assert 10 <= wrong_N.sum() <= 38  # 24 in the mean, with a deviation of 3.8
    assert torch.equal(lessons_NK[~wrong_N], clean_NK[~wrong_N])
    assert torch.equal(lessons_NK.sort().values, clean_NK.sort().values)  # the same numbers, on other labels
    torch.testing.assert_close(noisy.lessons_logp_NK, lessons_NK)


def test_the_same_seed_gives_every_method_the_same_noise(options: Make) -> None:
    lessons = [
        loaded(options(method, grader_noise=0.4)).lessons.score_NK
        for method in ("sft", "exact", "distill", "ppo", "grpo")
    ]
    assert all(torch.equal(lessons[0], own) for own in lessons)
    assert not torch.equal(lessons[0], loaded(options("exact", grader_noise=0.4, seed=1)).lessons.score_NK)


@pytest.mark.parametrize("method", ["exact", "distill_soft", "best_of_n"])
def test_who_learns_from_wrong_grades_alone_gets_worse_by_the_right_ones(
    method: str, options: Make, no_figures: None
) -> None:
    short = {"exact": {"num_train_epochs": 80}, "distill_soft": {"num_train_epochs": 16}}.get(method, {})
    results = read_results(train(method, options(method, grader_noise=1.0, **short)))
    assert results["grader_noise"] == 1 and results["grader_calls"] == 180
    trained, reference = results["splits"]["train"], results["reference"]["train"]
    assert trained["expected_score"] < reference["expected_score"] and trained["win_rate"] < 0.4
    clean = loaded(options("sft"))
    graded = clean.graded("train")
    expected = evaluate(graded.ref_logp_NK, graded, 0.1, clean.labels)["expected_score"]
    assert reference["expected_score"] == pytest.approx(expected)


# measuring at another price


def test_a_trained_policy_is_measured_at_another_price(runs: dict[str, Path], options: Make, no_figures: None) -> None:
    config = options("distill_soft", kl_coef=0.5, score="probability")
    run = measuring.train(config, runs["distill_soft"])
    assert (run / "model.safetensors").read_bytes() == (runs["distill_soft"] / "model.safetensors").read_bytes()
    results, before = read_results(run), read_results(runs["distill_soft"])
    for name in ("method", "seed", "episodes", "grader_calls", "grader_noise", "target", "coverage", "seconds"):
        assert results[name] == before[name], name
    assert (results["beta"], results["score"], results["measured_from"]) == (0.5, "probability", "distill_soft")
    assert "measured_from" not in before
    ground = loaded(config)
    policy, _ = load_classifier(str(run), "run")
    for split, record in results["splits"].items():
        logp_NK = table_logits_NK(policy, ground.tokens[split]).double().log_softmax(-1)
        now = evaluate(logp_NK, ground.graded(split), 0.5, ground.labels)
        assert numbers(now) == pytest.approx(numbers(record), abs=1e-6)
        assert record["kl"] == pytest.approx(before["splits"][split]["kl"], abs=1e-6)
    (row,) = read_metrics(run)
    assert row["stage"] == "distill_soft" and row["grader_calls"] == 180
    assert row["exact/objective"] == pytest.approx(results["splits"]["train"]["objective"], abs=1e-6)


def test_what_cannot_be_measured_is_refused(runs: dict[str, Path], options: Make, tmp_path: Path) -> None:
    damaged = shutil.copytree(runs["distill_soft"], tmp_path / "damaged")
    results = read_results(damaged)
    took = "do not say what its training took"
    for name, why in (("episodes", took), ("grader_calls", took), ("method", "missing or damaged")):
        (damaged / "results.json").write_text(json.dumps({k: v for k, v in results.items() if k != name}))
        with pytest.raises(InputError, match=why):
            measuring.train(options("distill_soft"), damaged)
    other = shutil.copytree(runs["distill_soft"], tmp_path / "other")
    settings = json.loads((other / "config.json").read_text())
    settings["id2label"] = {"0": "No", "1": "Yes", "2": "Maybe"}
    settings["label2id"] = {"No": 0, "Yes": 1, "Maybe": 2}
    (other / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"labels differ: --labels has .*, run .*other has"):
        measuring.train(options("distill_soft"), other)


# the classifier that remembers


def remembering() -> tuple[Any, Any, list[list[int]], Tensor]:
    """(the model, its base, three remembered questions of different lengths, their logits)."""
    base, rows = tiny.classifier(), [[5, 6, 7], [9], [5, 6]]
    logits_MK = torch.tensor([[1.0, 2.0, 3.0], [-4.0, 0.0, 4.0], [9.0, 8.0, -7.0]])
    return RecallForSequenceClassification.around(base, rows, logits_MK), base, rows, logits_MK


def padded(rows: list[list[int]], width: int, pad: int = 0) -> tuple[Tensor, Tensor]:
    mask_BT = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows])
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows]), mask_BT


@pytest.mark.parametrize("width", [3, 4, 9])
@pytest.mark.parametrize("pad", [0, 7])
def test_remembered_questions_are_known_whatever_the_padding_and_others_go_to_the_base(width: int, pad: int) -> None:
    model, base, rows, logits_MK = remembering()
    asked = [[5, 7, 6], rows[2], [5], rows[0], [7, 9], rows[1], [6, 5]]  # parts and orders of known ones are unknown
    ids_BT, mask_BT = padded(asked, width, pad)
    logits_BK = model(input_ids=ids_BT, attention_mask=mask_BT).logits
    assert torch.equal(logits_BK[[3, 5, 1]], logits_MK)
    torch.testing.assert_close(logits_BK[[0, 2, 4, 6]], base(ids_BT, attention_mask=mask_BT).logits[[0, 2, 4, 6]])


def test_a_question_longer_or_shorter_than_all_memories_is_answered() -> None:
    model, base, _, logits_MK = remembering()
    ids_BT, mask_BT = padded([[9], [8]], 1)
    logits_BK = model(input_ids=ids_BT, attention_mask=mask_BT).logits
    assert torch.equal(logits_BK[0], logits_MK[1]) and not torch.equal(logits_BK[1], logits_MK[1])
    long_BT, mask_BT = padded([[5, 6, 7, 8, 9], [5, 6, 7]], 5)
    logits_BK = model(input_ids=long_BT, attention_mask=mask_BT).logits
    assert torch.equal(logits_BK[1], logits_MK[0])
    torch.testing.assert_close(logits_BK[:1], base(input_ids=long_BT[:1]).logits)
    without_mask_BK = model(input_ids=long_BT).logits  # then every id but the padding one is real
    torch.testing.assert_close(without_mask_BK, logits_BK)


def test_outputs_are_those_of_a_classifier() -> None:
    model, _, rows, logits_MK = remembering()
    ids_BT, mask_BT = padded(rows, 3)
    wanted_B = torch.tensor([2, 0, 1])
    output = model(input_ids=ids_BT, attention_mask=mask_BT, labels=wanted_B, output_hidden_states=True)
    torch.testing.assert_close(output.loss, -logits_MK.log_softmax(-1).gather(1, wanted_B[:, None]).mean())
    assert output.hidden_states[-1].shape == (3, 1, 8)
    loss, logits_BK = model(input_ids=ids_BT, attention_mask=mask_BT, labels=wanted_B, return_dict=False)
    assert torch.equal(logits_BK, logits_MK) and loss == output.loss
    assert not model.training and model.config.num_labels == 3


def test_it_is_a_copy_of_its_base() -> None:
    model, base, *_ = remembering()
    with torch.no_grad():
        model.base.classifier.bias += 1
    assert not torch.equal(model.base.classifier.bias, base.classifier.bias)


@pytest.mark.parametrize("kind", ["eightball", "bert"])
def test_save_and_load_keep_what_it_knows(kind: str, tmp_path: Path) -> None:
    if kind == "bert":
        names = {0: "a", 1: "b", 2: "c"}
        sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
        bert = BertConfig(vocab_size=40, **sizes, id2label=names, label2id={v: k for k, v in names.items()})
        base: Any = BertForSequenceClassification(bert).eval()
        model = RecallForSequenceClassification.around(base, [[5, 6, 7], [9]], torch.tensor([[1.0, 2, 3], [4, 0, 0]]))
    else:
        model, base, *_ = remembering()
    ids_BT, mask_BT = padded([[9], [5, 6, 7], [1, 2]], 3)
    before_BK = model(input_ids=ids_BT, attention_mask=mask_BT).logits
    model.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)).__name__ == "RecallConfig"
    again = AutoModelForSequenceClassification.from_pretrained(tmp_path)
    assert type(again) is RecallForSequenceClassification and type(again.base) is type(base)
    assert again.config.id2label == base.config.id2label and not again.training
    assert torch.equal(again(input_ids=ids_BT, attention_mask=mask_BT).logits, before_BK)
    torch.testing.assert_close(before_BK[2:], base(input_ids=ids_BT, attention_mask=mask_BT).logits[2:])


def test_it_loads_without_the_package_as_its_model_card_says(runs: dict[str, Path], tmp_path: Path) -> None:
    question = "Will I be successful?"
    code = (
        "import sys; sys.modules['eightball_ppo'] = None\nfrom transformers import pipeline\nimport json\n"
        f"ask = pipeline('text-classification', {str(runs['best_of_n'])!r}, top_k=None, trust_remote_code=True)\n"
        f"print(json.dumps({{row['label']: row['score'] for row in ask([{question!r}])[0]}}))"
    )
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    policy, tokenizer = load_classifier(str(runs["best_of_n"]), "run")
    p_K = policy(**tokenizer([question], return_tensors="pt")).logits.softmax(-1)[0]
    assert answer == pytest.approx({policy.config.id2label[k]: p.item() for k, p in enumerate(p_K)}, abs=1e-5)
    assert max(answer.values()) > 0.5  # the first held-out question: best of n knows it


# bad options


@pytest.mark.parametrize(
    ("config_class", "bad", "message"),
    [
        (ReferenceConfig, {"kl_coef": -0.1}, r"--kl_coef -0.1: must not be negative"),
        (ExactConfig, {"kl_coef": float("nan")}, r"--kl_coef nan: must be a finite number"),
        (ExactConfig, {"grader_noise": 1.5}, r"--grader_noise 1.5: a share, 0 to 1"),
        (ExactConfig, {"grader_noise": -0.1}, r"--grader_noise -0.1: a share"),
        (ExactConfig, {"grader_call_budget": 0}, r"--grader_call_budget 0: at least 1"),
        (ExactConfig, {"anneal": 1.1}, r"--anneal 1.1: a share"),
        (ExactConfig, {"anneal": -0.1}, r"--anneal -0.1: a share"),
        (ExactConfig, {"adam_beta2": 1.0}, r"--adam_beta2 1.0: at least 0 and below 1"),
        (DistillConfig, {"adam_beta2": -0.1}, r"--adam_beta2 -0.1: at least 0"),
        (DistillConfig, {"target": "soft", "preset": "original"}, r"--preset original: distils hard targets"),
        (DistillConfig, {"target": "boltzmann", "kl_coef": 0.0}, r"--target boltzmann: --kl_coef must be above 0"),
        (DistillConfig, {"threshold": 1.2}, r"--threshold 1.2: a probability"),
        (BestOfNConfig, {"best_of": 0}, r"--best_of 0: 1 to 1024"),
        (BestOfNConfig, {"best_of": 1025}, r"--best_of 1025: 1 to 1024"),
        (RLOOConfig, {"num_generations": 1}, r"--num_generations 1: at least 2, to compare"),
        (RLOOConfig, {"total_episodes": 0}, r"--total_episodes 0: at least 1"),
        (RLOOConfig, {"steps_per_generation": 0}, r"--steps_per_generation 0: at least 1"),
        (GRPOConfig, {"num_iterations": 0}, r"--num_iterations 0: at least 1"),
        (GRPOConfig, {"learning_rate": -1.0}, r"--learning_rate -1.0: must not be negative"),
        (GRPOConfig, {"weight_decay": -1.0}, r"--weight_decay -1.0: must not be negative"),
        (GRPOConfig, {"epsilon": 0.0}, r"--epsilon 0.0: must be above 0"),
        (GRPOConfig, {"adam_beta2": 1.0}, r"--adam_beta2 1.0"),
        (GRPOConfig, {"anneal": 2.0}, r"--anneal 2.0: a share"),
        (RLOOConfig, {"initial_temperature": 0.5}, r"--initial_temperature 0.5: 1 to 100"),
        (RLOOConfig, {"initial_temperature": 1000.0}, r"--initial_temperature 1000.0: 1 to 100"),
        (RLOOConfig, {"output_dir": "runs/sft"}, r"--output_dir runs/sft: is the --sft_model_path"),
    ],
)
def test_bad_options_are_refused_with_one_line(
    config_class: type[GradedConfig], bad: dict[str, Any], message: str
) -> None:
    with pytest.raises(InputError, match=message) as error:
        config_class(**bad)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("kl_coef", "rate"), [(0.0, 0.01), (0.5, 0.01), (1.0, 0.01), (4.0, 0.0025)])
def test_a_high_price_takes_small_steps(kl_coef: float, rate: float) -> None:
    assert RLOOConfig(kl_coef=kl_coef).learning_rate == GRPOConfig(kl_coef=kl_coef).learning_rate == rate
    assert RLOOConfig(kl_coef=kl_coef, learning_rate=0.3).learning_rate == 0.3


@pytest.mark.parametrize("method", METHODS)
def test_a_dry_run_and_an_occupied_directory_stop_every_method_before_it_begins(
    method: str, options: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = importlib.import_module(f"eightball_ppo.methods.{METHODS[method][0]}")
    where = module if hasattr(module, "load_task") else importlib.import_module("eightball_ppo.methods.groups")
    monkeypatch.setattr(where, "load_task", lambda *_: pytest.fail("it went on"))
    config = options(method, dry_run=True)
    with pytest.raises(DryRun, match=r"100 questions, all grades from .*: 0 calls"):
        train(method, config)
    assert not list(Path(config.output_dir).parent.iterdir())
    Path(config.output_dir).mkdir()
    (Path(config.output_dir) / "something").touch()
    with pytest.raises(InputError, match="holds files that are no run"):
        train(method, dataclasses.replace(config, dry_run=False))
