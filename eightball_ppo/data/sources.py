"""Where rows come from: files, `save_to_disk` directories, packaged data, the Hub. Rows are streamed."""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eightball_ppo.config.embedded import embedded_dataset
from eightball_ppo.data.packaged import is_packaged, packaged_data
from eightball_ppo.errors import InputError
from eightball_ppo.runtime.paths import DATA_ENDINGS, local_path, resolves_to, stays_inside

Rows = Iterator[tuple[int, dict[str, Any] | InputError]]
"""(row number from 1, row), or the error of a row that cannot be read while those behind it can."""
SINGLE_SPLIT = "train"  # the split name of a single file or a saved Dataset
MAX_FIELD_LENGTH = 2**31 - 1  # of a CSV file; the standard library's default is 131,072 characters
ROWS_AT_ONCE = 10_000


@dataclass(frozen=True)
class Source:
    """One split that can be read.

    Attributes:
        name: For messages.
        rows: Yields the rows; see `Rows`.
        classes: The label names of each ClassLabel column.
    """

    name: str
    rows: Callable[[], Rows]
    classes: dict[str, list[str]]


def dataset_path(dataset_name: str) -> Path | None:
    """The directory or file of a local or embedded data set; None for one on the Hub or in a package."""
    return embedded_dataset(dataset_name) or local_path(dataset_name)


def is_on_hub(dataset_name: str) -> bool:
    """Whether a data set can only be one on the Hub."""
    return dataset_path(dataset_name) is None and not is_packaged(dataset_name)


def open_split(dataset_name: str, split: str, config_name: str | None = None) -> Source:
    """Opens a split of a local, packaged or Hub data set.

    Raises:
        InputError: No such data set or split, or a file that cannot be read.
    """
    if is_packaged(dataset_name):
        return _packaged(dataset_name, split)
    path = dataset_path(dataset_name)
    if path is None:
        return from_dataset(f"{dataset_name}[{split}]", _load_from_hub(dataset_name, split, config_name))
    if path.is_file():
        _check_split(str(path), split, [SINGLE_SPLIT], "one file is one split")
        return open_file(path)
    if not path.is_dir():
        kind = "data file" if path.suffix in DATA_ENDINGS else "dataset directory"
        raise InputError(f"{path}: no such {kind}; pass --dataset_name")
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return from_dataset(f"{path}[{split}]", _load_from_disk(path, split))
    files = [file for ending in DATA_ENDINGS if (file := path / f"{split}{ending}").is_file()]
    if len(files) > 1:
        raise InputError(f"{files[0]}: {files[1].name} is there, too; keep one file per split")
    if not files:
        available = splits_of(dataset_name)
        known = f"splits here: {available}" if available else "nothing in this directory is a split"
        needed = f"the dataset directory needs one {split}.jsonl, .csv or .parquet"
        raise InputError(f"{path / split}.jsonl: no such file; {needed}; {known}")
    _check_inside(files[0], path)
    return open_file(files[0])


def splits_of(dataset_name: str) -> list[str] | None:
    """The split names of a local or packaged data set; None for one on the Hub."""
    if is_packaged(dataset_name):
        return sorted(packaged_data(dataset_name).splits)
    path = dataset_path(dataset_name)
    if path is None:
        return None
    if path.is_file() or (path / "state.json").is_file():
        return [SINGLE_SPLIT]
    if (path / "dataset_dict.json").is_file():
        return sorted(directory.name for directory in path.iterdir() if (directory / "state.json").is_file())
    return sorted({file.stem for file in path.glob("*") if file.suffix in DATA_ENDINGS})


def _packaged(dataset_name: str, split: str) -> Source:
    labels, splits = packaged_data(dataset_name)
    if split not in splits:
        raise InputError(f"{dataset_name}: no split {split!r}; its splits are {sorted(splits)}")

    def rows() -> Rows:
        return ((row.line, {"text": row.text, "label": row.label}) for row in splits[split])

    return Source(f"{dataset_name}[{split}]", rows, {"label": list(labels)})


def open_file(file: Path) -> Source:
    """Opens a file as a single split.

    Raises:
        InputError: An unknown file name extension, or not a Parquet file in spite of its name.
    """
    if file.suffix not in DATA_ENDINGS:
        raise InputError(f"{file}: the name of a data file ends in one of {list(DATA_ENDINGS)}")
    if file.suffix == ".parquet":
        return _parquet(file)
    return Source(str(file), lambda: (_csv if file.suffix == ".csv" else _json_lines)(file), {})


def column_value(row: dict[str, Any], column: str, where: str) -> Any:
    """The value of a column of a row.

    Raises:
        InputError: The row has no such column; the message begins with `where`.
    """
    if column not in row:
        raise InputError(f"{where}: no column {column!r}; the row has {sorted(row)}")
    return row[column]


def _check_inside(file: Path, directory: Path) -> None:
    """Raises InputError if a link in a data set's directory leads out of it."""
    if not stays_inside(file, directory):
        raise InputError(f"{file}: leads to {resolves_to(file)}, which is no file of {directory}; put a copy there")


def _check_split(name: str, split: str, available: list[str], why: str) -> None:
    if split not in available:
        fix = f"pass one of {available}, or for --dataset_test_split a fraction such as 0.2"
        raise InputError(f"{name}: no split {split!r}, {why}; {fix}")


def _json_lines(file: Path) -> Rows:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            if line.strip(b"\xef\xbb\xbf" + _BLANKS if number == 1 else _BLANKS):
                yield number, _json_row(line, number, f"{file}:{number}")


_BLANKS = b" \t\r\n\v\f"


def _json_row(line: bytes, number: int, where: str) -> dict[str, Any] | InputError:
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
        row = json.loads(text)
    except UnicodeDecodeError as error:
        return InputError(f"{where}: not UTF-8 ({error.reason} at byte {error.start}); re-encode it")
    except json.JSONDecodeError as error:
        return InputError(f"{where}: not JSON ({error.msg} at column {error.colno})")
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
        return InputError(f"{where}: no JSON that can be read ({error})")
    if not isinstance(row, dict):
        return InputError(f"{where}: a JSON object is needed, got {' '.join(text.split())[:60]}")
    return row


def _csv(file: Path) -> Rows:
    """Rows of a CSV file whose first line names the columns; a row's number is that of its last line."""
    csv.field_size_limit(MAX_FIELD_LENGTH)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        try:
            first = lines.readline()
            lines.seek(0)
            if "," not in first and (other := next((sign for sign in ";\t" if sign in first), None)):
                reader = csv.reader(lines, strict=True, delimiter=other)
            header = next(reader, [])
            for name in header:
                if header.count(name) > 1:
                    raise InputError(f"{file}:1: duplicate column {name!r}; every column needs a name of its own")
            for values in filter(any, reader):  # a line without a value is no row
                if len(values) == len(header):
                    yield reader.line_num, dict(zip(header, values, strict=True))
                    continue
                reason = f"the first line names {len(header)} columns, this row has {len(values)}"
                problem = f"{file}:{reader.line_num}: {reason}; put a text with commas into quotes"
                yield reader.line_num, InputError(problem)
        except csv.Error as error:
            raise InputError(f"{file}:{reader.line_num}: not CSV ({error}); look for an unclosed quote") from None
        except UnicodeDecodeError as error:
            raise InputError(f"{file}: not UTF-8 after line {reader.line_num} ({error.reason}); re-encode it") from None


def _numbered(batches: Iterable[Any]) -> Rows:
    """(row number from 1, row) of Arrow batches."""
    return enumerate((row for batch in batches for row in batch.to_pylist()), start=1)


def _parquet(file: Path) -> Source:
    import datasets  # heavy
    import pyarrow
    import pyarrow.parquet

    try:
        with pyarrow.parquet.ParquetFile(file) as table:
            features = datasets.Features.from_arrow_schema(table.schema_arrow)
    except (OSError, pyarrow.ArrowException) as error:
        raise InputError(f"{file}: not a Parquet file ({_first_line(error)})") from None

    def rows() -> Rows:
        number = 0
        try:
            with pyarrow.parquet.ParquetFile(file) as table:
                for number, row in _numbered(table.iter_batches(batch_size=ROWS_AT_ONCE)):
                    yield number, row
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"{file}: broken after row {number} ({_first_line(error)})") from None

    return Source(str(file), rows, _classes(features))


def from_dataset(name: str, dataset: Any) -> Source:
    """A memory-mapped `datasets.Dataset`. Arrow format: images and sounds that name files here are not opened."""
    arrow = dataset.with_format("arrow")
    return Source(name, lambda: _numbered(arrow.iter(batch_size=ROWS_AT_ONCE)), _classes(dataset.features))


def _classes(features: Any) -> dict[str, list[str]]:
    return {name: list(kind.names) for name, kind in features.items() if type(kind).__name__ == "ClassLabel"}


def _load_from_disk(path: Path, split: str) -> Any:
    import datasets  # heavy

    _check_split(str(path), split, splits_of(str(path)) or [], "as datasets.save_to_disk wrote it")
    directory = path if (path / "state.json").is_file() else path / split
    try:
        for file in (directory, *directory.iterdir()):
            _check_inside(file, path)
        for part in json.loads((directory / "state.json").read_text(encoding="utf-8"))["_data_files"]:
            if Path(part["filename"]).name != part["filename"]:
                raise InputError(f"{directory}: state.json names {part['filename']!r}; only files beside it are read")
        return datasets.load_from_disk(str(directory))
    except InputError:
        raise
    except Exception as error:  # of files that hold anything: OSError, ValueError, KeyError, AttributeError ...
        raise InputError(f"{path}: not what datasets.save_to_disk writes ({_first_line(error)})") from None


def _load_from_hub(dataset_name: str, split: str, config_name: str | None) -> Any:
    """The split of the named configuration; else the configuration named like the split; else the split."""
    import datasets  # heavy

    error: Exception | None = None
    for config, name in [(split, "train"), (None, split)] if config_name is None else [(config_name, split)]:
        try:
            return datasets.load_dataset(dataset_name, config, split=name)
        except ValueError as unknown:  # configuration or split
            error = unknown
        except (OSError, RuntimeError) as unreachable:
            error = unreachable
            break
    raise InputError(f"{dataset_name}: neither a directory here nor a readable Hub dataset ({_first_line(error)})")


def _first_line(error: Exception | None) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
