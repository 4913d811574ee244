"""Every method end to end on small data: a complete run whose results are those of its saved policy."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
from pytest import MonkeyPatch
from short_methods import BASELINES, METHODS, SAMPLED, Make, loaded, numbers, train

from conftest import without_figures
from eightball_ppo.config.graded import MethodConfig
from eightball_ppo.config.methods import BestOfNConfig, DistillConfig, ExactConfig, GRPOConfig, RLOOConfig
from eightball_ppo.errors import DryRun, InputError
from eightball_ppo.evaluation import evaluate
from eightball_ppo.functional import objective
from eightball_ppo.methods import best_of_n, reevaluate
from eightball_ppo.models.loading import load_classifier, predict_logits_NK
from eightball_ppo.runtime.run import read_metrics, read_results

FILES = {
    *("config.yaml", "environment.json", "metrics.jsonl", "results.json", "README.md", "model.safetensors"),
    *("config.json", "tokenizer.json", "before_after.parquet"),
}
RunOf = Callable[[str], Path]
FAST = ("rloo", "best_of_n", "exact")


@pytest.fixture(scope="session")
def run_of(options: Make, once: Callable[..., Path]) -> RunOf:
    """A short run of a method, trained by the first who asks; that of `exact` with its figures."""

    def make(method: str, directory: Path) -> None:
        with nullcontext() if method == "exact" else without_figures():
            train(method, options(method, output_dir=str(directory)))

    return lambda method: once(f"method-{method}", lambda directory: make(method, directory))


@pytest.mark.parametrize("method", [m if m in FAST else pytest.param(m, marks=pytest.mark.slow) for m in METHODS])
def test_results_are_those_of_the_saved_policy(method: str, run_of: RunOf, options: Make) -> None:
    run = run_of(method)
    figures = {"curves.png", "labels.png"} if method == "exact" else set()
    assert {path.name for path in run.iterdir()} >= FILES | figures
    results = read_results(run)
    assert (results["method"], results["seed"], results["beta"], results["score_type"]) == (method, 0, 0.1, "log_prob")
    assert results["label_noise"] == 0 and results["grader_call_budget"] is None
    policy, _ = load_classifier(str(run), "run")
    task = loaded(options("sft"))
    for split, then in results["splits"].items():
        logp_NK = predict_logits_NK(policy, task.tokens[split]).double().log_softmax(-1)
        now = evaluate(logp_NK, task.graded(split), 0.1, task.labels)
        assert set(now) == set(then)
        for name in ("expected_score", "kl", "objective", "frontier_distance", "win_rate", "tie_rate", "entropy"):
            assert now[name] == pytest.approx(then[name], rel=1e-5, abs=1e-6), name
    rows = [row for row in read_metrics(run) if row["stage"] == method]
    assert rows[-1]["exact/objective"] == pytest.approx(results["splits"]["train"]["objective"], abs=1e-5)
    if method != "best_of_n":
        assert rows[-1]["grader_calls"] == results["grader_calls"]
    card = (run / "README.md").read_text()
    assert f"- {method}\n" in card and ("- trl\n" in card) == (method in SAMPLED)
    if method in SAMPLED:  # 60 training questions with 3 labels
        calls = [row["grader_calls"] for row in rows if "episode" in row]
        assert calls == sorted(calls) and calls[0] < calls[-1] == results["grader_calls"]
        assert 100 < calls[-1] <= 180 and results["episodes"] == {"ppo": 480}.get(method, 720)  # full batches
    else:
        paid = {"sft": 0, "best_of_n": 180 + 3 * 40}.get(method, 180)  # it asks about held-out questions, too
        assert (results["grader_calls"], results["episodes"]) == (paid, 0)


@pytest.mark.slow
def test_exact_reaches_the_optimum_and_no_method_goes_further(run_of: RunOf) -> None:
    results = {method: read_results(run_of(method)) for method in METHODS}
    fraction = {method: result["splits"]["train"]["optimum_fraction"] for method, result in results.items()}
    assert fraction["exact"] > 0.995 and fraction["exact"] == max(fraction.values())
    fraction = {method: value for method, value in fraction.items() if method not in BASELINES}
    assert all(value > 0.02 for method, value in fraction.items() if method != "sft"), fraction
    assert results["sft"]["splits"] == results["sft"]["reference"] and fraction["sft"] == 0
    for record in results["sft"]["splits"].values():
        assert record["win_rate"] == pytest.approx(0.5) and record["frontier_distance"] == 0 == record["kl"]
    assert results["exact"]["splits"]["train"]["win_rate"] > 0.7
    assert results["rloo"]["generation_batch_size"] == 360 and results["rloo"]["updates"] == 2


def test_best_of_n_chooses_n_and_saves_its_exact_policy(run_of: RunOf, options: Make, no_figures: None) -> None:
    task = loaded(options("best_of_n"))
    ref_logp_NK, score_NK = task.graded("train").ref_logp_NK, task.graded("train").score_NK

    def value(n: float) -> float:
        logp_NK = objective.best_of_n_logp_NK(ref_logp_NK, score_NK, n)
        return objective.objective_N(logp_NK, ref_logp_NK, score_NK, 0.1).mean().item()

    n, best = read_results(run_of("best_of_n"))["num_samples"], max(map(value, best_of_n.CANDIDATES))
    assert n > 1 and value(n / 2) < value(n) == pytest.approx(best, abs=1e-6)
    run = train("best_of_n", options("best_of_n", num_samples=3))
    policy, _ = load_classifier(str(run), "run")
    for split in ("train", "heldout"):
        graded = task.graded(split)
        expected_NK = objective.best_of_n_logp_NK(graded.ref_logp_NK, graded.score_NK, 3)
        found_NK = predict_logits_NK(policy, task.tokens[split]).double().log_softmax(-1)
        torch.testing.assert_close(found_NK, expected_NK, atol=1e-5, rtol=1e-5)


def test_best_of_n_takes_the_smallest_of_equally_good_n() -> None:
    ref_logp_NK = torch.tensor([[0.5, 0.5]]).double().log()
    assert best_of_n.choose_n(ref_logp_NK, torch.ones(1, 2).double(), 0.1) == 1
    rare_NK = torch.tensor([[0.01, 0.99]]).log().double().log_softmax(-1)
    assert best_of_n.choose_n(rare_NK, torch.tensor([[1.0, 0.0]]).double(), 0.01) == 2048  # it misses in 1e-9
    assert best_of_n.choose_n(ref_logp_NK, torch.tensor([[1.0, 0.0]]).double(), 100.0) == 1
    extreme_NK = torch.tensor([[0.0, -200.0]]).double().log_softmax(-1)
    assert best_of_n.choose_n(extreme_NK, torch.tensor([[1.0, 0.0]]).double(), 0.1) == 1  # nothing to gain


@pytest.mark.slow
def test_a_run_loads_in_transformers_without_the_package(run_of: RunOf, tmp_path: Path) -> None:
    run, question = run_of("best_of_n"), "Will I be successful?"
    code = (
        "import sys; sys.modules['eightball_ppo'] = None\nfrom transformers import pipeline\nimport json\n"
        f"classify = pipeline('text-classification', {str(run)!r}, top_k=None, trust_remote_code=True)\n"
        f"print(json.dumps({{row['label']: row['score'] for row in classify([{question!r}])[0]}}))"
    )
    environment = {"HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"PATH": "/usr/bin:/bin", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, cwd=tmp_path)
    assert done.returncode == 0, done.stderr[-2000:]
    answer = json.loads(done.stdout.splitlines()[-1])
    policy, tokenizer = load_classifier(str(run), "run")
    p_K = policy(**tokenizer([question], return_tensors="pt")).logits.softmax(-1)[0]
    assert answer == pytest.approx({policy.config.id2label[k]: p.item() for k, p in enumerate(p_K)}, abs=1e-5)


# --- evaluation at another beta


def test_a_trained_policy_is_evaluated_at_another_beta(run_of: RunOf, options: Make, no_figures: None) -> None:
    trained = run_of("best_of_n")
    config = options("best_of_n", kl_coef=0.5, score_type="probability")
    run = reevaluate.reevaluate(config, trained)
    assert (run / "model.safetensors").read_bytes() == (trained / "model.safetensors").read_bytes()
    results, before = read_results(run), read_results(trained)
    for name in ("method", "seed", "episodes", "grader_calls", "label_noise", "num_samples", "seconds"):
        assert results[name] == before[name], name
    assert (results["beta"], results["score_type"], results["measured_from"]) == (
        0.5,
        "probability",
        "method-best_of_n",
    )
    assert "measured_from" not in before
    task = loaded(config)
    policy, _ = load_classifier(str(run), "run")
    for split, record in results["splits"].items():
        logp_NK = predict_logits_NK(policy, task.tokens[split]).double().log_softmax(-1)
        now = evaluate(logp_NK, task.graded(split), 0.5, task.labels)
        assert numbers(now) == pytest.approx(numbers(record), abs=1e-6)
        assert record["kl"] == pytest.approx(before["splits"][split]["kl"], abs=1e-6)
    (row,) = read_metrics(run)
    assert row["stage"] == "best_of_n" and row["grader_calls"] == 300
    assert row["exact/objective"] == pytest.approx(results["splits"]["train"]["objective"], abs=1e-6)


# --- bad options


@pytest.mark.parametrize(
    ("config_class", "bad", "message"),
    [
        (ExactConfig, {"label_noise": 1.5}, r"--label_noise 1.5: must be a share, 0 to 1"),
        (ExactConfig, {"grader_call_budget": 0}, r"--grader_call_budget 0: must be at least 1"),
        (ExactConfig, {"anneal_fraction": 1.1}, r"--anneal_fraction 1.1: must be a share"),
        (ExactConfig, {"adam_beta2": 1.0}, r"--adam_beta2 1.0: must be at least 0 and below 1"),
        (DistillConfig, {"target": "soft", "preset": "original"}, r"--preset original: distils hard targets"),
        (DistillConfig, {"target": "boltzmann", "kl_coef": 0.0}, r"--target boltzmann: --kl_coef must be above 0"),
        (BestOfNConfig, {"num_samples": 0}, r"--num_samples 0: must be 1 to 2\^53"),
        (RLOOConfig, {"num_generations": 1}, r"--num_generations 1: must be at least 2, to compare"),
        (GRPOConfig, {"epsilon": 0.0}, r"--epsilon 0.0: must be above 0"),
        (RLOOConfig, {"output_dir": "runs/sft"}, r"--output_dir runs/sft: is the --sft_model_path"),
    ],
)
def test_options_out_of_range_are_refused(config_class: type[MethodConfig], bad: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        config_class(**bad)


@pytest.mark.parametrize("method", ["distill", "ppo", "exact"])
def test_dry_run_and_occupied_directory_train_nothing(method: str, options: Make, monkeypatch: MonkeyPatch) -> None:
    monkeypatch.setattr("eightball_ppo.methods.run_method.load_task", lambda *_: pytest.fail("it went on"))
    config = options(method, dry_run=True)
    with pytest.raises(DryRun, match=r"100 questions, all grades from .*: 0 calls"):
        train(method, config)
    assert not list(Path(config.output_dir).parent.iterdir())
    Path(config.output_dir).mkdir()
    (Path(config.output_dir) / "something").touch()
    with pytest.raises(InputError, match=config.output_dir):
        train(method, dataclasses.replace(config, dry_run=False))
