"""A user's classifier with other labels, data in other formats, LoRA, many labels: short runs."""

import csv
import json
from pathlib import Path
from typing import Any

import encoders
import pandas as pd
import pytest
from pytest import CaptureFixture
from transformers import AutoModelForSequenceClassification

from eightball_ppo import predict
from eightball_ppo.config.methods import DistillConfig, PPOConfig, RLOOConfig
from eightball_ppo.config.stages import PredictConfig, SFTConfig
from eightball_ppo.errors import InputError
from eightball_ppo.hub import bundles
from eightball_ppo.methods import sft
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.runtime.run import read_config, read_results

INTENTS = ("billing", "outage", "praise", "sales")
WORDS = {"billing": "invoice", "outage": "crash", "praise": "thanks", "sales": "offer"}


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoders.save("distilbert", tmp_path_factory.mktemp("theirs") / "classifier", INTENTS)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    with (tmp_path / "tickets.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["id", "message", "intent"])
        for i, intent in enumerate(INTENTS * 20):
            writer.writerow([i, f'Ticket {i}, about "{WORDS[intent]}"', intent])
    return tmp_path / "tickets.csv"


def options(classifier: Path, data: Path, **others: Any) -> dict[str, Any]:
    settings: dict[str, Any] = {"sft_model_path": str(classifier), "dataset_name": str(data), "disable_tqdm": True}
    settings |= {"text_column": "message", "label_column": "intent", "dataset_test_split": "0.3"}
    return {**settings, "grader": "rule:outage", **others}


@pytest.mark.slow
@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
def test_a_finished_classifier_is_trained_by_flags_alone(
    merge: bool, classifier: Path, data: Path, tmp_path: Path, no_figures: None
) -> None:
    lora = {"use_peft": True, "merge_adapter": merge, "learning_rate": 5e-3, "total_episodes": 1200}
    run = run_method(PPOConfig(output_dir=str(tmp_path / "run"), **options(classifier, data, **lora)))
    results, record = read_results(run), read_results(run)["splits"]["heldout"]
    assert tuple(record["label_histogram"]) == INTENTS  # the model's id2label, without a flag
    assert record["label_histogram"]["outage"] > results["reference"]["heldout"]["label_histogram"]["outage"] + 0.1
    assert record["questions"] + results["splits"]["train"]["questions"] == 80 and 10 < record["questions"] < 40
    assert results["dtype"] == "float32" and read_config(run)["labels"] == list(INTENTS)
    answers = predict.answers(PredictConfig(question='Ticket 1, about "crash"', model_name_or_path=str(run)))
    assert tuple(answers[0][2]) == INTENTS
    if merge:
        assert AutoModelForSequenceClassification.from_pretrained(run).config.id2label[1] == "outage"
        assert "model.safetensors" in bundles.bundle(run, "me/x").files
    else:
        assert not (run / "config.json").exists() and "LoRA adapters" in (run / "README.md").read_text()
        assert "model.safetensors" in bundles.bundle(run, "me/x").files  # its base is on no Hub


@pytest.mark.slow
@pytest.mark.parametrize(
    ("config_class", "short"),
    [(RLOOConfig, {"total_episodes": 600}), (DistillConfig, {"num_train_epochs": 2, "threshold": 0.0})],
)
def test_other_methods_train_adapters_in_bfloat16(
    config_class: type, short: dict[str, Any], classifier: Path, data: Path, no_figures: None
) -> None:
    lora = {"use_peft": True, "learning_rate": 5e-3, "dtype": "bfloat16"}
    results = read_results(run_method(config_class(**options(classifier, data, **lora, **short))))
    assert results["dtype"] == "bfloat16" and results["splits"]["train"]["kl"] > 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"text_column": "id"}, r"column 'id' holds numbers and no text"),
        ({"label_column": "message"}, r"unknown label 'Ticket .*' in column 'message'; known: \['billing'"),
        ({"labels": ["a", "b"]}, r"unknown label|labels differ"),
        ({"dataset_test_split": "0.0001"}, r"--dataset_test_split"),
        ({"dataset_test_split": "gold"}, r"no split 'gold'"),
        ({"grader": "rule:banana"}, r"unknown label; known: \['billing'"),
    ],
)
def test_labels_and_columns_that_do_not_match_are_refused(
    change: dict[str, Any], message: str, classifier: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=message):
        run_method(PPOConfig(output_dir=str(tmp_path / "run"), **options(classifier, data, **change)))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("kept", "message"), [(3, r"labels differ: --labels has \['billing'"), (1, "at least 2")])
def test_classifier_and_grader_need_the_same_two_or_more_labels(
    kept: int, message: str, classifier: Path, data: Path, tmp_path: Path
) -> None:
    grader = encoders.save("bert", tmp_path / "grader", INTENTS[:kept])
    settings = {"grader": "bert", "reward_model_path": str(grader)} if kept > 1 else {"sft_model_path": str(grader)}
    with pytest.raises(InputError, match=message):
        run_method(PPOConfig(**options(classifier, data, **settings)))


@pytest.mark.slow
@pytest.mark.parametrize("num_labels", [2, 1000])
def test_two_labels_and_a_thousand(num_labels: int, tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    names = [f"intent {i}" for i in range(num_labels)]
    rows = [{"question": f"Is it number {i}?", "answer": names[i % num_labels]} for i in range(max(40, num_labels))]
    pd.DataFrame(rows).to_parquet(tmp_path / "sft.parquet")
    others = [{**row, "question": row["question"].replace("Is", "Was")} for row in rows]
    pd.DataFrame(others).to_parquet(tmp_path / "heldout.parquet")
    (tmp_path / "rl.jsonl").write_text("".join(json.dumps({"question": row["question"]}) + "\n" for row in rows[:60]))
    shared: dict[str, Any] = {"dataset_name": str(tmp_path), "disable_tqdm": True}
    sft.train(SFTConfig(output_dir="sft", num_train_epochs=1, per_device_train_batch_size=64, **shared))
    shared |= {"sft_model_path": "sft", "grader": f"rule:{names[1]}"}
    results = read_results(run_method(PPOConfig(output_dir="ppo", total_episodes=1200, **shared)))
    assert set(results["splits"]["train"]["label_histogram"]) == set(names)
    distilled = run_method(DistillConfig(output_dir="distill", num_train_epochs=5, threshold=0.0, **shared))
    assert read_results(distilled)["splits"]["train"]["greedy_histogram"][names[1]] == 1.0
    assert len(capsys.readouterr().out) < 20_000  # not a thousand columns
