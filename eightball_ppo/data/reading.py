"""Rows to questions: which split a stage reads, what its columns hold, and what is refused."""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from eightball_ppo.config.data import DataConfig
from eightball_ppo.data.formats import LABEL, LABELS_OF, PAIR, TEXT, known_rows
from eightball_ppo.data.pairs import SEPARATOR, join_pair
from eightball_ppo.data.questions import Questions, check_nonempty_splits, held_out
from eightball_ppo.data.sources import ONE_SPLIT, Source, open_file, open_split, splits_of
from eightball_ppo.data.texts import ArrowTexts
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet

HALF_PAIR = re.compile("[\ud800-\udfff]")


def load_split(config: DataConfig, role: Literal["train", "test"], labels: LabelSet | None = None) -> Questions:
    """The questions that a stage learns from ("train") or is measured on ("test"); `labels`: read them too.

    Raises:
        InputError: no such data set, split or column, or a bad row; the message names the file, the row and the value.
    """
    if config.test_fraction is not None:
        return load_both(config, labels, None)[0] if role == "train" else load_both(config, None, labels)[1]
    return load_named(config, train_split(config) if role == "train" else config.dataset_test_split, labels)


def load_both(
    config: DataConfig, train_labels: LabelSet | None, test_labels: LabelSet | None
) -> tuple[Questions, Questions]:
    """The questions that a stage learns from and those that it is measured on, each with labels where these are given.
    Where a fraction of one split is held out, that is read once.

    Raises:
        InputError: as `load_split`, or one side would be empty.
    """
    fraction = config.test_fraction
    if fraction is None:
        return load_split(config, "train", train_labels), load_split(config, "test", test_labels)
    source = open_split(config.dataset_name, train_split(config), config.dataset_config_name)
    train, test = _read(config, source, (train_labels, test_labels), lambda text: held_out(text, fraction))
    check_nonempty_splits(source.name, (len(train), len(test)), f"--dataset_test_split {fraction}")
    return train, test


def train_split(config: DataConfig) -> str:
    """The split to learn from: the one that is named, else the stage's own, else `train` where only that is there."""
    if config.dataset_train_split is not None:
        return config.dataset_train_split
    there = splits_of(config.dataset_name) or []
    return ONE_SPLIT if config.default_train_split not in there and ONE_SPLIT in there else config.default_train_split


def load_named(config: DataConfig, split: str, labels: LabelSet | None = None) -> Questions:
    """All questions of a split. Raises InputError as `load_split` does."""
    return _read(config, open_split(config.dataset_name, split, config.dataset_config_name), (labels,))[0]


def load_file(config: DataConfig, file: Path, labels: LabelSet | None = None) -> Questions:
    """All questions of a file. Raises InputError as `load_split` does."""
    return _read(config, open_file(file), (labels,))[0]


def label_names(config: DataConfig, split: str) -> list[str]:
    """The names of the labels of a split: of a ClassLabel in their order, else the distinct strings, sorted.

    Raises:
        InputError: fewer than two, or labels that are no strings.
    """
    if config.dataset_format != "plain":
        return list(LABELS_OF[config.dataset_format])
    source = open_split(config.dataset_name, split, config.dataset_config_name)
    names = source.classes.get(config.label_column)
    if names is None:
        seen: set[str] = set()
        for number, row in source.rows():
            where = f"{source.name}:{number}"
            value = _value(row, config.label_column, where)
            if isinstance(value, int | float):
                raise InputError(
                    f"{where}: column {config.label_column!r} holds {value!r}; name the labels with --labels"
                )
            seen.add(_text(row, config.label_column, where))
        if not seen:
            raise InputError(f"{source.name}: no rows; at least one question is needed")
        names = sorted(seen)
    if len(names) < 2:
        raise InputError(f"{source.name}: column {config.label_column!r} has the labels {names}; at least 2 are needed")
    return names


def _read(
    config: DataConfig, source: Source, labels: Sequence[LabelSet | None], side: Callable[[str], int] = lambda _: 0
) -> list[Questions]:
    """The validated rows of `source` in one pass, apart by what `side` says of a text; `labels` of each side."""
    rows = source.rows()
    if config.dataset_format != "plain":
        rows = known_rows(config.dataset_format, rows, source.name)
        config = replace(config, dataset_format="plain", text_column=TEXT, text_pair_column=PAIR, label_column=LABEL)
    classes = source.classes.get(config.label_column)
    ids = [None if own is None else own.label2id for own in labels]
    label_ids: list[list[int]] = [[] for _ in labels]

    def texts() -> Iterator[tuple[int, str]]:
        for number, row in rows:
            where = f"{source.name}:{number}"
            text = _text(row, config.text_column, where)
            if config.text_pair_column is not None:
                text = join_pair(text, _text(row, config.text_pair_column, where))
            own = side(text)
            known = ids[own]
            if known is not None:
                label_ids[own].append(_label_id(row, config.label_column, classes, known, where))
            yield own, text

    columns = ArrowTexts.written_apart(texts(), len(labels))
    sides = [
        Questions(source.name, own, None if known is None else their_ids)
        for own, known, their_ids in zip(columns, ids, label_ids, strict=True)
    ]
    if not any(map(len, sides)):
        raise InputError(f"{source.name}: no rows; at least one question is needed")
    for own in filter(len, sides):
        _refuse_numbers(own, config.text_column)
    return sides


def _refuse_numbers(questions: Questions, column: str) -> None:
    """Raises InputError where every text is a number, as those of the wrong column of a CSV file are."""
    first = questions.texts[:1000]
    if all(text.replace(".", "", 1).lstrip("+-").isdecimal() for text in first):
        raise InputError(
            f"{questions.source}: column {column!r} holds numbers and no text, such as {first[0]!r}; name that of the "
            "texts with --text_column"
        )


def _label_id(row: dict[str, Any], column: str, classes: list[str] | None, ids: dict[str, int], where: str) -> int:
    """The id of a row's label: by its name, or by a whole number that is the id itself or that of a ClassLabel."""
    value = _value(row, column, where)
    if isinstance(value, int) and not isinstance(value, bool):
        names = list(ids) if classes is None else classes
        if not 0 <= value < len(names):
            raise InputError(
                f"{where}: label {value} in column {column!r} is no id of {len(names)} labels, {names[:20]}"
            )
        name = names[value]
    else:
        name = _text(row, column, where)
    if name not in ids:
        raise InputError(f"{where}: unknown label {name!r} in column {column!r}; known: {list(ids)}")
    return ids[name]


def _value(row: dict[str, Any], column: str, where: str) -> Any:
    if column not in row:
        raise InputError(f"{where}: no column {column!r}; the row has {sorted(row)}")
    return row[column]


def _text(row: dict[str, Any], column: str, where: str) -> str:
    value = _value(row, column, where)
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: column {column!r} must be a non-blank string, got {value!r}")
    if not value.isascii() and HALF_PAIR.search(value):
        raise InputError(f"{where}: column {column!r} holds half a surrogate pair, {value!r}; re-encode the file")
    if SEPARATOR in value:
        raise InputError(f"{where}: column {column!r} holds U+001F, which separates two texts, {value!r}; remove it")
    return value.strip()
