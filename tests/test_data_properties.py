"""Any file or option: rows are read as they were written, or one InputError says what is wrong."""

import csv
import io
import json
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eightball_ppo.config.data import DataConfig
from eightball_ppo.data import label_names, load_split
from eightball_ppo.data.pairs import SEPARATOR, join_pair, split_pair
from eightball_ppo.errors import InputError
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
    given |= {"dataset_test_split": "elsewhere"}
    return DataConfig(**{**given, **options})


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all examples of a test, each of which writes its file again."""
    return tmp_path_factory.mktemp("data")


@pytest.mark.slow
@given(written=rows, ending=st.sampled_from(["csv", "jsonl", "parquet"]), ascii_only=st.booleans())
@settings(max_examples=50)
def test_rows_are_read_as_written(
    folder: Path, written: list[tuple[str, str, str]], ending: str, ascii_only: bool
) -> None:
    """In their order; where all texts are numbers, the column is refused as a wrong one."""
    file, names = folder / f"rows.{ending}", ("text", "pair", "label")
    if ending == "csv":
        with file.open("w", encoding="utf-8", newline="") as opened:
            csv.writer(opened).writerows([names, *written])
    elif ending == "jsonl":
        named = [dict(zip(names, row, strict=True)) for row in written]
        file.write_bytes("".join(json.dumps(row, ensure_ascii=ascii_only) + "\n" for row in named).encode())
    else:
        pq.write_table(pa.table(dict(zip(names, zip(*written, strict=True), strict=True))), file)
    texts = [join_pair(text.strip(), pair.strip()) for text, pair, _ in written]
    assert all(
        split_pair(joined) == (text.strip(), pair.strip())
        for joined, (text, pair, _) in zip(texts, written, strict=True)
    )
    if all(text.replace(".", "", 1).lstrip("+-").isdecimal() for text in texts):
        with pytest.raises(InputError, match="holds numbers and no text"):
            load_split(config(file), "train", LABELS)
        return
    questions = load_split(config(file), "train", LABELS)
    assert list(questions.texts) == texts
    assert questions.label_ids == [LABELS.id_of(label) for _, _, label in written]


def read_or_refused(file: Path, form: Format = "plain", pair: str | None = "pair") -> None:
    """Read a file in every way; raises whatever is not an InputError of one line that names the file."""
    settings = config(file, dataset_format=form, text_pair_column=pair if form == "plain" else None)
    for read in (load_split, label_names):
        for arguments in ((LABELS,), ()) if read is load_split else ((),):
            try:
                assert len(read(settings, "train", *arguments)) > 0
            except InputError as error:
                assert file.name in str(error) and len(str(error).splitlines()) == 1, str(error)


ODD_FILES = {
    "deep.jsonl": b"[" * 100_000,
    "digits.jsonl": b'{"text": ' + b"9" * 5000 + b"}",
    "return.jsonl": b"[1,\r2]",
    "wide.jsonl": '{"text": "Is it?", "label": "up"}\n'.encode("utf-16"),
    "wide.csv": "text,label\nIs it?,up\n".encode("utf-16"),
}


@pytest.mark.parametrize("name", ODD_FILES)
def test_odd_files_are_refused(folder: Path, name: str) -> None:
    (folder / name).write_bytes(ODD_FILES[name])
    with pytest.raises(InputError):
        load_split(config(folder / name), "train", LABELS)
    read_or_refused(folder / name)


def good_file(ending: str) -> bytes:
    """The bytes of a small good file."""
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
    content = good_file(ending)
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
