"""Questions of one file: loading, messages about bad rows, splitting; and the label set."""

import re
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from eightball_ppo.config.data import DataConfig
from eightball_ppo.data import Questions, load_named, normalize_text, split_by_question
from eightball_ppo.data.texts import ArrowTexts
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet

LABELS = LabelSet.of(["up", "down"])


def config(directory: Path, **options: Any) -> DataConfig:
    return DataConfig(**{"dataset_name": str(directory), "text_column": "text", "label_column": "label", **options})


def load(directory: Path) -> Questions:
    return load_named(config(directory), "rl", LABELS)


def test_rows_are_read_in_order_and_labels_become_ids(tmp_path: Path) -> None:
    (tmp_path / "rl.jsonl").write_bytes(
        '\ufeff{"text": " Grüße? ", "label": "down"}\n\n{"text": "🎱?", "label": "up", "x": 1}\n'.encode()
    )
    questions = load(tmp_path)
    assert list(questions.texts) == ["Grüße?", "🎱?"] and questions.label_ids == [1, 0]
    assert load_named(config(tmp_path), "rl").label_ids is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "rl.jsonl: no rows"),
        (b"\n\n", "rl.jsonl: no rows"),
        (b'{"text": "a?", "label": "up"}\n{"text": "b?"', "rl.jsonl:2: not JSON"),
        (b"[1, 2]\n", "rl.jsonl:1: a JSON object is needed, got [1, 2]"),
        (b'{"question": "a?"}\n', "rl.jsonl:1: no column 'text'; the row has ['question']"),
        (b'{"text": "a?"}\n', "rl.jsonl:1: no column 'label'"),
        (b'{"text": "  ", "label": "up"}\n', "rl.jsonl:1: column 'text' must be a non-blank string, got '  '"),
        (b'{"text": 7, "label": "up"}\n', "rl.jsonl:1: column 'text' must be a non-blank string, got 7"),
        (b'{"text": "a?", "label": "up"}\n{"text": "b?", "label": "left"}\n', "rl.jsonl:2: unknown label 'left'"),
        (b'{"text": "a?", "label": "up"}\n{"text": "\xff?", "label": "up"}\n', "rl.jsonl:2: not UTF-8"),
    ],
)
def test_bad_content_names_file_row_and_value(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "rl.jsonl").write_bytes(content)
    with pytest.raises(InputError, match=re.escape(message)):
        load(tmp_path)


def test_a_missing_file_or_directory_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"rl\.jsonl: no such file"):
        load(tmp_path)
    with pytest.raises(InputError, match="no such dataset directory"):
        load(tmp_path / "nowhere")


def test_normalised_ignores_case_punctuation_and_space() -> None:
    assert (
        normalize_text("Will  it rain, Tom's dog?")
        == normalize_text("will it RAIN tom's dog")
        == "will it rain toms dog"
    )


@given(st.integers(0, 1000), st.permutations(range(30)))
def test_split_is_stratified_disjoint_and_independent_of_order(seed: int, order: list[int]) -> None:
    texts = [f"question {i}?" for i in range(30)]
    questions = Questions("q", texts, [i % 3 for i in range(30)])
    train, validation = split_by_question(questions, 0.2, seed)
    assert len(validation) == 6 and sorted(validation.label_ids or []) == [0, 0, 1, 1, 2, 2]
    assert sorted([*train.texts, *validation.texts]) == sorted(texts)
    _, again = split_by_question(questions.subset(order), 0.2, seed)
    assert set(again.texts) == set(validation.texts)


def test_duplicates_of_a_question_are_put_on_one_side() -> None:
    questions = Questions("q", ["Same?", "same", "Other?", "More?", "Least?"], [0] * 5)
    for seed in range(10):
        train, validation = split_by_question(questions, 0.5, seed)
        assert ("Same?" in train.texts) == ("same" in train.texts)
        assert ("Same?" in validation.texts) == ("same" in validation.texts)


def test_splitting_makes_no_list_of_all_questions() -> None:
    questions = Questions("q", ArrowTexts.from_iterable(f"Will parcel number {i} come?" for i in range(30_000)))
    tracemalloc.start()
    try:
        train, validation = split_by_question(questions, 0.2, 0)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(train), len(validation)) == (24_000, 6_000)
    assert peak < 100 * len(questions)  # a Python string of each alone takes 75 bytes, its hash another 50


def test_label_ids_follow_the_order_of_the_names() -> None:
    labels = LabelSet.of(["b", "a", "c"])
    assert (len(labels), labels.id_of("a"), labels.id2label[0], labels.label2id["c"]) == (3, 1, "b", 2)
    assert LabelSet.of_model({1: "a", 0: "b", 2: "c"}) == labels


@pytest.mark.parametrize("names", [[], ["only"], ["a", "a"], ["a", " "]])
def test_a_label_set_of_bad_names_is_refused(names: list[str]) -> None:
    with pytest.raises(InputError, match=r"^labels: "):
        LabelSet.of(names)


def test_label_sets_are_compared_by_name_and_what_is_missing_is_said() -> None:
    ours = LabelSet.of(["a", "b", "c"])
    ours.require_same(LabelSet.of(["c", "a", "b"]), "data", "model")
    with pytest.raises(InputError, match=r"'d'\]; model lacks \['a', 'c'\] and data lacks \['d'\]; the"):
        ours.require_same(LabelSet.of(["b", "d"]), "data", "model")
    assert ours.columns_in(LabelSet.of(["c", "a", "b"])) == [1, 2, 0]
