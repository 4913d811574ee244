"""Whatever a file or an option holds: rows come back as they were written, or one InputError says what is wrong."""

import csv
import io
import json
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from eightball_ppo.config.data import DataConfig
from eightball_ppo.data import label_names, load_split, split_by_question
from eightball_ppo.data.pairs import SEPARATOR, join_pair, split_pair
from eightball_ppo.data.questions import Questions
from eightball_ppo.errors import InputError
from eightball_ppo.graders.registry import parse_grader
from eightball_ppo.graders.verbalizers import parse_verbalizers
from eightball_ppo.labels import LabelSet

LABELS = LabelSet.of(["up", "down", "7"])
Format = Literal["plain", "boolq", "helpsteer"]
QUICK = settings(max_examples=60)


def is_text(text: str) -> bool:
    """Whether a row may hold it: it is not blank, and can be written as UTF-8."""
    return bool(text.strip()) and SEPARATOR not in text and not any("\ud800" <= sign <= "\udfff" for sign in text)


texts = st.text(max_size=20).filter(is_text)
rows = st.lists(st.tuples(texts, texts, st.sampled_from(LABELS.names)), min_size=1, max_size=6)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)
COLUMNS = ["text", "pair", "label", "question", "answer", "passage", "prompt", "response", "helpfulness"]
json_rows = st.lists(
    json_values | st.dictionaries(st.sampled_from(COLUMNS), json_values | texts | st.integers(0, 4)), max_size=4
)


def config(file: Path, **options: Any) -> DataConfig:
    given = {"dataset_name": str(file), "text_column": "text", "label_column": "label", "text_pair_column": "pair"}
    return DataConfig(**{**given, **options})


def assert_read(file: Path, written: list[tuple[str, str, str]]) -> None:
    """The rows come back in their order; where all texts are numbers, the column is taken for a wrong one."""
    if all(
        join_pair(text.strip(), pair.strip()).replace(".", "", 1).lstrip("+-").isdecimal() for text, pair, _ in written
    ):
        with pytest.raises(InputError, match="holds numbers and no text"):
            load_split(config(file), "train", LABELS)
        return
    questions = load_split(config(file), "train", LABELS)
    assert list(questions.texts) == [join_pair(text.strip(), pair.strip()) for text, pair, _ in written]
    assert questions.label_ids == [LABELS.id_of(label) for _, _, label in written]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all examples of a test: each writes its file anew."""
    return tmp_path_factory.mktemp("data")


@given(written=rows)
@QUICK
def test_csv_rows_come_back_as_written(folder: Path, written: list[tuple[str, str, str]]) -> None:
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows([["text", "pair", "label"], *written])
    assert_read(folder / "rows.csv", written)


@given(written=rows, ascii_only=st.booleans())
@QUICK
def test_json_rows_come_back_as_written(folder: Path, written: list[tuple[str, str, str]], ascii_only: bool) -> None:
    named = [dict(zip(("text", "pair", "label"), row, strict=True)) for row in written]
    lines = [json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in named]
    (folder / "rows.jsonl").write_bytes("".join(lines).encode())
    assert_read(folder / "rows.jsonl", written)


@given(written=rows)
@settings(max_examples=20)
def test_parquet_rows_come_back_as_written(folder: Path, written: list[tuple[str, str, str]]) -> None:
    columns = zip(*written, strict=True)
    pq.write_table(pa.table(dict(zip(("text", "pair", "label"), columns, strict=True))), folder / "rows.parquet")
    assert_read(folder / "rows.parquet", written)


def read_or_refused(file: Path, form: Format = "plain", pair: str | None = "pair") -> None:
    """Read a file in every way; raises whatever is not an InputError of one line that names the file."""
    own = config(file, dataset_format=form, text_pair_column=pair if form == "plain" else None)
    ways = (
        lambda: load_split(own, "train", LABELS),
        lambda: load_split(own, "train"),
        lambda: label_names(own, "train"),
    )
    for read in ways:
        try:
            assert len(read()) > 0
        except InputError as error:
            assert file.name in str(error) and len(str(error).splitlines()) == 1, str(error)


@given(content=st.binary(max_size=60), ending=st.sampled_from(["jsonl", "json", "csv", "parquet"]))
@QUICK
def test_any_bytes_are_read_or_refused(folder: Path, content: bytes, ending: str) -> None:
    file = folder / f"bytes.{ending}"
    file.write_bytes(content)
    read_or_refused(file)


def whole(ending: str) -> bytes:
    """A small file that is as it should be."""
    table = pa.table({"text": ["Is it?", "Was it?"], "pair": ["Once.", "Twice."], "label": ["up", "down"]})
    if ending == "parquet":
        file = io.BytesIO()
        pq.write_table(table, file)
        return file.getvalue()
    if ending == "csv":
        return b'text,pair,label\n"Is it?",Once.,up\n"Was it?",Twice.,down\n'
    return b"".join(json.dumps(row).encode() + b"\n" for row in table.to_pylist())


@given(
    ending=st.sampled_from(["jsonl", "csv", "parquet"]),
    where=st.floats(0, 1),
    cut=st.integers(0, 9),
    put=st.binary(max_size=6),
)
@settings(max_examples=100)
def test_a_damaged_file_is_read_or_refused(folder: Path, ending: str, where: float, cut: int, put: bytes) -> None:
    content = whole(ending)
    at = int(where * len(content))
    file = folder / f"damaged.{ending}"
    file.write_bytes(content[:at] + put + content[at + cut :])
    read_or_refused(file)


@given(content=json_rows, form=st.sampled_from(["plain", "boolq", "helpsteer"]))
@settings(max_examples=100)
def test_any_json_rows_are_read_or_refused(folder: Path, content: list[Any], form: Format) -> None:
    file = folder / "any.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in content))
    read_or_refused(file, form, None)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("deep.jsonl", b"[" * 100_000),
        ("digits.jsonl", b'{"text": ' + b"9" * 5000 + b"}"),
        ("return.jsonl", b"[1,\r2]"),
        ("wide.jsonl", '{"text": "Is it?", "label": "up"}\n'.encode("utf-16")),
        ("wide.csv", "text,label\nIs it?,up\n".encode("utf-16")),
    ],
)
def test_odd_files_are_refused(folder: Path, name: str, content: bytes) -> None:
    (folder / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        load_split(config(folder / name), "train", LABELS)
    assert name in str(caught.value) and len(str(caught.value).splitlines()) == 1
    read_or_refused(folder / name)


@given(st.lists(st.text(max_size=4), max_size=4))
@QUICK
def test_any_names_are_a_label_set_or_refused(names: list[str]) -> None:
    good = len(names) > 1 and all(map(str.strip, names)) and len(set(names)) == len(names)
    try:
        labels = LabelSet.of(names)
    except InputError as error:
        assert not good and "labels: " in str(error) and len(str(error).splitlines()) == 1
        return
    assert good and LabelSet.of_model(labels.id2label) == labels
    assert all(labels.label2id[labels.names[k]] == k == labels.id_of(name) for k, name in enumerate(names))


@given(st.lists(st.sampled_from(["up", "down", "7", "Up", " up"]) | texts, min_size=1, max_size=8))
@QUICK
def test_labels_are_inferred_as_the_distinct_ones_in_order(folder: Path, drawn: list[str]) -> None:
    file = folder / "labels.jsonl"
    file.write_text("".join(json.dumps({"text": "Is it?", "label": name}) + "\n" for name in drawn))
    distinct = sorted({name.strip() for name in drawn})
    if len(distinct) < 2:
        with pytest.raises(InputError, match="at least 2 are needed"):
            label_names(config(file), "train")
    else:
        assert label_names(config(file), "train") == distinct


@given(
    st.lists(
        st.text(max_size=6) | st.builds("{}={}|{}".format, st.sampled_from(LABELS.names), texts, texts), max_size=3
    )
)
@QUICK
def test_any_verbalizers_are_words_of_every_label_or_refused(entries: list[str]) -> None:
    try:
        words = parse_verbalizers(entries, LABELS)
    except InputError as error:
        assert "--grader_verbalizers" in str(error)
        return
    assert len(words) == len(LABELS) and all(own and all(own) for own in words)


PARTS = ["bert", "rule:up", "noisy:", "0.3:", "nan:", "random-head", ":", ",", "9", "²", "llm", " "]


@given(st.lists(st.sampled_from(PARTS), max_size=6).map("".join) | st.text(max_size=12))
@settings(max_examples=200)
def test_any_grader_is_known_or_refused(spec: str) -> None:
    try:
        graders = parse_grader(spec)
    except InputError as error:
        assert "--grader" in str(error)
        return
    assert len(graders) == spec.count(",") + 1
    assert all(0 <= rate <= 1 for grader in graders for rate in grader.noise)
    assert all(int(grader.argument or 0) >= 0 for grader in graders if grader.name == "random-head")


@given(text=texts, pair=texts)
@QUICK
def test_two_texts_are_one_question_and_come_apart_again(text: str, pair: str) -> None:
    assert split_pair(join_pair(text, pair)) == (text, pair) and split_pair(text) == (text, None)


@given(st.lists(texts, min_size=1, max_size=12), st.floats(0.01, 0.99), st.integers(0, 2**31 - 1))
@QUICK
def test_a_split_loses_no_row_and_doubles_none(drawn: list[str], fraction: float, seed: int) -> None:
    try:
        train, validation = split_by_question(Questions("q", drawn), fraction, seed)
    except InputError:
        assume(False)
    assert sorted([*train.texts, *validation.texts]) == sorted(drawn) and len(train) and len(validation)
