"""Questions from Python objects."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import datasets
import pandas as pd
import pytest

from conftest import write_rows
from eightball_ppo.config.data import DataConfig
from eightball_ppo.data import Questions, cut_questions, load_both, questions_from
from eightball_ppo.data.questions import cut_held_out
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet

LABELS = LabelSet.of(["no", "yes"])
ROWS: list[dict[str, Any]] = [{"n": i, "prompt": f"Is it {i}?", "label": ["no", "Yes"][i % 2]} for i in range(4)]
TEXTS = [row["prompt"] for row in ROWS]
COLUMNS = {name: [row[name] for row in ROWS] for name in ROWS[0]}
CONFIG = DataConfig(dataset_name="elsewhere")


@pytest.mark.parametrize("data", [ROWS, COLUMNS, pd.DataFrame(ROWS), datasets.Dataset.from_list(ROWS)], ids=type)
def test_every_kind_of_object_gives_the_same_questions(data: Any) -> None:
    for role in ("train", "test"):
        questions = questions_from(data, CONFIG, LABELS, role)
        assert (list(questions.texts), questions.label_ids, questions.columns) == (TEXTS, [0, 1, 0, 1], {})
    assert questions_from(data, CONFIG, None, "test").label_ids is None
    kept = questions_from(data, CONFIG, LABELS, "train", keep_columns=True)
    assert list(kept.columns["n"]) == [0, 1, 2, 3] and list(kept.subset([2]).columns["prompt"]) == ["Is it 2?"]


def test_a_list_of_texts_has_no_labels_and_a_path_is_read(tmp_path: Path) -> None:
    questions = questions_from(TEXTS, CONFIG, LABELS, "test")
    assert (list(questions.texts), questions.label_ids) == (TEXTS, None)
    file = write_rows(tmp_path / "x.jsonl", ROWS)
    for path in (file, str(file)):
        assert questions_from(path, CONFIG, LABELS, "test").label_ids == [0, 1, 0, 1]


def test_a_column_that_holds_none_of_the_labels_is_no_column_of_labels_unless_it_was_named() -> None:
    rows = [{"prompt": row["prompt"], "category": "a long solution"} for row in ROWS]
    for role in ("train", "test"):
        assert questions_from(rows, replace(CONFIG, labels=["no", "yes"]), LABELS, role).label_ids is None
    named = replace(CONFIG, labels=["no", "yes"], label_column="category")
    with pytest.raises(InputError, match=r"test data:1: unknown label 'a long solution'"):
        questions_from(rows, named, LABELS, "test")


def test_an_object_is_cut_as_a_file_with_its_rows_is(tmp_path: Path) -> None:
    rows: list[Any] = [
        {"text": f"Is it {i}?", "label": None if i % 3 == 0 else ["no", "yes"][i % 2]} for i in range(90)
    ]
    config = replace(CONFIG, labels=["no", "yes"])
    file = replace(config, dataset_name=str(write_rows(tmp_path / "x.jsonl", rows)))
    cuts: list[dict[str, Any]] = [{}, {"dataset_test_split": "0.5"}]
    for options in cuts:
        cut = cut_questions(rows, replace(config, **options), LABELS)
        read = load_both(replace(file, **options), None, LABELS)
        assert [(list(part.texts), part.label_ids, part.gold) for part in cut] == [
            (list(part.texts), part.label_ids, part.gold) for part in read
        ]
    with pytest.raises(InputError, match="--dataset_test_split valid: is no share"):
        cut_questions(rows, replace(config, dataset_test_split="valid"), LABELS)


def test_labels_of_a_part_that_is_cut_from_the_training_data_are_not_gold() -> None:
    texts = [f"Is it {number}?" for number in range(60)]
    train, heldout = cut_held_out(Questions("train data", texts, [number % 2 for number in range(60)]))
    assert heldout.label_ids == [texts.index(text) % 2 for text in heldout.texts] and not heldout.gold
    assert sorted([*train.texts, *heldout.texts]) == sorted(texts)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (7, "train data: texts, rows, columns, .* are accepted, got int"),
        ([7], "train data:1: a text or a dict is needed, got int"),
        ([], "train data: no rows"),
        (["Is it?", " "], "train data:2: column 'question' must be a non-blank string"),
        ({"text": ["a", "b"], "label": ["no"]}, "train data: the columns have {'text': 2, 'label': 1} values"),
        ({"n": [1, 2]}, "train data: no column holds texts"),
        (datasets.DatasetDict({"a": datasets.Dataset.from_list(ROWS)}), r"a DatasetDict with the splits \['a'\]"),
    ],
)
def test_other_objects_are_refused_in_one_line(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        questions_from(data, CONFIG, LABELS, "train")
