"""From rows to questions: which split a stage reads, and which of its rows it learns from or is measured on."""

from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Literal

from eightball_ppo.config.data import DataConfig
from eightball_ppo.data.columns import log_once
from eightball_ppo.data.formats import FORMAT_LABELS
from eightball_ppo.data.label_values import is_missing, merge_spellings
from eightball_ppo.data.questions import HELD_OUT, Questions, check_nonempty_splits, drop_leaks, held_out
from eightball_ppo.data.rows import Side, checked_text, open_rows, read_rows
from eightball_ppo.data.sources import SINGLE_SPLIT, Source, open_file, open_split, splits_of
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet

ENOUGH = 20  # labelled questions to measure on, with which the unlabelled ones beside them are not needed
OTHER_TEST_SPLITS = ("test", "validation")  # taken where the data have no split `heldout`


def load_split(
    config: DataConfig, role: Literal["train", "test"], labels: LabelSet | None = None, keep_columns: bool = False
) -> Questions:
    """Loads the questions that a stage learns from ("train") or is measured on ("test").

    Args:
        config: The data options.
        role: Which of the two splits.
        labels: The label set, which leaves out unlabelled rows; None to ignore the label column.
        keep_columns: Whether the columns of the rows are kept, for a judge that takes them.

    Raises:
        InputError: No such data set, split, column or label, or bad rows; the message names file, row and value.
    """
    if role == "test" and config.gold_file is not None:
        side = read_rows(config, _open_gold(config.gold_file), (labels,), keep_columns=keep_columns)[0]
        return _labelled(config, side, labels)
    part = measured_on(config)
    if isinstance(part, str):
        return load_named(config, train_split(config) if role == "train" else part, labels, keep_columns)
    source = _open(config, train_split(config))
    if role == "train":
        return _training(config, _sides(config, source, part, labels, None, keep_columns)[0], labels)
    side = _sides(config, source, part, None, labels, keep_columns)[1]
    return replace(_labelled(config, side, labels), gold=False)


def load_both(
    config: DataConfig, train_labels: LabelSet | None, test_labels: LabelSet | None, keep_columns: bool = False
) -> tuple[Questions, Questions]:
    """Loads (train, test), each with labels where a label set is given; a shared split is read once.

    If training reads labels, rows without one are left out. If it reads none, all rows are used, and the questions to
    measure on are the labelled ones if there are enough of them, else all, unlabelled. Training questions that are
    also held out are dropped.

    Args:
        config: The data options.
        train_labels: The label set of the training questions; None to ignore their labels.
        test_labels: The label set of the held-out questions; None to ignore their labels.
        keep_columns: Whether the columns of the rows are kept, for a judge that takes them.

    Raises:
        InputError: As `load_split`, or a held-out fraction leaves one side empty.
    """
    heldout = _heldout if train_labels is None else _labelled
    part = measured_on(config)
    if isinstance(part, float):
        return cut(config, _open(config, train_split(config)), part, train_labels, test_labels, keep_columns)

    def read(source: Source, labels: LabelSet | None) -> Side:
        return read_rows(config, source, (labels,), keep_columns=keep_columns)[0]

    train = _training(config, read(_open(config, train_split(config)), train_labels), train_labels)
    if config.gold_file is not None:
        test = _labelled(config, read(_open_gold(config.gold_file), test_labels), test_labels)
    else:
        test = heldout(config, read(_open(config, part), test_labels), test_labels)
    return drop_leaks(train, test), test


def cut(
    config: DataConfig,
    source: Source,
    fraction: float,
    train_labels: LabelSet | None,
    test_labels: LabelSet | None,
    keep_columns: bool = False,
) -> tuple[Questions, Questions]:
    """(train, test), cut from one source by a hash of the text; arguments and errors as `load_both`."""
    sides = _sides(config, source, fraction, train_labels, test_labels, keep_columns)
    heldout = _heldout if train_labels is None else _labelled
    train, test = _training(config, sides[0], train_labels), heldout(config, sides[1], test_labels)
    if train_labels is None and test.label_ids is not None:
        train, test = train.joined(sides[1].unlabelled), replace(test, dropped={})
    return drop_leaks(train, test), replace(test, gold=False)


def measured_on(config: DataConfig) -> str | float:
    """The split to measure on, or the share of the training questions that is held out where the data have none."""
    name, available = config.dataset_test_split, splits_of(config.dataset_name)
    if config.gold_file is not None:
        return name
    if config.test_fraction is not None:
        return config.test_fraction
    if name != DataConfig.dataset_test_split or not available or name in available:
        return name
    where, train = f"{config.dataset_name}: no split {name!r}", train_split(config)
    for other in OTHER_TEST_SPLITS:
        if other in available and other != train:
            log_once(f"{where}; measured on split {other!r}")
            return other
    log_once(f"{where}; {HELD_OUT:.0%} of the distinct questions to learn from are held out, by a hash of the text")
    return HELD_OUT


def train_split(config: DataConfig) -> str:
    """The split to learn from: the named one, the stage's default, `train`, or the only one to learn from."""
    if config.dataset_train_split is not None:
        return config.dataset_train_split
    available, default = splits_of(config.dataset_name) or [], config.default_train_split
    if default in available:
        return default
    others = [split for split in available if split not in (config.dataset_test_split, *OTHER_TEST_SPLITS)]
    return SINGLE_SPLIT if SINGLE_SPLIT in available else others[0] if len(others) == 1 else default


def load_named(config: DataConfig, split: str, labels: LabelSet | None = None, keep_columns: bool = False) -> Questions:
    """Loads all questions of the split of that name; arguments and errors as `load_both`."""
    return _labelled(config, read_rows(config, _open(config, split), (labels,), keep_columns=keep_columns)[0], labels)


def load_file(config: DataConfig, file: Path, labels: LabelSet | None = None, keep_columns: bool = False) -> Questions:
    """Loads all questions of a file; arguments and errors as `load_split`."""
    side = read_rows(config, open_file(file), (labels,), keep_columns=keep_columns)[0]
    return _labelled(config, side, labels)


def label_names(config: DataConfig, split: str) -> list[str]:
    """Infers the label names of a split: those of a ClassLabel in its order, else the distinct strings, sorted.

    Spellings that differ in case are one label.

    Raises:
        InputError: No labels or only one, or labels that are not strings.
    """
    if config.dataset_format != "plain":
        return list(FORMAT_LABELS[config.dataset_format])
    source = _open(config, split)
    rows, columns = open_rows(config, source, True)
    column = columns.label or config.label_column
    names = source.classes.get(column)
    if names is None:
        seen: Counter[str] = Counter()
        number, names_of_columns = 0, list[str]()
        for number, row in rows:
            names_of_columns = names_of_columns or list(row if isinstance(row, dict) else ())
            if isinstance(row, InputError) or is_missing(row.get(column)):
                continue  # reading the questions refuses it, or they have no label
            where = f"{source.name}:{number}"
            if isinstance(row[column], int | float):
                raise InputError(f"{where}: column {column!r} holds {row[column]!r}; name the labels with --labels")
            seen[checked_text(row, column, where)] += 1
        if not number:
            raise InputError(f"{source.name}: no rows; at least one question is needed")
        if not seen:
            what = f"no row has a label in column {column!r}"
            if columns.label is None:
                what = f"none of the columns {names_of_columns} is known to hold labels; pass --label_column NAME"
            raise InputError(f"{source.name}: {what}{' or' if columns.label is None else ';'} --labels A B ...")
        names = merge_spellings(seen)
    if len(names) < 2:
        raise InputError(f"{source.name}: column {column!r} has the labels {names}; at least 2 are needed")
    return names


def _open(config: DataConfig, split: str) -> Source:
    return open_split(config.dataset_name, split, config.dataset_config_name)


def _open_gold(name: str) -> Source:
    file = Path(name).expanduser()
    if not file.is_file():
        raise InputError(f"--gold_file {name}: no such file")
    return open_file(file.absolute())


def _sides(
    config: DataConfig,
    source: Source,
    fraction: float,
    train_labels: LabelSet | None,
    test_labels: LabelSet | None,
    keep: bool,
) -> list[Side]:
    """The two sides of a source, to learn from and to measure on."""
    sides = read_rows(config, source, (train_labels, test_labels), lambda text: held_out(text, fraction), keep)
    check_nonempty_splits(source.name, list(map(len, sides)), f"--dataset_test_split {fraction}")
    return sides


def _training(config: DataConfig, side: Side, labels: LabelSet | None) -> Questions:
    return side.unlabelled if labels is None else _labelled(config, side, labels)


def _labelled(config: DataConfig, side: Side, labels: LabelSet | None) -> Questions:
    """The labelled questions of a side, or all of them where labels are ignored.

    Raises:
        InputError: There are none.
    """
    if labels is None:
        return side.unlabelled
    known, unknown = side.labelled, len(side.unlabelled)
    if not len(known):
        column = f"column {config.label_column!r} or one of another usual name"
        raise InputError(f"{known.source}: no row has a label in {column}; pass --label_column, or label some rows")
    if unknown:
        log_once(f"{known.source}: {unknown} of {unknown + len(known)} questions have no label and are left out")
    return known.dropping("unlabelled_rows", unknown)


def _heldout(config: DataConfig, side: Side, labels: LabelSet | None) -> Questions:
    """The labelled questions of a side if there are enough of them, else all of them, unlabelled."""
    known, unknown = side
    if labels is None or not len(known):
        return unknown
    if not len(unknown) or len(known) >= ENOUGH:
        return known.dropping("unlabelled_rows", len(unknown))
    log_once(
        f"{known.source}: only {len(known)} of {len(side)} held-out questions have a label; their labels are unused"
    )
    return known.joined(unknown)
