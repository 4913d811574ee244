"""Every format of data set gives the same questions; bad files are refused with file, row and value."""

import json
import re
import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import datasets
import numpy as np
import pyarrow as pa
import pytest

from eightball_ppo.config.data import DataConfig
from eightball_ppo.data import Questions, label_names, load_both, load_named, load_split, sources, texts
from eightball_ppo.data.pairs import join_pair
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet

ROWS = [{"text": f'Is it {i}, or "so"?\nReally?', "more": f"Passage {i}.", "label": "ab"[i % 2]} for i in range(40)]
LABELS = LabelSet.of(["a", "b"])
TABLE = datasets.Dataset.from_list(ROWS)
CLASSES = TABLE.cast_column("label", datasets.ClassLabel(names=["b", "a"]))


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def jsonl(root: Path) -> Path:
    return write_jsonl(root / "all.jsonl", ROWS)


def write_csv(root: Path) -> Path:
    TABLE.to_csv(root / "all.csv")
    return root / "all.csv"


def parquet(root: Path) -> Path:
    TABLE.to_parquet(root / "train.parquet")
    return root / "train.parquet"


def class_parquet(root: Path) -> Path:
    CLASSES.to_parquet(root / "all.parquet")
    return root / "all.parquet"


def directory(root: Path) -> Path:
    return parquet(root).parent


def saved(root: Path) -> Path:
    CLASSES.save_to_disk(root / "saved")
    return root / "saved"


def saved_splits(root: Path) -> Path:
    datasets.DatasetDict({"train": TABLE, "test": TABLE}).save_to_disk(root / "saved")
    return root / "saved"


def of(path: Path, **options: Any) -> DataConfig:
    """Options of a data set that is not cut."""
    named = {"text_column": "text", "label_column": "label", "dataset_test_split": "elsewhere"}
    return DataConfig(**{"dataset_name": str(path), **named, **options})


KINDS = [jsonl, write_csv, parquet, class_parquet, directory, saved, saved_splits]


@pytest.mark.parametrize("kind", KINDS)
def test_every_format_gives_the_same_questions(kind: Callable[[Path], Path], tmp_path: Path) -> None:
    config = of(kind(tmp_path), text_pair_column="more")
    questions = load_split(config, "train", LABELS)
    assert list(questions.texts) == [join_pair(row["text"], row["more"]) for row in ROWS]
    assert list(questions.label_ids or []) == [0, 1] * 20
    names = label_names(config, "train")
    assert names == (["b", "a"] if kind in (class_parquet, saved) else ["a", "b"])


def test_a_fraction_holds_the_same_questions_out_of_every_split_and_loses_none(tmp_path: Path) -> None:
    write_jsonl(tmp_path / "sft.jsonl", ROWS)
    write_jsonl(tmp_path / "rl.jsonl", [*ROWS[::-1], {**ROWS[0], "text": ROWS[0]["text"].upper()}])
    sides: dict[str, list[Questions]] = {}
    for split in ("sft", "rl"):
        config = of(tmp_path, dataset_train_split=split, dataset_test_split="0.3")
        sides[split] = [load_split(config, "train"), load_split(config, "test")]
    assert {*sides["sft"][1].texts} == {t for t in sides["rl"][1].texts if t != ROWS[0]["text"].upper()}
    assert sorted([*sides["sft"][0].texts, *sides["sft"][1].texts]) == sorted(row["text"] for row in ROWS)
    assert len({ROWS[0]["text"] in sides["rl"][1].texts, ROWS[0]["text"].upper() in sides["rl"][1].texts}) == 1


def test_only_held_out_rows_need_labels_where_training_reads_none(tmp_path: Path) -> None:
    config = of(write_jsonl(tmp_path / "all.jsonl", ROWS), dataset_test_split="0.3")
    heldout = [*load_split(config, "test").texts]
    bare = [row if row["text"] in heldout else {"text": row["text"]} for row in ROWS]
    write_jsonl(tmp_path / "all.jsonl", bare)
    train, test = load_both(config, None, LABELS)
    assert train.label_ids is None and test.label_ids == load_split(config, "test", LABELS).label_ids
    assert list(test.texts) == heldout and len(train) + len(test) == len(ROWS)
    with pytest.raises(InputError, match="no row has a label in column 'label'"):
        load_split(config, "train", LABELS)
    with pytest.raises(InputError, match="40 questions cannot be split with --dataset_test_split 1e-09"):
        load_both(of(tmp_path / "all.jsonl", dataset_test_split="1e-9"), None, None)


@pytest.mark.slow
def test_both_sides_of_a_fraction_are_read_in_one_pass_into_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, length = 12_000, 400
    rain = "Will it rain? " * (length // 14)
    file = write_jsonl(tmp_path / "all.jsonl", [{"text": f"{i} {rain}", "label": "a"} for i in range(rows)])
    json_lines = mock.Mock(side_effect=sources._json_lines)
    monkeypatch.setattr(sources, "_json_lines", json_lines)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(texts, "CHUNK_SIZE", 512)
    config = of(file, dataset_test_split="0.3")
    before = pa.total_allocated_bytes()
    tracemalloc.start()
    try:
        sides = [side.subset(np.arange(len(side))) for side in load_both(config, None, LABELS)]
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert [len(side) for side in sides] == [8415, 3585] and json_lines.call_count == 1
    assert peak < rows * length / 4  # 512 strings of each side, never all of them
    assert pa.total_allocated_bytes() - before < rows * length / 100
    assert [file.name for file in tmp_path.iterdir()] == ["all.jsonl"]  # the temporary files were unlinked


def test_a_bad_row_leaves_no_temporary_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_jsonl(tmp_path / "all.jsonl", [*ROWS, {"text": ""}])
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with pytest.raises(InputError, match=r"all\.jsonl:41: "):
        load_both(of(file, dataset_test_split="0.3"), None, None)
    assert [left.name for left in tmp_path.iterdir()] == ["all.jsonl"]


def test_integers_are_ids_of_the_given_labels(tmp_path: Path) -> None:
    file = write_jsonl(tmp_path / "all.jsonl", [{"text": "A?", "label": 1}, {"text": "B?", "label": 0}])
    assert list(load_named(of(file), "train", LABELS).label_ids or []) == [1, 0]
    with pytest.raises(InputError, match=r"all.jsonl:1: column 'label' holds 1; name the labels with --labels"):
        label_names(of(file), "train")


@pytest.mark.parametrize(
    ("name", "content", "options", "message"),
    [
        ("x.csv", b"text,label\nA?,a\nB?,c\n", {}, "x.csv:3: unknown label 'c'"),
        ("x.csv", b"text,label\nA?,a,b\n", {}, "x.csv:2: the first line names 2 columns, this row has 3"),
        ("x.csv", b'text,label\n"A?,a\n', {}, "x.csv:2: not CSV"),
        ("x.csv", b"text,label\n\xff?,a\n", {}, "not UTF-8"),
        ("x.csv", b"question,label\nA?,a\n", {}, "x.csv:2: no column 'text'; the row has ['label', 'question']"),
        ("x.csv", b"text,label\n", {}, "x.csv: no rows"),
        ("x.csv", b"", {}, "x.csv: no rows"),
        ("x.parquet", b"PAR1 broken", {}, "x.parquet: not a Parquet file"),
        ("x.txt", b"A?", {}, "x.txt: the name of a data file ends in one of"),
        ("x.jsonl", b'{"text": "A?", "label": "a"}', {"dataset_train_split": "rl"}, "no split 'rl'"),
        ("x.jsonl", b'{"text": "A?", "label": "a"}', {"dataset_test_split": "0.5"}, "both sides need at least one"),
        ("x.jsonl", b'{"text": "A?", "label": 2}', {}, "x.jsonl:1: label 2 in column 'label' is no id of 2 labels"),
        ("x.jsonl", b'{"text": "A?", "label": 0.5}', {}, "x.jsonl:1: unknown label 0.5 in column 'label'; known: ['a'"),
        ("x.jsonl", b'{"text": "A\\u001f?", "label": "a"}', {}, "x.jsonl:1: column 'text' holds U+001F"),
        ("x.jsonl", b'{"text": "\\ud83d", "label": "a"}', {}, "x.jsonl:1: column 'text' holds half a surrogate"),
    ],
)
def test_bad_files_are_refused_with_file_and_row(
    name: str, content: bytes, options: dict[str, Any], message: str, tmp_path: Path
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        load_split(of(tmp_path / name, **options), "train", LABELS)
    assert "\n" not in str(caught.value) and name in str(caught.value)


def test_one_label_and_other_directories_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=re.escape("has the labels ['a']; at least 2 are needed")):
        label_names(of(write_jsonl(tmp_path / "one.jsonl", ROWS[:1])), "train")
    with pytest.raises(InputError, match=r"none\.jsonl: no rows"):
        label_names(of(write_jsonl(tmp_path / "none.jsonl", [])), "train")
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="nothing in this directory is a split"):
        load_split(of(tmp_path / "empty"), "train")
    (tmp_path / "empty" / "state.json").write_text("{}")
    with pytest.raises(InputError, match=r"empty: not what datasets\.save_to_disk writes"):
        load_split(of(tmp_path / "empty", dataset_train_split="train"), "train")


def test_boolq_rows_become_questions(tmp_path: Path) -> None:
    rows = [{"question": f"is it {i}", "answer": i == 0, "passage": f"It is 0, not {i}."} for i in range(2)]
    config = of(write_jsonl(tmp_path / "train.jsonl", rows), dataset_format="boolq")
    assert label_names(config, "train") == ["Yes", "No"]
    questions = load_split(config, "train", LabelSet.of(["Yes", "No"]))
    assert list(questions.texts) == [join_pair("is it 0", "It is 0, not 0."), join_pair("is it 1", "It is 0, not 1.")]
    assert list(questions.label_ids or []) == [0, 1]
    write_jsonl(tmp_path / "train.jsonl", [{**rows[0], "answer": "yes"}])
    with pytest.raises(InputError, match=r"train.jsonl:1: column 'answer' must be true or false, got 'yes'"):
        load_split(config, "train")


def test_helpsteer_pairs_become_questions(tmp_path: Path) -> None:
    kinds = ("correctness", "coherence", "complexity", "verbosity")
    ratings = [("P", 1), ("P", 3), ("Q", 2), ("Q", 2), ("R", 4), ("R", 0), ("S", 4), ("T", 1)]
    rows = [
        {"prompt": prompt, "response": f"r{i}", "helpfulness": rating, **dict.fromkeys(kinds, 2)}
        for i, (prompt, rating) in enumerate(ratings)
    ]
    config = of(write_jsonl(tmp_path / "train.jsonl", rows), dataset_format="helpsteer")
    questions = load_split(config, "train", LabelSet.of(label_names(config, "train")))
    assert list(questions.texts) == [
        join_pair("P", "Response A: r0\n\nResponse B: r1"),
        join_pair("R", "Response A: r4\n\nResponse B: r5"),
    ]
    assert list(questions.label_ids or []) == [1, 0]
    write_jsonl(tmp_path / "train.jsonl", [{**rows[0], "helpfulness": 5}])
    with pytest.raises(
        InputError, match=r"train.jsonl:1: column 'helpfulness' must be a whole number from 0 to 4, got 5"
    ):
        load_split(config, "train")
