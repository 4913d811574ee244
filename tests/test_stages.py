"""The stages end to end on small data: SFT, reward model, distillation, prediction, and what PPO trains upstream."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from pytest import LogCaptureFixture
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertForSequenceClassification,
    pipeline,
)

from conftest import read_rows
from eightball_ppo import predict
from eightball_ppo.config.methods import DistillConfig, PPOConfig
from eightball_ppo.config.stages import PredictConfig, RewardConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods import distill, reward_model
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models.packaged import minilm_dir
from eightball_ppo.models.precision import fold_temperature
from eightball_ppo.runtime.run import read_metrics, read_results

pytestmark = pytest.mark.usefixtures("no_figures")
EVERY_RUN = {"config.yaml", "environment.json", "metrics.jsonl", "results.json", "README.md"}
POLICY = {"model.safetensors", "config.json", "tokenizer.json", "modeling_eightball.py", "configuration_eightball.py"}
FIGURES = {"curves.png", "labels.png", "before_after.parquet"}


@pytest.fixture
def graded(small_data: Path, sft_run: Path, reward_run: Path) -> Callable[..., Any]:
    """Options of a method on the small data with the reward model as grader."""

    def make(config_class: type, **overrides: Any) -> Any:
        settings = {"dataset_name": small_data, "sft_model_path": sft_run, "reward_model_path": reward_run}
        return config_class(**{name: str(path) for name, path in settings.items()}, disable_tqdm=True, **overrides)

    return make


def test_sft_run_is_complete_and_uses_no_gold_label(sft_run: Path) -> None:
    assert {path.name for path in sft_run.iterdir()} >= EVERY_RUN | POLICY
    record = read_results(sft_run)["splits"]["heldout"]
    assert record["kl"] == 0 and record["optimum_fraction"] is None
    assert sum(record["sampled_counts"].values()) == 40 and 0 <= record["prior_p_value"] <= 1
    assert any("loss" in row for row in read_metrics(sft_run))


def test_the_reward_model_keeps_the_lower_half_of_its_encoder(reward_run: Path) -> None:
    trained = AutoModelForSequenceClassification.from_pretrained(reward_run).bert
    base = AutoModel.from_pretrained(str(minilm_dir()))
    same = {name for name, weight in base.named_parameters() if torch.equal(trained.get_parameter(name), weight)}
    parts = ("embeddings.", "encoder.layer.0.", "encoder.layer.1.", "encoder.layer.2.")
    assert {name for name, _ in base.named_parameters() if name.startswith(parts)} <= same
    assert "encoder.layer.3.output.dense.weight" not in same


def test_reward_run_is_a_stock_bert_and_temperature_scaling_divides_its_logits(reward_run: Path) -> None:
    assert {path.name for path in reward_run.iterdir()} >= EVERY_RUN | {"model.safetensors", "config.json"}
    model = AutoModelForSequenceClassification.from_pretrained(reward_run).eval()
    assert isinstance(model, BertForSequenceClassification) and model.config.id2label == {0: "Yes", 1: "No", 2: "Maybe"}
    record = read_results(reward_run)["splits"]["heldout"]
    assert set(record) >= {"accuracy", "f1", "ece_before_scaling", "ece", "expected_score", "label_histogram"}
    tokenizer = AutoTokenizer.from_pretrained(reward_run)
    assert tokenizer.model_max_length == 48
    inputs = tokenizer("Will I win?", return_tensors="pt")
    before = model(**inputs).logits
    fold_temperature(model, 2.5, "--reward_model_path")
    torch.testing.assert_close(model(**inputs).logits, before / 2.5, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_lora_reward_model_is_saved_merged(tmp_path: Path, small_data: Path) -> None:
    options: dict[str, Any] = {"learning_rate": 2e-3, "num_train_epochs": 8, "use_peft": True, "disable_tqdm": True}
    run = reward_model.train(RewardConfig(output_dir=str(tmp_path / "lora"), dataset_name=str(small_data), **options))
    assert not (run / "adapter_config.json").exists()
    model = AutoModelForSequenceClassification.from_pretrained(run)
    assert type(model) is BertForSequenceClassification and not any("lora" in name for name in model.state_dict())
    assert read_results(run)["splits"]["heldout"]["accuracy"] > 0.6


def test_ppo_run_is_complete(ppo_run: Path) -> None:
    assert {path.name for path in ppo_run.iterdir()} >= EVERY_RUN | POLICY | FIGURES
    results = read_results(ppo_run)
    assert (results["method"], results["seed"], results["beta"], results["episodes"]) == ("ppo", 0, 0.1, 240)
    assert results["grades"]["calls"] == 100  # 60 training and 40 held-out questions, each once
    assert "gold_accuracy" not in results["splits"]["train"] and results["splits"]["heldout"]["gold_accuracy"] > 0
    assert yaml.safe_load((ppo_run / "config.yaml").read_text())["kl_coef"] == 0.1
    rows = [row for row in read_metrics(ppo_run) if row["stage"] == "ppo" and "objective/kl" in row]
    assert rows[-1]["episode"] == 240
    assert rows[-1]["exact/objective"] == pytest.approx(results["splits"]["train"]["objective"], abs=1e-6)


def test_saved_policy_gives_the_probabilities_of_the_before_after_table(ppo_run: Path) -> None:
    table = pd.read_parquet(ppo_run / "before_after.parquet")
    assert len(table) == 40 and table["question"][0] == "Will I be successful?"
    (rows,) = pipeline("text-classification", model=str(ppo_run), top_k=None)(["Will I be successful?"])
    for row in rows:
        assert row["score"] == pytest.approx(table[f"after_probability_{row['label']}"][0], abs=1e-5)
    assert table[[f"after_count_{row['label']}" for row in rows]].sum(axis=1).eq(50).all()


@pytest.mark.slow
@pytest.mark.parametrize(("score_type", "low", "high"), [("probability", 0, 1), ("logit_margin", -20, 20)])
def test_ppo_improves_every_score_type(graded: Callable[..., Any], score_type: str, low: float, high: float) -> None:
    options = {"score_type": score_type, "kl_coef": 0.02, "total_episodes": 1200, "repeats_per_epoch": 2}
    results = read_results(run_method(graded(PPOConfig, **options)))
    train, reference = results["splits"]["train"], results["reference"]["train"]
    assert low <= reference["expected_score"] < train["expected_score"] <= high
    assert train["objective"] > reference["objective"]


def test_truncated_questions_are_counted_and_warned_about(ruled: dict[str, Any], caplog: LogCaptureFixture) -> None:
    results = read_results(run_method(DistillConfig(**ruled, max_length=8, num_train_epochs=1, threshold=0.0)))
    warnings = [entry.getMessage() for entry in caplog.records if "were cut" in entry.getMessage()]
    assert sorted(line.split(":")[0].rsplit("/", 1)[-1] for line in warnings) == ["heldout.jsonl", "rl.jsonl"]
    assert results["truncated_questions"] == sum(int(line.split(": ")[1].split()[0]) for line in warnings) > 40


def test_a_threshold_keeps_the_confident_grades() -> None:
    grades = torch.tensor([[0.89, 0.11], [0.91, 0.09], [0.2, 0.8]]).log()
    assert distill.confident_rows(grades, [0, 1, 2], 0.9) == [1] and distill.confident_rows(grades, [2, 0], 0.8) == [
        2,
        0,
    ]


@pytest.mark.slow
def test_original_preset_has_the_options_of_the_original(graded: Callable[..., Any]) -> None:
    run = run_method(graded(DistillConfig, preset="original", grader="random-head"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    names = ("threshold", "learning_rate", "per_device_train_batch_size", "num_train_epochs")
    assert [config[name] for name in names] == [0.4, 2e-5, 1, 1]
    results = read_results(run)
    assert 0 < results["kept_questions"] <= 60
    assert max(results["splits"]["heldout"]["grader_histogram"].values()) >= 0.95  # one answer to every question
    with pytest.raises(InputError, match=r"--learning_rate 0\.5: --preset original fixes it at 2e-05"):
        graded(DistillConfig, preset="original", learning_rate=0.5)


def test_predict_answers_a_question_or_a_file_greedily_or_by_sampling(ppo_run: Path, tmp_path: Path) -> None:
    asked = PredictConfig(question="Will I be successful?", model_name_or_path=str(ppo_run))
    ((question, answer, probabilities),) = predict.answers(asked)
    assert question == "Will I be successful?" and answer == max(probabilities, key=lambda name: probabilities[name])
    assert sum(probabilities.values()) == pytest.approx(1)
    file = tmp_path / "questions.txt"
    file.write_text("\n".join(row["question"] for row in read_rows("heldout")) + "\n\n", encoding="utf-8")

    def answers(**how: Any) -> list[str]:
        config = PredictConfig(file=str(file), model_name_or_path=str(ppo_run), **how)
        return [answer for _, answer, _ in predict.answers(config)]

    greedy, sampled = answers(), answers(sample=True)
    assert len(greedy) == 600 and sampled == answers(sample=True)
    assert sampled not in (greedy, answers(sample=True, seed=1))


@pytest.mark.slow
def test_missing_upstream_models_are_trained_and_existing_ones_reused(small_data: Path) -> None:
    shared: dict[str, Any] = {"dataset_name": str(small_data), "grader": "rule:No", "disable_tqdm": True}
    run_method(PPOConfig(**shared, total_episodes=120))
    trained_at = Path("runs/sft/model.safetensors").stat().st_mtime_ns
    assert not Path("runs/reward").exists()  # a rule needs none
    run_method(PPOConfig(**shared, total_episodes=120, output_dir="runs/again"))
    assert Path("runs/sft/model.safetensors").stat().st_mtime_ns == trained_at


def test_an_upstream_model_of_other_data_is_refused(small_data: Path, sft_run: Path) -> None:
    shutil.copytree(sft_run, "runs/sft")
    other = shutil.copytree(small_data, "other")
    with pytest.raises(InputError, match=r"runs/sft: was trained on .*small, not on --dataset_name other"):
        run_method(PPOConfig(dataset_name=str(other), grader="rule:No", total_episodes=120, disable_tqdm=True))
