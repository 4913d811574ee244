"""From rows to questions: which split a stage reads, what its columns hold, and which rows are refused."""

import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

from eightball_ppo.config.data import DataConfig
from eightball_ppo.data.formats import FORMAT_LABELS, LABEL, PAIR, TEXT, convert_rows
from eightball_ppo.data.pairs import SEPARATOR, join_pair
from eightball_ppo.data.questions import Questions, check_nonempty_splits, held_out
from eightball_ppo.data.sources import SINGLE_SPLIT, Source, column_value, open_file, open_split, splits_of
from eightball_ppo.data.texts import ArrowTexts
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet

SURROGATE = re.compile("[\ud800-\udfff]")


def load_split(config: DataConfig, role: Literal["train", "test"], labels: LabelSet | None = None) -> Questions:
    """Loads the questions that a stage learns from ("train") or is measured on ("test").

    Args:
        config: The data options.
        role: Which of the two splits.
        labels: The label set; None to ignore the label column.

    Raises:
        InputError: No such data set, split or column, or a bad row; the message names file, row and value.
    """
    if config.test_fraction is not None:
        return load_both(config, labels, None)[0] if role == "train" else load_both(config, None, labels)[1]
    return load_named(config, train_split(config) if role == "train" else config.dataset_test_split, labels)


def load_both(
    config: DataConfig, train_labels: LabelSet | None, test_labels: LabelSet | None
) -> tuple[Questions, Questions]:
    """Loads (train, test), each with labels where a label set is given; a shared split is read once.

    Raises:
        InputError: As `load_split`, or a held-out fraction leaves one side empty.
    """
    fraction = config.test_fraction
    if fraction is None:
        return load_split(config, "train", train_labels), load_split(config, "test", test_labels)
    source = _open(config, train_split(config))
    train, test = _read(config, source, (train_labels, test_labels), lambda text: held_out(text, fraction))
    check_nonempty_splits(source.name, (len(train), len(test)), f"--dataset_test_split {fraction}")
    return train, test


def train_split(config: DataConfig) -> str:
    """The split to learn from: the named one, else the stage's default, else `train` if the data have only that."""
    if config.dataset_train_split is not None:
        return config.dataset_train_split
    available, default = splits_of(config.dataset_name) or [], config.default_train_split
    return SINGLE_SPLIT if default not in available and SINGLE_SPLIT in available else default


def load_named(config: DataConfig, split: str, labels: LabelSet | None = None) -> Questions:
    """Loads all questions of the split of that name; arguments and errors as `load_split`."""
    return _read(config, _open(config, split), (labels,))[0]


def load_file(config: DataConfig, file: Path, labels: LabelSet | None = None) -> Questions:
    """Loads all questions of a file; arguments and errors as `load_split`."""
    return _read(config, open_file(file), (labels,))[0]


def label_names(config: DataConfig, split: str) -> list[str]:
    """Infers the label names of a split: those of a ClassLabel in its order, else the distinct strings, sorted.

    Raises:
        InputError: Fewer than two labels, or labels that are not strings.
    """
    if config.dataset_format != "plain":
        return list(FORMAT_LABELS[config.dataset_format])
    source, column = _open(config, split), config.label_column
    names = source.classes.get(column)
    if names is None:
        seen: set[str] = set()
        for number, row in source.rows():
            where = f"{source.name}:{number}"
            value = column_value(row, column, where)
            if isinstance(value, int | float):
                raise InputError(f"{where}: column {column!r} holds {value!r}; name the labels with --labels")
            seen.add(_text(row, column, where))
        if not seen:
            raise InputError(f"{source.name}: no rows; at least one question is needed")
        names = sorted(seen)
    if len(names) < 2:
        raise InputError(f"{source.name}: column {column!r} has the labels {names}; at least 2 are needed")
    return names


def _open(config: DataConfig, split: str) -> Source:
    return open_split(config.dataset_name, split, config.dataset_config_name)


def _read(
    config: DataConfig, source: Source, labels: Sequence[LabelSet | None], part_of: Callable[[str], int] = lambda _: 0
) -> list[Questions]:
    """Reads the validated rows of `source` in one pass into `len(labels)` parts; `part_of(text)` is a row's part."""
    rows = source.rows()
    text_column, pair_column, label_column = config.text_column, config.text_pair_column, config.label_column
    if config.dataset_format != "plain":
        rows = convert_rows(config.dataset_format, rows, source.name)
        text_column, pair_column, label_column = TEXT, PAIR, LABEL
    classes = source.classes.get(label_column)
    label_ids: list[list[int] | None] = [None if part is None else [] for part in labels]

    def texts() -> Iterator[tuple[int, str]]:
        for number, row in rows:
            where = f"{source.name}:{number}"
            text = _text(row, text_column, where)
            if pair_column is not None:
                text = join_pair(text, _text(row, pair_column, where))
            part = part_of(text)
            part_labels, part_ids = labels[part], label_ids[part]
            if part_labels is not None and part_ids is not None:
                part_ids.append(_label_id(row, label_column, classes, part_labels.label2id, where))
            yield part, text

    columns = ArrowTexts.partition(texts(), len(labels))
    parts = [Questions(source.name, column, ids) for column, ids in zip(columns, label_ids, strict=True)]
    if not any(map(len, parts)):
        raise InputError(f"{source.name}: no rows; at least one question is needed")
    for part in filter(len, parts):
        _check_not_numbers(part, text_column)
    return parts


def _check_not_numbers(questions: Questions, column: str) -> None:
    """Raises InputError if every text is a number: the wrong column of a CSV file."""
    first = questions.texts[:1000]
    if all(text.replace(".", "", 1).lstrip("+-").isdecimal() for text in first):
        reason = f"column {column!r} holds numbers and no text, such as {first[0]!r}"
        raise InputError(f"{questions.source}: {reason}; name that of the texts with --text_column")


def _label_id(row: dict[str, Any], column: str, classes: list[str] | None, ids: dict[str, int], where: str) -> int:
    """The id of a row's label: by name, or by a whole number, which is the id itself or that of a ClassLabel."""
    name = column_value(row, column, where)
    if isinstance(name, int) and not isinstance(name, bool):
        names = list(ids) if classes is None else classes
        if not 0 <= name < len(names):
            raise InputError(
                f"{where}: label {name} in column {column!r} is no id of {len(names)} labels, {names[:20]}"
            )
        name = names[name]
    else:
        name = _text(row, column, where)
    if name not in ids:
        raise InputError(f"{where}: unknown label {name!r} in column {column!r}; known: {list(ids)}")
    return ids[name]


def _text(row: dict[str, Any], column: str, where: str) -> str:
    value = column_value(row, column, where)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: column {column!r} must be a non-blank string, got {value!r}")
    if not value.isascii() and SURROGATE.search(value):
        raise InputError(f"{where}: column {column!r} holds half a surrogate pair, {value!r}; re-encode the file")
    if SEPARATOR in value:
        raise InputError(f"{where}: column {column!r} holds U+001F, which separates two texts, {value!r}; remove it")
    return value.strip()
