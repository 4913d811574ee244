"""Questions of two texts in every stage: both are read, and no output shows the separator."""

import json
from pathlib import Path
from typing import Any

import encoders
import pandas as pd
import pytest

from eightball_ppo import predict
from eightball_ppo.config.methods import DistillConfig, PPOConfig
from eightball_ppo.config.stages import PredictConfig, RewardConfig, SFTConfig
from eightball_ppo.data.pairs import SEPARATOR, columns, join_pair
from eightball_ppo.errors import InputError
from eightball_ppo.methods import reward_model, sft
from eightball_ppo.methods.run_method import run_method

TOPICS = ["sea", "tower", "horse", "train", "garden", "piano", "river", "candle"]


def boolq() -> list[dict[str, Any]]:
    return [
        {"question": f"is the {topic} {word}", "passage": f"The {topic} is {state}.", "answer": word == state}
        for topic in TOPICS
        for word in ("old", "new")
        for state in ("old", "new")
    ]


def helpsteer() -> list[dict[str, Any]]:
    """Two rated responses in a row to each prompt, the second one better in every other pair."""
    rows = []
    for i, topic in enumerate(TOPICS * 4):
        for response, rating in (("It is so.", 2), (f"Here is more, {i}.", 4 if i % 2 else 0)):
            rest = {"correctness": 3, "coherence": 3, "complexity": 1, "verbosity": 2}
            rows.append({"prompt": f"What of the {topic}, {i}?", "response": response, "helpfulness": rating, **rest})
    return rows


SETS: dict[str, tuple[list[dict[str, Any]], list[str]]] = {
    "boolq": (boolq(), ["Yes", "No"]),
    "helpsteer": (helpsteer(), ["A", "B"]),
}


@pytest.mark.slow
@pytest.mark.parametrize("form", SETS)
def test_every_stage_reads_two_texts_and_shows_them_in_two_columns(
    form: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], no_figures: None
) -> None:
    rows, names = SETS[form]
    data = tmp_path / "data"
    data.mkdir()
    for split, word in (("train", "the"), ("validation", "this")):  # no question is in both
        (data / f"{split}.jsonl").write_text(
            "".join(json.dumps(row).replace("the ", f"{word} ") + "\n" for row in rows)
        )
    encoder = encoders.save("bert", tmp_path / "encoder", ("x", "y"))
    shared: dict[str, Any] = {"dataset_name": str(data), "dataset_format": form, "dataset_test_split": "validation"}
    shared["disable_tqdm"] = True
    start: dict[str, Any] = {"model_name_or_path": str(encoder), "num_train_epochs": 1, "learning_rate": 1e-4}
    sft.train(SFTConfig(output_dir="sft", **start, **shared))
    reward_model.train(RewardConfig(output_dir="reward", **start, **shared))
    shared |= {"sft_model_path": "sft", "reward_model_path": "reward", "allow_weak_grader": True, "learning_rate": 1e-4}
    shared |= {"grader": f"rule:{names[1]}"}
    run_method(DistillConfig(output_dir="distill", threshold=0.0, num_train_epochs=1, **shared))
    few: dict[str, Any] = {"total_episodes": 128, "per_device_train_batch_size": 64, "num_mini_batches": 2}
    run_method(PPOConfig(output_dir="ppo", log_completions=True, value_learning_rate=1e-4, **few, **shared))

    printed = capsys.readouterr()
    assert SEPARATOR not in printed.out + printed.err
    first = columns(["a", join_pair("b", "c")])
    assert first == {"question": ["a", "b"], "text_pair": ["", "c"]} and columns(["a"]) == {"question": ["a"]}
    table = pd.read_parquet("ppo/before_after.parquet")
    tables = [table, pd.read_parquet("distill/before_after.parquet")]
    tables += [pd.read_parquet(file) for file in Path("ppo/completions").iterdir()]
    assert len(tables) == 4
    for frame in tables:
        assert not (frame[["question", "text_pair"]] == "").any(axis=None)
        texts = frame.select_dtypes(exclude="number")
        assert not texts.apply(lambda column: column.str.contains(SEPARATOR)).any(axis=None)

    row = table.iloc[3]
    assert row["text_pair"].split()[0] in printed.out  # the table on the terminal has the second text, too
    config = PredictConfig(question=row["question"], text_pair=f" {row['text_pair']} ", model_name_or_path="ppo")
    [(_, _, probabilities)] = predict.answers(config)
    assert list(probabilities) == names
    assert probabilities[names[0]] == pytest.approx(row[f"after_probability_{names[0]}"], abs=1e-6)
    [(_, _, alone)] = predict.answers(PredictConfig(question=row["question"], model_name_or_path="ppo"))
    assert abs(alone[names[0]] - probabilities[names[0]]) > 1e-8
    predict.run(config)
    assert SEPARATOR not in capsys.readouterr().out


def test_predict_adds_a_second_text_to_every_question_and_refuses_a_blank_one(sft_run: Path, tmp_path: Path) -> None:
    (tmp_path / "questions.txt").write_text("Is it so?\nAnd now?\n")
    asked: dict[str, Any] = {"file": str(tmp_path / "questions.txt"), "model_name_or_path": str(sft_run)}
    answered = predict.answers(PredictConfig(text_pair="It is.", **asked))
    assert [question for question, _, _ in answered] == [join_pair(q, "It is.") for q in ("Is it so?", "And now?")]
    with pytest.raises(InputError, match="--text_pair: blank"):
        predict.answers(PredictConfig(text_pair=" ", **asked))
