"""A finished classifier with labels of its own, data in other formats, LoRA, many labels: whole runs, small ones."""

import csv
import json
from pathlib import Path
from typing import Any

import encoders
import pandas as pd
import pytest
from transformers import AutoModelForSequenceClassification, AutoTokenizer

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


def write_csv(file: Path, rows: int = 80) -> Path:
    with file.open("w", newline="", encoding="utf-8") as opened:
        writer = csv.writer(opened)
        writer.writerow(["id", "message", "intent"])
        for i in range(rows):
            intent = INTENTS[i % len(INTENTS)]
            writer.writerow([i, f'Ticket {i}, about "{WORDS[intent]}"', intent])
    return file


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return encoders.save("distilbert", tmp_path_factory.mktemp("theirs") / "classifier", INTENTS)


def options(classifier: Path, data: Path, directory: Path, **others: Any) -> dict[str, Any]:
    return {
        "sft_model_path": str(classifier),
        "dataset_name": str(data),
        "text_column": "message",
        "label_column": "intent",
        "dataset_test_split": "0.3",
        "grader": "rule:outage",
        "grade_store": str(directory / "grades.sqlite3"),
        "disable_tqdm": True,
        **others,
    }


@pytest.mark.parametrize("merge", [False, True], ids=["adapter", "merged"])
def test_a_finished_classifier_is_trained_by_flags_alone(classifier: Path, tmp_path: Path, merge: bool) -> None:
    data = write_csv(tmp_path / "tickets.csv")
    run = run_method(
        PPOConfig(
            output_dir=str(tmp_path / "run"),
            use_peft=True,
            merge_adapter=merge,
            learning_rate=5e-3,
            total_episodes=2400,
            **options(classifier, data, tmp_path),
        )
    )
    results, record = read_results(run), read_results(run)["splits"]["heldout"]
    assert tuple(record["label_histogram"]) == INTENTS  # the model's id2label, without a flag
    assert record["label_histogram"]["outage"] > results["reference"]["heldout"]["label_histogram"]["outage"] + 0.2
    assert record["questions"] + results["splits"]["train"]["questions"] == 80 and 10 < record["questions"] < 40
    assert results["dtype"] == "float32" and read_config(run)["labels"] == list(INTENTS)
    answers = predict.answers(PredictConfig(question='Ticket 1, about "crash"', model_name_or_path=str(run)))
    assert tuple(answers[0][2]) == INTENTS
    if merge:
        assert AutoModelForSequenceClassification.from_pretrained(run).config.id2label[1] == "outage"
        assert "model.safetensors" in bundles.bundle(run, "me/x").files
    else:
        assert not (run / "config.json").exists() and "LoRA adapters" in (run / "README.md").read_text()
        with pytest.raises(
            InputError, match=r"adapters without their base model; train it with --merge_adapter"
        ):
            bundles.bundle(run, "me/x")


def test_every_method_takes_adapters(classifier: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "tickets.csv")
    own = options(classifier, data, tmp_path, use_peft=True, learning_rate=5e-3, dtype="bfloat16")
    for name, made in (
        ("rloo", lambda out: run_method(RLOOConfig(output_dir=out, total_episodes=600, **own))),
        ("distill", lambda out: run_method(DistillConfig(output_dir=out, num_train_epochs=2, threshold=0.0, **own))),
    ):
        results = read_results(made(str(tmp_path / name)))
        assert results["dtype"] == "bfloat16" and results["splits"]["train"]["kl"] > 1e-4, name


def test_labels_and_columns_that_do_not_fit_are_one_line(classifier: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "tickets.csv")
    base = {**options(classifier, data, tmp_path), "output_dir": str(tmp_path / "run")}
    for change, message in (
        ({"text_column": "id"}, r"column 'id' holds numbers and no text, such as '0'"),
        ({"label_column": "message"}, r"unknown label 'Ticket .*' in column 'message'; known: \['billing'"),
        ({"labels": ["a", "b"]}, r"unknown label|labels differ"),
        ({"dataset_test_split": "0.0001"}, r"cannot be split with --dataset_test_split"),
        ({"dataset_test_split": "heldout"}, r"no split 'heldout', one file is one split"),
        ({"grader": "rule:banana"}, r"unknown label; known: \['billing'"),
    ):
        with pytest.raises(InputError, match=message):
            run_method(PPOConfig(**{**base, **change}))
    assert not (tmp_path / "run").exists()


def test_a_grader_with_another_number_of_labels_is_refused(classifier: Path, tmp_path: Path) -> None:
    data = write_csv(tmp_path / "tickets.csv")
    other = encoders.save("bert", tmp_path / "grader", INTENTS[:-1])
    own = {**options(classifier, data, tmp_path), "grader": "bert", "reward_model_path": str(other)}
    with pytest.raises(
        InputError, match=r"labels differ: --labels has \['billing'.*, --reward_model_path .*grader has"
    ):
        run_method(PPOConfig(output_dir=str(tmp_path / "run"), **own))


def test_a_classifier_with_a_byte_level_tokenizer(tmp_path: Path) -> None:
    """RoBERTa's kind: no word pieces, no token types, padding is id 1, and the tokenizer knows no limit."""
    data = write_csv(tmp_path / "tickets.csv")
    text = 'Ticket 1, über "crash" 🙂'
    tokenizer = encoders.byte_level([*data.read_text().splitlines(), text])
    theirs = encoders.save("roberta", tmp_path / "roberta", INTENTS, own=tokenizer)
    own = options(theirs, data, tmp_path, use_peft=True, merge_adapter=True, total_episodes=600)
    run = run_method(PPOConfig(output_dir=str(tmp_path / "run"), **own))
    assert read_results(run)["splits"]["train"]["kl"] > 1e-3
    stock, own_tokenizer = AutoModelForSequenceClassification.from_pretrained(run), AutoTokenizer.from_pretrained(run)
    assert own_tokenizer.decode(own_tokenizer(text)["input_ids"], skip_special_tokens=True) == text
    p_K = stock(**own_tokenizer(text, return_tensors="pt")).logits.softmax(-1)[0]
    ((_, _, answered),) = predict.answers(PredictConfig(question=text, model_name_or_path=str(run)))
    assert list(answered.values()) == pytest.approx(p_K.tolist(), abs=1e-5)


def test_a_model_with_one_label_is_refused(tmp_path: Path) -> None:
    theirs = encoders.save("bert", tmp_path / "one", INTENTS[:1])
    own = options(theirs, write_csv(tmp_path / "tickets.csv"), tmp_path)
    with pytest.raises(InputError, match=r"at least 2 are needed, got \['billing'\]"):
        run_method(PPOConfig(output_dir=str(tmp_path / "run"), **own))


@pytest.mark.parametrize("num_labels", [2, 1000])
def test_two_labels_and_a_thousand(num_labels: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = [f"intent {i}" for i in range(num_labels)]
    rows = [{"question": f"Is it number {i}?", "answer": names[i % num_labels]} for i in range(max(40, num_labels))]
    for split in ("sft", "heldout"):
        frame = pd.DataFrame(rows)
        frame.to_parquet(tmp_path / f"{split}.parquet")
    (tmp_path / "rl.jsonl").write_text("".join(json.dumps({"question": row["question"]}) + "\n" for row in rows[:60]))
    shared: dict[str, Any] = {"dataset_name": str(tmp_path), "disable_tqdm": True}
    made = sft.train(
        SFTConfig(output_dir=str(tmp_path / "sft"), num_train_epochs=1, per_device_train_batch_size=64, **shared)
    )
    config: dict[str, Any] = {
        "sft_model_path": str(made),
        "grader": f"rule:{names[1]}",
        "grade_store": str(tmp_path / "g.sqlite3"),
    }
    run = run_method(PPOConfig(output_dir=str(tmp_path / "ppo"), total_episodes=1200, **config, **shared))
    results = read_results(run)
    assert set(results["splits"]["train"]["label_histogram"]) == set(names)
    distilled = run_method(
        DistillConfig(output_dir=str(tmp_path / "distill"), num_train_epochs=5, threshold=0.0, **config, **shared)
    )
    assert read_results(distilled)["splits"]["train"]["greedy_histogram"][names[1]] == 1.0
    assert len(capsys.readouterr().out) < 20_000  # nobody reads a thousand columns
