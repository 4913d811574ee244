"""Validates the rows of a source: which text and which label each of them holds."""

import re
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from typing import Any, NamedTuple

from eightball_ppo.config.data import DataConfig
from eightball_ppo.data.bad_rows import BadRows
from eightball_ppo.data.columns import HEAD, Columns, find_columns, is_number, text_of
from eightball_ppo.data.formats import LABEL, PAIR, TEXT, convert_rows
from eightball_ppo.data.label_values import LabelReader, is_missing
from eightball_ppo.data.pairs import SEPARATOR, join_pair
from eightball_ppo.data.questions import Questions
from eightball_ppo.data.sources import Rows, Source, column_value
from eightball_ppo.data.texts import ArrowTexts
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet

SURROGATE = re.compile("[\ud800-\udfff]")


class Side(NamedTuple):
    """The questions of one side of a split; without a label set all of them are unlabelled."""

    labelled: Questions
    unlabelled: Questions

    def __len__(self) -> int:
        return len(self.labelled) + len(self.unlabelled)


def open_rows(config: DataConfig, source: Source, labelled: bool) -> tuple[Rows, Columns]:
    """The rows of a source, converted if they are of a known data set, and the columns to read."""
    rows = source.rows()
    if config.dataset_format != "plain":
        return convert_rows(config.dataset_format, rows, source.name), Columns(TEXT, LABEL)
    head = list(islice(rows, HEAD))
    read = [(number, row) for number, row in head if not isinstance(row, InputError)]
    where = f"{source.name}:{read[0][0]}" if read else source.name
    return chain(head, rows), find_columns(config, where, [row for _, row in read], labelled)


def read_rows(
    config: DataConfig,
    source: Source,
    labels: Sequence[LabelSet | None],
    side_of: Callable[[str], int] = lambda _: 0,
    keep_columns: bool = False,
) -> list[Side]:
    """Reads the rows of a source in one pass, a side for each of `labels`.

    Args:
        config: The data options.
        source: Where the rows come from.
        labels: The label set of each side; None to ignore its labels.
        side_of: The side of a text.
        keep_columns: Whether the columns of the rows are kept.

    Raises:
        InputError: No column of texts, no rows, or bad rows that are not skipped.
    """
    rows, columns = open_rows(config, source, any(part is not None for part in labels))
    read = _RowReader(config, source, columns, labels, side_of)
    bad = BadRows(source.name, config.skip_bad_rows)
    label_ids: list[list[int]] = [[] for _ in labels]
    kept: list[list[dict[str, Any]]] = [[] for _ in range(2 * len(labels))]

    def texts() -> Iterator[tuple[int, str]]:
        for number, row in rows:
            try:
                text, side, label_id = read(number, row)
            except InputError as problem:
                bad.add(problem)
                continue
            if label_id is not None:
                label_ids[side].append(label_id)
            part = 2 * side + (label_id is None)
            if keep_columns and not isinstance(row, InputError):
                kept[part].append(dict(row))
            yield part, text

    parts = ArrowTexts.partition(texts(), 2 * len(labels))
    bad.finish()
    if not any(map(len, parts)):
        left = "no row is left" if bad.count else "no rows"
        raise InputError(f"{source.name}: {left}; at least one question is needed")
    names = list(dict.fromkeys(name for rows in kept for row in rows for name in row))
    others = [{name: [row.get(name) for row in rows] for name in names} for rows in kept]
    sides = []
    for i, ids in enumerate(label_ids):
        known = Questions(source.name, parts[2 * i], ids, others[2 * i])
        sides.append(Side(known, Questions(source.name, parts[2 * i + 1], None, others[2 * i + 1])))
    for questions in chain(*sides):
        _check_not_numbers(questions, columns.text)
    first = (questions.dropping("bad_rows", bad.count) for questions in sides[0])
    return [Side(*first), *sides[1:]]


class _RowReader:
    """Reads (text, side, label id) of a row; the id is None for a row without a label."""

    def __init__(
        self,
        config: DataConfig,
        source: Source,
        columns: Columns,
        labels: Sequence[LabelSet | None],
        side_of: Callable[[str], int],
    ):
        self.source, self.columns, self.side_of = source.name, columns, side_of
        self.pair = config.text_pair_column if config.dataset_format == "plain" else PAIR
        label = columns.label
        classes = None if label is None else source.classes.get(label)
        self.labels = [None if part is None or label is None else LabelReader(part, label, classes) for part in labels]

    def __call__(self, number: int, row: dict[str, Any] | InputError) -> tuple[str, int, int | None]:
        if isinstance(row, InputError):
            raise row
        where = f"{self.source}:{number}"
        text = checked_text(row, self.columns.text, where)
        if self.pair is not None:
            text = join_pair(text, checked_text(row, self.pair, where))
        side = self.side_of(text)
        labels = self.labels[side]
        value = None if labels is None else row.get(labels.column)
        if labels is None or is_missing(value, labels.classes):
            return text, side, None
        try:
            return text, side, labels.read(value)
        except ValueError as problem:
            raise InputError(f"{where}: {problem}") from None


def checked_text(row: dict[str, Any], column: str, where: str) -> str:
    """The text in a column of a row, without the blanks around it.

    Raises:
        InputError: No such column, or no text that can be classified; the message begins with `where`.
    """
    value = text_of(column_value(row, column, where))
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: column {column!r} must be a non-blank string, got {value!r}")
    if not value.isascii() and SURROGATE.search(value):
        raise InputError(f"{where}: column {column!r} holds half a surrogate pair, {value!r}; re-encode the file")
    if SEPARATOR in value:
        raise InputError(f"{where}: column {column!r} holds U+001F, which separates two texts, {value!r}; remove it")
    return value.strip()


def _check_not_numbers(questions: Questions, column: str) -> None:
    """Raises InputError if every text is a number: the wrong column of a CSV file."""
    first = questions.texts[:1000]
    if first and all(map(is_number, first)):
        reason = f"column {column!r} holds numbers and no text, such as {first[0]!r}"
        raise InputError(f"{questions.source}: {reason}; name that of the texts with --text_column")
