"""Dirty rows: all problems at once or skipped and counted; labels by any spelling, id, whole float or boolean."""

import json
from pathlib import Path
from typing import Any

import pytest

from conftest import write_rows
from eightball_ppo.config.data import DataConfig
from eightball_ppo.data import Questions, label_names, load_both, load_named
from eightball_ppo.data.label_values import LabelReader
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet

LABELS = LabelSet.of(["no", "yes"])


def load(path: Path, **options: Any) -> Questions:
    return load_named(DataConfig(dataset_name=str(path), **options), "train", LABELS)


def test_the_first_ten_problems_are_named_and_the_rest_counted(tmp_path: Path) -> None:
    rows: list[Any] = [{"text": f"Is it {i}?", "label": "yes"} for i in range(20)]
    rows[3]["text"], rows[5]["label"], rows[7]["text"] = " ", "maybe", 7
    lines = [json.dumps(row) for row in rows]
    lines[9] = "{"
    (tmp_path / "x.jsonl").write_text("\n".join(lines))
    with pytest.raises(InputError) as caught:
        load(tmp_path / "x.jsonl")
    problems = str(caught.value).split("; ")
    assert [problem.split(":")[1] for problem in problems if "x.jsonl:" in problem] == ["4", "6", "8", "10"]
    assert problems[-1] == "fix them, or pass --skip_bad_rows" and "\n" not in str(caught.value)
    questions = load(tmp_path / "x.jsonl", skip_bad_rows=True)
    assert len(questions) == 16 and questions.dropped == {"bad_rows": 4}
    write_rows(tmp_path / "y.jsonl", [{"text": "Is it?", "label": f"none {i}"} for i in range(25)])
    with pytest.raises(InputError, match=r"y.jsonl:10: .*; and 15 more bad rows; fix them") as caught:
        load(tmp_path / "y.jsonl")
    assert "y.jsonl:11:" not in str(caught.value)


def test_skipped_rows_are_counted_once_where_one_file_is_cut(tmp_path: Path) -> None:
    file = tmp_path / "x.csv"
    file.write_text("text,label\n" + "".join(f"Is it {i}?,yes\n" for i in range(30)) + "too,many,cells\n,yes\n")
    train, test = load_both(DataConfig(dataset_name=str(file), skip_bad_rows=True), None, LABELS)
    assert len(train) + len(test) == 30 and (train.dropped, test.dropped) == ({"bad_rows": 2}, {})
    file.write_text("text,label\n,yes\n,no\n")
    with pytest.raises(InputError, match=r"x.csv: no row is left"):
        load(file, skip_bad_rows=True)


def test_a_csv_file_of_a_spreadsheet_is_read(tmp_path: Path) -> None:
    """With a byte order mark, CRLF, a quoted line break and empty last lines."""
    content = '\ufefftext,label\r\n"Is it\r\nraining?", Yes \r\nNow?,NO\r\n,\r\n\r\n'
    (tmp_path / "x.csv").write_bytes(content.encode())
    questions = load(tmp_path / "x.csv")
    assert (list(questions.texts), questions.label_ids) == (["Is it\r\nraining?", "Now?"], [1, 0])


@pytest.mark.parametrize("sign", [";", "\t"])
def test_a_csv_file_may_have_another_delimiter(sign: str, tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(f"\ufefftext{sign}label\nIs it, or not?{sign}yes\n")
    questions = load(tmp_path / "x.csv")
    assert (list(questions.texts), questions.label_ids) == (["Is it, or not?"], [1])


@pytest.mark.parametrize(
    ("values", "ids"),
    [
        (["0", "1"], [0, 1]),
        ([0.0, 1.0], [0, 1]),
        (["0.0", "1.0"], [0, 1]),
        ([True, False], [1, 0]),
        (["True", "false"], [1, 0]),
        ([" YES", "No "], [1, 0]),
    ],
)
def test_ids_whole_floats_booleans_and_other_spellings_are_labels(values: list[Any], ids: list[int]) -> None:
    assert list(map(LabelReader(LABELS, "label").read, values)) == ids


@pytest.mark.parametrize("value", [0.5, 2, "2", "maybe", float("inf"), [1], 10**30])
def test_other_values_are_no_labels(value: Any) -> None:
    with pytest.raises(ValueError, match="in column 'label'"):
        LabelReader(LABELS, "label").read(value)


def test_names_are_read_before_ids_and_spellings_only_where_one_label_fits() -> None:
    assert [LabelReader(LabelSet.of(["1", "2", "0"]), "label").read(value) for value in (1, "2", 0.0)] == [0, 1, 2]
    both = LabelReader(LabelSet.of(["A", "a", "b"]), "label")
    assert [both.read(value) for value in ("a", "A", "B")] == [1, 0, 2]
    assert LabelReader(LABELS, "label", classes=["yes", "no"]).read(0) == 1
    with pytest.raises(ValueError, match="unknown label True"):
        both.read(True)


def test_spellings_of_one_label_are_merged_under_the_most_frequent(tmp_path: Path) -> None:
    names = ["billing issue", "Billing Issue", "Billing Issue ", "crash", "", None]
    rows: list[Any] = [{"text": f"Is it {i}?", "label": name} for i, name in enumerate(names)]
    file = write_rows(tmp_path / "x.jsonl", rows)
    config = DataConfig(dataset_name=str(file))
    assert label_names(config, "train") == ["Billing Issue", "crash"]
    questions = load_named(config, "train", LabelSet.of(label_names(config, "train")))
    assert questions.label_ids == [0, 0, 0, 1] and questions.dropped == {"unlabelled_rows": 2}


def test_numbers_are_labels_once_they_are_named(tmp_path: Path) -> None:
    rows: list[Any] = [{"text": f"Is it {i}?", "label": float(i % 2)} for i in range(4)]
    file = write_rows(tmp_path / "x.jsonl", rows)
    with pytest.raises(InputError, match=r"x.jsonl:1: column 'label' holds 0.0; name the labels with --labels"):
        label_names(DataConfig(dataset_name=str(file)), "train")
    assert load(file).label_ids == [0, 1, 0, 1]
