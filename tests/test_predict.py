"""`eightball predict` reads what training reads, and writes a row for each that it read."""

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from conftest import LABELS
from eightball_ppo import predict
from eightball_ppo.config.stages import PredictConfig
from eightball_ppo.errors import InputError

FRAME = pd.DataFrame({"id": [7, 8, 9], "body": ["Will I win?", "Is it, or\nis it not?", "Will I win?"]})


def write(directory: Path, ending: str) -> Path:
    file = directory / f"in.{ending}"
    if ending == "csv":
        FRAME.to_csv(file, index=False)
    elif ending == "jsonl":
        FRAME.to_json(file, orient="records", lines=True)
    elif ending == "parquet":
        FRAME.to_parquet(file)
    else:
        file.write_text("Will I win?\n\nIs it?\n")
    return file


def read(file: Path) -> pd.DataFrame:
    if file.suffix == ".csv":
        return pd.read_csv(file)
    return pd.read_json(file, lines=True) if file.suffix == ".jsonl" else pd.read_parquet(file)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("written", ["csv", "jsonl", "parquet"])
def test_rows_of_a_file_come_out_with_answer_and_probabilities(
    ending: str, written: str, sft_run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, output = write(tmp_path, ending), tmp_path / f"out.{written}"
    config = PredictConfig(file=str(file), output=str(output), model_name_or_path=str(sft_run))
    predict.run(config)
    assert capsys.readouterr().out == f"3 answers -> {output}\n"
    frame = read(output)
    assert list(frame) == ["id", "body", "prediction", *(f"probability_{name}" for name in LABELS)]
    assert list(frame["body"]) == list(FRAME["body"]) and list(frame["id"].astype(int)) == [7, 8, 9]
    answers = predict.answers(config)  # the header is no question
    assert [(text, label) for text, label, _ in answers] == list(zip(FRAME["body"], frame["prediction"], strict=True))
    for k, name in enumerate(LABELS):
        expected = [list(probabilities.values())[k] for _, _, probabilities in answers]
        assert frame[f"probability_{name}"].tolist() == pytest.approx(expected, abs=1e-9)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([file.name, output.name])


def test_lines_of_a_text_file_and_a_question_can_be_written(sft_run: Path, tmp_path: Path) -> None:
    output = tmp_path / "out.csv"
    shared: dict[str, Any] = {"output": str(output), "model_name_or_path": str(sft_run)}
    predict.run(PredictConfig(file=str(write(tmp_path, "txt")), **shared))
    assert list(read(output)["text"]) == ["Will I win?", "Is it?"]
    predict.run(PredictConfig(question="Am I late?", **shared))
    assert list(read(output)["text"]) == ["Am I late?"]


def test_formulas_in_the_data_are_text_in_a_csv(sft_run: Path, tmp_path: Path) -> None:
    file, output = tmp_path / "in.csv", tmp_path / "out.csv"
    file.write_text('text,note\n"=HYPERLINK(""http://x"")",-5\nIs it?,@SUM(A1)\n')
    predict.run(PredictConfig(file=str(file), output=str(output), model_name_or_path=str(sft_run)))
    frame = pd.read_csv(output, dtype=str)
    assert list(frame["text"]) == ['\'=HYPERLINK("http://x")', "Is it?"]
    assert list(frame["note"]) == ["-5", "'@SUM(A1)"]


def test_bad_rows_are_refused_or_left_out(sft_run: Path, tmp_path: Path) -> None:
    file = tmp_path / "in.csv"
    file.write_text("text,id\nIs it?,1\n,2\n")
    options: dict[str, Any] = {
        "file": str(file),
        "output": str(tmp_path / "out.csv"),
        "model_name_or_path": str(sft_run),
    }
    with pytest.raises(InputError, match=r"in.csv:3: column 'text' must be a non-blank string, got ''; fix them"):
        predict.run(PredictConfig(**options))
    predict.run(PredictConfig(**options, skip_bad_rows=True))
    assert list(read(tmp_path / "out.csv")["id"]) == [1]
