"""Where rows come from: JSONL, CSV and Parquet files, directories of `save_to_disk`, the Hub. Rows are read one after
the other, each with all of its columns."""

import csv
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eightball_ppo.errors import InputError
from eightball_ppo.runtime.paths import local_path, resolves_to, stays_inside

Rows = Iterator[tuple[int, dict[str, Any]]]
ENDINGS = (".jsonl", ".csv", ".parquet", ".json")
ONE_SPLIT = "train"  # the split that a single file or a saved Dataset is
LONGEST_FIELD = 2**31 - 1  # of a CSV file; the standard library's own limit is 131,072 characters


@dataclass(frozen=True)
class Source:
    """One split that can be read: `rows()` yields (number from 1, row); `classes`: the names of each ClassLabel."""

    name: str
    rows: Callable[[], Rows]
    classes: dict[str, list[str]]


def open_split(dataset_name: str, split: str, config_name: str | None = None) -> Source:
    """The split of a data set.

    Raises:
        InputError: no such data set or split, or a file that cannot be read.
    """
    path = local_path(dataset_name)
    if path is None:
        return _of_table(f"{dataset_name}[{split}]", _from_hub(dataset_name, split, config_name))
    if path.is_file():
        _need_split(str(path), split, [ONE_SPLIT], "one file is one split")
        return open_file(path)
    if not path.is_dir():
        raise InputError(f"{path}: no such dataset directory; pass --dataset_name")
    if (path / "dataset_dict.json").is_file() or (path / "state.json").is_file():
        return _of_table(f"{path}[{split}]", _from_disk(path, split))
    files = [file for ending in ENDINGS if (file := path / f"{split}{ending}").is_file()]
    if len(files) > 1:
        raise InputError(f"{files[0]}: {files[1].name} stands beside it; keep one file per split")
    if not files:
        there = splits_of(dataset_name)
        known = f"splits here: {there}" if there else "nothing in this directory is a split"
        raise InputError(
            f"{path / split}.jsonl: no such file; the dataset directory needs one {split}.jsonl, .csv or .parquet; "
            f"{known}"
        )
    _stays_inside(files[0], path)
    return open_file(files[0])


def splits_of(dataset_name: str) -> list[str] | None:
    """The names of the splits of a local data set; None of one on the Hub."""
    path = local_path(dataset_name)
    if path is None:
        return None
    if path.is_file() or (path / "state.json").is_file():
        return [ONE_SPLIT]
    if (path / "dataset_dict.json").is_file():
        return sorted(own.name for own in path.iterdir() if (own / "state.json").is_file())
    return sorted({file.stem for file in path.glob("*") if file.suffix in ENDINGS})


def open_file(file: Path) -> Source:
    """The one split that a file is.

    Raises:
        InputError: the file's name has none of the endings, or it is no Parquet file in spite of its name.
    """
    if file.suffix not in ENDINGS:
        raise InputError(f"{file}: the name of a data file ends in one of {list(ENDINGS)}")
    if file.suffix == ".parquet":
        return _parquet(file)
    return Source(str(file), lambda: (_csv if file.suffix == ".csv" else _json_lines)(file), {})


def _stays_inside(file: Path, directory: Path) -> None:
    """Raises InputError for a link in a data set's directory that leads out of it."""
    if not stays_inside(file, directory):
        raise InputError(f"{file}: leads to {resolves_to(file)}, which is no file of {directory}; put a copy there")


def _need_split(name: str, split: str, there: list[str], why: str) -> None:
    if split not in there:
        mend = f"pass one of {there}, or for --dataset_test_split a fraction such as 0.2"
        raise InputError(f"{name}: no split {split!r}, {why}; {mend}")


def _json_lines(file: Path) -> Rows:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{file}:{number}: not UTF-8 ({error.reason} at byte {error.start}); re-encode the file"
                ) from None
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise InputError(f"{file}:{number}: not JSON ({error.msg} at column {error.colno})") from None
            except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists in lists
                raise InputError(f"{file}:{number}: no JSON that can be read ({error})") from None
            if not isinstance(row, dict):
                raise InputError(f"{file}:{number}: a JSON object is needed, got {' '.join(text.split())[:60]}")
            yield number, row


def _csv(file: Path) -> Rows:
    """Rows of a CSV file whose first line names the columns; the number is that of the line on which a row ends."""
    csv.field_size_limit(LONGEST_FIELD)
    with file.open(encoding="utf-8-sig", newline="") as lines:
        reader = csv.reader(lines, strict=True)
        try:
            header = next(reader, [])
            twice = next((name for name in header if header.count(name) > 1), None)
            if twice is not None:
                raise InputError(f"{file}:1: the column {twice!r} stands twice; every column needs its own name")
            for values in reader:
                if not values:
                    continue
                if len(values) != len(header):
                    wanted = f"the first line names {len(header)} columns, this row has {len(values)}"
                    raise InputError(f"{file}:{reader.line_num}: {wanted}; put a text with commas into quotes")
                yield reader.line_num, dict(zip(header, values, strict=True))
        except csv.Error as error:
            raise InputError(
                f"{file}:{reader.line_num}: not CSV ({error}); look for a quote that is not closed"
            ) from None
        except UnicodeDecodeError as error:
            raise InputError(f"{file}: not UTF-8 after line {reader.line_num} ({error.reason}); re-encode it") from None


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
                for batch in table.iter_batches(batch_size=10_000):
                    for row in batch.to_pylist():
                        number += 1
                        yield number, row
        except (OSError, pyarrow.ArrowException) as error:
            raise InputError(f"{file}: broken after row {number} ({_first_line(error)})") from None

    return Source(str(file), rows, _classes(features))


def _of_table(name: str, table: Any) -> Source:
    """A `datasets.Dataset`, which is memory-mapped. Its rows are read as they are stored: a column of pictures or
    sounds that names files on this machine has none of them opened."""

    def rows() -> Rows:
        number = 0
        for batch in table.with_format("arrow").iter(batch_size=10_000):
            for row in batch.to_pylist():
                number += 1
                yield number, row

    return Source(name, rows, _classes(table.features))


def _classes(features: Any) -> dict[str, list[str]]:
    return {name: list(own.names) for name, own in features.items() if type(own).__name__ == "ClassLabel"}


def _from_disk(path: Path, split: str) -> Any:
    import datasets  # heavy

    _need_split(str(path), split, splits_of(str(path)) or [], "as datasets.save_to_disk wrote it")
    own = path if (path / "state.json").is_file() else path / split
    try:
        for file in (own, *own.iterdir()):
            _stays_inside(file, path)
        for part in json.loads((own / "state.json").read_text(encoding="utf-8"))["_data_files"]:
            if Path(part["filename"]).name != part["filename"]:
                raise InputError(f"{own}: state.json names {part['filename']!r}; only files beside it are read")
        return datasets.load_from_disk(str(own))
    except InputError:
        raise
    except Exception as error:  # of files that hold anything: OSError, ValueError, KeyError, AttributeError ...
        raise InputError(f"{path}: not what datasets.save_to_disk writes ({_first_line(error)})") from None


def _from_hub(dataset_name: str, split: str, config_name: str | None) -> Any:
    """The split of a Hub data set: of the named configuration; else its configuration of that name; else its split."""
    import datasets  # heavy

    tries: list[tuple[str | None, str]] = [(split, "train"), (None, split)] if config_name is None else []
    failed: Exception | None = None
    for own_config, own_split in tries or [(config_name, split)]:
        try:
            return datasets.load_dataset(dataset_name, own_config, split=own_split)
        except (OSError, ValueError, RuntimeError) as error:  # unreachable, unknown id, configuration or split
            failed = error
            if not isinstance(error, ValueError):
                break
    raise InputError(f"{dataset_name}: neither a directory here nor a readable Hub dataset ({_first_line(failed)})")


def _first_line(error: Exception | None) -> str:
    return str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
