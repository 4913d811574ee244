"""The stages end to end on small data: what a run directory holds, and that it can be used."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import yaml
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertForSequenceClassification, pipeline

from conftest import read_rows
from eightball_ppo import predict
from eightball_ppo.config.methods import DistillConfig, PPOConfig
from eightball_ppo.config.stages import PredictConfig, RewardConfig, SFTConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods import distill, reward_model, sft
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.runtime.run import read_metrics

EVERY_RUN = {"config.yaml", "environment.json", "metrics.jsonl", "results.json", "README.md"}
POLICY = {"model.safetensors", "config.json", "tokenizer.json", "modeling_eightball.py", "configuration_eightball.py"}
FIGURES = {"curves.png", "labels.png", "before_after.parquet"}


def results(run: Path) -> dict[str, Any]:
    return json.loads((run / "results.json").read_text())


@pytest.fixture(scope="module")
def graded(
    tmp_path_factory: pytest.TempPathFactory, small_data: Path, sft_run: Path, reward_run: Path
) -> Callable[..., Any]:
    """Settings of a graded method on the small data, with an output directory of its own."""

    def make(config_class: type, **overrides: Any) -> Any:
        settings: dict[str, Any] = {
            "output_dir": str(tmp_path_factory.mktemp("runs") / "run"),
            "dataset_name": str(small_data),
            "sft_model_path": str(sft_run),
            "reward_model_path": str(reward_run),
            "disable_tqdm": True,
        }
        if config_class is PPOConfig:
            settings |= {"total_episodes": 480, "repeats_per_epoch": 2}
        return config_class(**{**settings, **overrides})

    return make


@pytest.fixture(scope="module")
def ppo_run(graded: Callable[..., Any]) -> Path:
    return run_method(graded(PPOConfig, kl_coef=0.5))


def test_sft_run_is_whole_and_knows_no_wish(sft_run: Path) -> None:
    assert {path.name for path in sft_run.iterdir()} >= EVERY_RUN | POLICY
    record = results(sft_run)["splits"]["heldout"]
    assert record["kl"] == 0 and record["optimum_fraction"] is None
    assert sum(record["sampled_counts"].values()) == 40 and 0 <= record["prior_p_value"] <= 1
    assert any("loss" in row for row in read_metrics(sft_run))


def test_reward_run_is_a_stock_bert_with_the_temperature_folded_in(reward_run: Path) -> None:
    assert {path.name for path in reward_run.iterdir()} >= EVERY_RUN | {"model.safetensors", "config.json"}
    model = AutoModelForSequenceClassification.from_pretrained(reward_run)
    assert isinstance(model, BertForSequenceClassification) and model.config.id2label == {0: "Yes", 1: "No", 2: "Maybe"}
    record = results(reward_run)["splits"]["heldout"]
    assert set(record) >= {"accuracy", "f1", "ece_before_scaling", "ece", "expected_score", "label_histogram"}
    assert AutoTokenizer.from_pretrained(reward_run).model_max_length == 48  # the grader reads no further


def test_folding_divides_the_logits(reward_run: Path) -> None:
    model = AutoModelForSequenceClassification.from_pretrained(reward_run).eval()
    inputs = AutoTokenizer.from_pretrained(reward_run)("Will I win?", return_tensors="pt")
    before = model(**inputs).logits
    reward_model.fold_temperature(model, 2.5)
    torch.testing.assert_close(model(**inputs).logits, before / 2.5, atol=1e-5, rtol=0)


@pytest.mark.slow
def test_lora_reward_model_is_saved_merged(tmp_path: Path, small_data: Path) -> None:
    config = RewardConfig(
        output_dir=str(tmp_path / "lora"),
        dataset_name=str(small_data),
        use_peft=True,
        learning_rate=2e-3,
        num_train_epochs=8,
        disable_tqdm=True,
    )
    run = reward_model.train(config)
    assert not (run / "adapter_config.json").exists()
    model = AutoModelForSequenceClassification.from_pretrained(run)
    assert type(model) is BertForSequenceClassification and not any("lora" in name for name in model.state_dict())
    assert results(run)["splits"]["heldout"]["accuracy"] > 0.6


def test_ppo_run_is_whole(ppo_run: Path) -> None:
    assert {path.name for path in ppo_run.iterdir()} >= EVERY_RUN | POLICY | FIGURES
    record = results(ppo_run)
    assert (record["method"], record["seed"], record["beta"], record["episodes"]) == ("ppo", 0, 0.5, 480)
    assert record["grades"]["calls"] == 100  # 60 training and 40 held-out questions, each once, whatever the updates
    assert 120 < record["grader_calls"] <= 180  # answers that were drawn at least once, of 60 questions x 3 labels
    assert set(record["splits"]) == {"train", "heldout"} and record["reference"]["train"]["optimum_fraction"] == 0
    assert record["splits"]["train"]["gold_accuracy"] is None and record["splits"]["heldout"]["gold_accuracy"] > 0
    assert yaml.safe_load((ppo_run / "config.yaml").read_text())["kl_coef"] == 0.5
    rows = [row for row in read_metrics(ppo_run) if row["stage"] == "ppo" and "objective/kl" in row]
    assert [row["episode"] for row in rows] == [120, 240, 360, 480]
    assert rows[-1]["exact/objective"] == pytest.approx(record["splits"]["train"]["objective"], abs=1e-6)


def test_saved_policy_answers_like_the_record(ppo_run: Path) -> None:
    """Auto classes and `pipeline` give the probabilities of before_after.parquet."""
    table = pd.read_parquet(ppo_run / "before_after.parquet")
    assert len(table) == 40 and table["question"][0] == "Will I be successful?"
    ask = pipeline("text-classification", model=str(ppo_run), top_k=None)
    (rows,) = ask(["Will I be successful?"])
    answer = {row["label"]: row["score"] for row in rows}
    for name, probability in answer.items():
        assert probability == pytest.approx(table[f"after_probability_{name}"][0], abs=1e-5)
    counts = table[[f"after_count_{name}" for name in answer]].sum(axis=1)
    assert counts.eq(50).all()


def test_same_seed_gives_the_same_bits(graded: Callable[..., Any], ppo_run: Path) -> None:
    again = run_method(graded(PPOConfig, kl_coef=0.5))
    assert (again / "model.safetensors").read_bytes() == (ppo_run / "model.safetensors").read_bytes()

    def without_clock(run: Path) -> list[dict[str, Any]]:
        return [{k: v for k, v in row.items() if k != "eps" and "runtime" not in k} for row in read_metrics(run)]

    assert without_clock(again) == without_clock(ppo_run)


@pytest.mark.slow
def test_rule_grader_teaches_its_label_and_a_high_price_forbids_it(graded: Callable[..., Any]) -> None:
    eager = results(run_method(graded(PPOConfig, grader="rule:Yes", kl_coef=0.05, total_episodes=2400)))
    assert eager["splits"]["heldout"]["label_histogram"]["Yes"] > 0.95
    held = results(run_method(graded(PPOConfig, grader="rule:Yes", kl_coef=100.0, total_episodes=2400)))
    assert held["splits"]["heldout"]["kl"] < 0.01 and held["splits"]["train"]["kl"] < 0.01


@pytest.mark.parametrize(("score", "low", "high"), [("probability", 0, 1), ("logit_margin", -20, 20)])
def test_every_score_kind_trains(graded: Callable[..., Any], score: str, low: float, high: float) -> None:
    record = results(run_method(graded(PPOConfig, score=score, kl_coef=0.02, total_episodes=1200)))
    train, reference = record["splits"]["train"], record["reference"]["train"]
    assert low <= reference["expected_score"] < train["expected_score"] <= high
    assert train["objective"] > reference["objective"]


def test_questions_that_are_cut_are_counted_and_warned_about_once_per_file(
    graded: Callable[..., Any], caplog: pytest.LogCaptureFixture
) -> None:
    record = results(run_method(graded(PPOConfig, max_length=8, grader="rule:No", total_episodes=120)))
    warnings = [entry.getMessage() for entry in caplog.records if "were cut" in entry.getMessage()]
    assert sorted(line.split(":")[0].rsplit("/", 1)[-1] for line in warnings) == ["heldout.jsonl", "rl.jsonl"]
    assert record["truncated_questions"] == sum(int(line.split(": ")[1].split()[0]) for line in warnings) > 40


def test_distill_chooses_a_threshold_on_validation_and_reports_coverage(graded: Callable[..., Any]) -> None:
    run = run_method(graded(DistillConfig, num_train_epochs=2))
    assert {path.name for path in run.iterdir()} >= EVERY_RUN | POLICY | FIGURES
    record = results(run)
    best = max(record["thresholds_tried"], key=lambda row: row["validation_score"])
    assert record["threshold"] == best["threshold"] and 0 < record["coverage"] <= 1
    assert record["kept_questions"] == round(record["coverage"] * 60)


def test_distill_with_a_threshold_keeps_exactly_the_confident(graded: Callable[..., Any]) -> None:
    record = results(run_method(graded(DistillConfig, num_train_epochs=1, threshold=0.9)))
    assert record["threshold"] == 0.9 and record["thresholds_tried"] == []
    grades = torch.tensor([[0.89, 0.11], [0.91, 0.09], [0.2, 0.8]]).log()
    assert distill.confident_rows(grades, [0, 1, 2], 0.9) == [1] and distill.confident_rows(grades, [2, 0], 0.8) == [
        2,
        0,
    ]


def test_an_untrained_head_teaches_one_answer_for_every_question(graded: Callable[..., Any]) -> None:
    """What the original found, with steps enough to show it in the policy."""
    run = run_method(graded(DistillConfig, grader="random-head", threshold=0.4, num_train_epochs=20))
    record = results(run)["splits"]["heldout"]
    answer = max(record["grader_histogram"], key=lambda name: record["grader_histogram"][name])
    assert record["greedy_histogram"][answer] >= 0.95


def test_original_preset_has_the_originals_numbers(graded: Callable[..., Any]) -> None:
    run = run_method(graded(DistillConfig, preset="original", grader="random-head"))
    config = yaml.safe_load((run / "config.yaml").read_text())
    numbers = ("threshold", "learning_rate", "per_device_train_batch_size", "num_train_epochs")
    assert [config[name] for name in numbers] == [0.4, 2e-5, 1, 1]
    record = results(run)
    assert 0 < record["kept_questions"] <= 60
    assert max(record["splits"]["heldout"]["grader_histogram"].values()) >= 0.95  # one answer, whatever the question
    with pytest.raises(InputError, match=r"--learning_rate 0\.5: --preset original fixes it at 2e-05"):
        run_method(graded(DistillConfig, preset="original", learning_rate=0.5))


def test_predict_one_question_a_file_greedy_and_sampled(ppo_run: Path, tmp_path: Path) -> None:
    ((question, answer, probabilities),) = predict.answers(
        PredictConfig(question="Will I be successful?", model_name_or_path=str(ppo_run))
    )
    assert question == "Will I be successful?" and answer == max(probabilities, key=lambda name: probabilities[name])
    assert sum(probabilities.values()) == pytest.approx(1)
    file = tmp_path / "questions.txt"
    file.write_text("\n".join(row["question"] for row in read_rows("heldout")) + "\n\n", encoding="utf-8")
    greedy, first, again, other = (
        [
            answer
            for _, answer, _ in predict.answers(PredictConfig(file=str(file), model_name_or_path=str(ppo_run), **how))
        ]
        for how in ({}, {"sample": True}, {"sample": True}, {"sample": True, "seed": 1})
    )
    assert len(greedy) == 300 and first == again and first not in (other, greedy)


def test_whitespace_tokenizer_trains_a_policy(tmp_path: Path, small_data: Path) -> None:
    config = SFTConfig(
        output_dir=str(tmp_path / "sft"),
        dataset_name=str(small_data),
        tokenizer="whitespace",
        num_train_epochs=1,
        disable_tqdm=True,
    )
    run = sft.train(config)
    model = AutoModelForSequenceClassification.from_pretrained(run)
    assert model.config.vocab_size == len(AutoTokenizer.from_pretrained(run)) < 500


def test_defaults_train_what_is_missing_and_reuse_what_is_there(
    tmp_path: Path, small_data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shared: dict[str, Any] = {"dataset_name": str(small_data), "grader": "rule:No", "disable_tqdm": True}
    run_method(PPOConfig(**shared, total_episodes=120))
    weights = (tmp_path / "runs/sft/model.safetensors").stat()
    assert not (tmp_path / "runs/reward").exists()  # a rule needs none
    run_method(PPOConfig(**shared, total_episodes=120, output_dir="runs/again"))
    assert (tmp_path / "runs/sft/model.safetensors").stat().st_mtime_ns == weights.st_mtime_ns


def test_a_default_run_on_other_data_is_not_reused_in_silence(
    tmp_path: Path, small_data: Path, sft_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shutil.copytree(sft_run, "runs/sft")
    other = shutil.copytree(small_data, "other")
    config = PPOConfig(dataset_name=str(other), grader="rule:No", total_episodes=120, disable_tqdm=True)
    with pytest.raises(InputError, match=r"runs/sft: was trained on .*small, not on --dataset_name other"):
        run_method(config)


def test_other_labels_and_columns_need_only_flags(tmp_path: Path) -> None:
    """Two labels, other column names, no word of the eight ball."""
    data = tmp_path / "tickets"
    data.mkdir()
    for split, count in (("sft", 20), ("rl", 24), ("heldout", 12)):
        rows = [{"text": f"ticket {split} number {i}", "intent": ("buy", "sell")[i % 2]} for i in range(count)]
        (data / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    shared: dict[str, Any] = {
        "dataset_name": str(data),
        "text_column": "text",
        "label_column": "intent",
        "labels": ["buy", "sell"],
        "disable_tqdm": True,
    }
    reference = sft.train(SFTConfig(**shared, output_dir=str(tmp_path / "sft"), num_train_epochs=1))
    config = PPOConfig(
        **shared,
        sft_model_path=str(reference),
        grader="rule:sell",
        output_dir=str(tmp_path / "ppo"),
        total_episodes=960,
    )
    record = results(run_method(config))
    assert (
        record["splits"]["heldout"]["label_histogram"]["sell"]
        > record["reference"]["heldout"]["label_histogram"]["sell"]
    )
