"""Every method end to end on small data: a whole run that says what its saved policy does; prices, options."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from short_methods import METHODS, SAMPLED, WHOLE_ROWS, Make, loaded, numbers, train

from eightball_ppo.config.graded import MethodConfig
from eightball_ppo.config.methods import (
    BestOfNConfig,
    DistillConfig,
    ExactConfig,
    GRPOConfig,
    ReferenceConfig,
    RLOOConfig,
)
from eightball_ppo.errors import DryRun, InputError
from eightball_ppo.evaluation import evaluate
from eightball_ppo.functional import objective
from eightball_ppo.methods import best_of_n, reevaluate
from eightball_ppo.models.loading import load_classifier, predict_logits_NK
from eightball_ppo.runtime.run import read_metrics, read_results

FILES = {
    *("config.yaml", "environment.json", "metrics.jsonl", "results.json", "README.md", "model.safetensors"),
    *("config.json", "tokenizer.json", "curves.png", "labels.png", "before_after.parquet"),
}


@pytest.fixture(scope="module")
def runs(options: Make) -> dict[str, Path]:
    """A run of every method."""
    return {method: train(method, options(method)) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_a_run_is_whole_and_its_saved_policy_gives_its_results_back(
    method: str, runs: dict[str, Path], options: Make
) -> None:
    run = runs[method]
    assert {path.name for path in run.iterdir()} >= FILES
    results = read_results(run)
    assert (results["method"], results["seed"], results["beta"], results["score_type"]) == (method, 0, 0.1, "log_prob")
    assert results["label_noise"] == 0 and results["grader_call_budget"] is None
    policy, _ = load_classifier(str(run), "run")
    ground = loaded(options("sft"))
    for split, then in results["splits"].items():
        logp_NK = predict_logits_NK(policy, ground.tokens[split]).double().log_softmax(-1)
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
    assert results["distill_boltzmann"]["target"] == "boltzmann" and results["best_of_n"]["num_samples"] >= 1
    assert results["exact"]["anneal_fraction"] == 0.8


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
    assert read_results(runs["best_of_n"])["num_samples"] == max(value, key=lambda n: value[n]) > 1
    run = train("best_of_n", options("best_of_n", num_samples=3))
    assert read_results(run)["num_samples"] == 3
    policy, _ = load_classifier(str(run), "run")
    for split in ("train", "heldout"):  # held-out questions are asked, too
        own = ground.graded(split)
        expected_NK = objective.best_of_n_logp_NK(own.ref_logp_NK, own.score_NK, 3)
        found_NK = predict_logits_NK(policy, ground.tokens[split]).double().log_softmax(-1)
        torch.testing.assert_close(found_NK, expected_NK, atol=1e-5, rtol=1e-5)


def test_a_tie_among_numbers_of_answers_goes_to_the_smaller() -> None:
    ref_logp_NK = torch.tensor([[0.5, 0.5]]).double().log()
    assert best_of_n.choose_n(ref_logp_NK, torch.ones(1, 2).double(), 0.1) == 1
    rare_NK = torch.tensor([[0.01, 0.99]]).log().double().log_softmax(-1)
    assert best_of_n.choose_n(rare_NK, torch.tensor([[1.0, 0.0]]).double(), 0.01) == 128
    assert best_of_n.choose_n(ref_logp_NK, torch.tensor([[1.0, 0.0]]).double(), 100.0) == 1
    extreme_NK = torch.tensor([[0.0, -200.0]]).double().log_softmax(-1)
    assert best_of_n.choose_n(extreme_NK, torch.tensor([[1.0, 0.0]]).double(), 0.1) == 1  # nothing to gain


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
        found[method] = predict_logits_NK(policy, ground.tokens["train"]).double().log_softmax(-1)
    for method, other in (("distill_soft", "distill_boltzmann"), ("distill_boltzmann", "distill_soft")):
        cross = {own: -(aim[method].exp() * logp_NK).sum(-1).mean() for own, logp_NK in found.items()}
        assert cross[method] < cross[other]


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


# --- measuring at another price


def test_a_trained_policy_is_measured_at_another_price(runs: dict[str, Path], options: Make, no_figures: None) -> None:
    config = options("distill_soft", kl_coef=0.5, score_type="probability")
    run = reevaluate.reevaluate(config, runs["distill_soft"])
    assert (run / "model.safetensors").read_bytes() == (runs["distill_soft"] / "model.safetensors").read_bytes()
    results, before = read_results(run), read_results(runs["distill_soft"])
    for name in ("method", "seed", "episodes", "grader_calls", "label_noise", "target", "coverage", "seconds"):
        assert results[name] == before[name], name
    assert (results["beta"], results["score_type"], results["measured_from"]) == (0.5, "probability", "distill_soft")
    assert "measured_from" not in before
    ground = loaded(config)
    policy, _ = load_classifier(str(run), "run")
    for split, record in results["splits"].items():
        logp_NK = predict_logits_NK(policy, ground.tokens[split]).double().log_softmax(-1)
        now = evaluate(logp_NK, ground.graded(split), 0.5, ground.labels)
        assert numbers(now) == pytest.approx(numbers(record), abs=1e-6)
        assert record["kl"] == pytest.approx(before["splits"][split]["kl"], abs=1e-6)
    (row,) = read_metrics(run)
    assert row["stage"] == "distill_soft" and row["grader_calls"] == 180
    assert row["exact/objective"] == pytest.approx(results["splits"]["train"]["objective"], abs=1e-6)


def test_what_cannot_be_measured_is_refused(runs: dict[str, Path], options: Make, tmp_path: Path) -> None:
    damaged = shutil.copytree(runs["distill_soft"], tmp_path / "damaged")
    results = read_results(damaged)
    took = "lack the cost of its training"
    for name, why in (("episodes", took), ("grader_calls", took), ("method", "missing or damaged")):
        (damaged / "results.json").write_text(json.dumps({k: v for k, v in results.items() if k != name}))
        with pytest.raises(InputError, match=why):
            reevaluate.reevaluate(options("distill_soft"), damaged)
    other = shutil.copytree(runs["distill_soft"], tmp_path / "other")
    settings = json.loads((other / "config.json").read_text())
    settings["id2label"] = {"0": "No", "1": "Yes", "2": "Maybe"}
    settings["label2id"] = {"No": 0, "Yes": 1, "Maybe": 2}
    (other / "config.json").write_text(json.dumps(settings))
    with pytest.raises(InputError, match=r"labels differ: --labels has .*, run .*other has"):
        reevaluate.reevaluate(options("distill_soft"), other)


# --- bad options


@pytest.mark.parametrize(
    ("config_class", "bad", "message"),
    [
        (ReferenceConfig, {"kl_coef": -0.1}, r"--kl_coef -0.1: must not be negative"),
        (ExactConfig, {"kl_coef": float("nan")}, r"--kl_coef nan: must be a finite number"),
        (ExactConfig, {"label_noise": 1.5}, r"--label_noise 1.5: a share, 0 to 1"),
        (ExactConfig, {"label_noise": -0.1}, r"--label_noise -0.1: a share"),
        (ExactConfig, {"grader_call_budget": 0}, r"--grader_call_budget 0: at least 1"),
        (ExactConfig, {"anneal_fraction": 1.1}, r"--anneal_fraction 1.1: a share"),
        (ExactConfig, {"anneal_fraction": -0.1}, r"--anneal_fraction -0.1: a share"),
        (ExactConfig, {"adam_beta2": 1.0}, r"--adam_beta2 1.0: at least 0 and below 1"),
        (DistillConfig, {"adam_beta2": -0.1}, r"--adam_beta2 -0.1: at least 0"),
        (DistillConfig, {"target": "soft", "preset": "original"}, r"--preset original: distils hard targets"),
        (DistillConfig, {"target": "boltzmann", "kl_coef": 0.0}, r"--target boltzmann: --kl_coef must be above 0"),
        (DistillConfig, {"threshold": 1.2}, r"--threshold 1.2: a probability"),
        (BestOfNConfig, {"num_samples": 0}, r"--num_samples 0: 1 to 1024"),
        (BestOfNConfig, {"num_samples": 1025}, r"--num_samples 1025: 1 to 1024"),
        (RLOOConfig, {"num_generations": 1}, r"--num_generations 1: at least 2, to compare"),
        (RLOOConfig, {"total_episodes": 0}, r"--total_episodes 0: at least 1"),
        (RLOOConfig, {"steps_per_generation": 0}, r"--steps_per_generation 0: at least 1"),
        (GRPOConfig, {"num_iterations": 0}, r"--num_iterations 0: at least 1"),
        (GRPOConfig, {"learning_rate": -1.0}, r"--learning_rate -1.0: must not be negative"),
        (GRPOConfig, {"weight_decay": -1.0}, r"--weight_decay -1.0: must not be negative"),
        (GRPOConfig, {"epsilon": 0.0}, r"--epsilon 0.0: must be above 0"),
        (GRPOConfig, {"adam_beta2": 1.0}, r"--adam_beta2 1.0"),
        (GRPOConfig, {"anneal_fraction": 2.0}, r"--anneal_fraction 2.0: a share"),
        (RLOOConfig, {"output_dir": "runs/sft"}, r"--output_dir runs/sft: is the --sft_model_path"),
    ],
)
def test_bad_options_are_refused_with_one_line(
    config_class: type[MethodConfig], bad: dict[str, Any], message: str
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
    monkeypatch.setattr("eightball_ppo.methods.run_method.load_task", lambda *_: pytest.fail("it went on"))
    config = options(method, dry_run=True)
    with pytest.raises(DryRun, match=r"100 questions, all grades from .*: 0 calls"):
        train(method, config)
    assert not list(Path(config.output_dir).parent.iterdir())
    Path(config.output_dir).mkdir()
    (Path(config.output_dir) / "something").touch()
    with pytest.raises(InputError, match="holds files that are no run"):
        train(method, dataclasses.replace(config, dry_run=False))
