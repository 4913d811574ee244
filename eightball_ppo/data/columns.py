"""Finds the columns of a source with the texts and the labels, where the options do not name them."""

import contextlib
import logging
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

from eightball_ppo.config.data import DataConfig
from eightball_ppo.data.label_values import LabelReader, fold, is_missing
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet

logger = logging.getLogger(__name__)

TEXT_NAMES = ("text", "question", "prompt", "sentence", "body", "query", "utterance", "message", "content")
LABEL_NAMES = ("answer", "label", "labels", "intent", "category", "class", "gold", "gold_label", "target")
ID_NAMES = ("id", "uuid", "key", "index", "idx", "number")
HEAD = 200  # rows that are read to find the columns
EXAMPLE_LENGTH = 40  # characters of a value in a message


class Columns(NamedTuple):
    """The columns of a source; `label` is None if no column holds labels."""

    text: str
    label: str | None


@cache
def log_once(line: str) -> None:
    """Logs a decision about the data; stages that read the same data say it once."""
    logger.info("%s", line)


def find_columns(config: DataConfig, where: str, rows: Sequence[dict[str, Any]], labelled: bool) -> Columns:
    """The columns to read: the configured ones if the rows have them, else those with a usual name.

    Args:
        config: The data options.
        where: The source and the number of the first row, for messages.
        rows: The first rows.
        labelled: Whether the labels are read.

    Raises:
        InputError: No column of texts is found, or the rows lack a column that the user named.
    """
    names = list(dict.fromkeys(name for row in rows for name in row))
    if not names:
        return Columns(config.text_column, config.label_column)
    text = config.text_column
    if text not in names and text != DataConfig.text_column:
        raise InputError(f"{where}: no column {text!r}; the row has {sorted(names)}")
    label = _label_column(config, where, rows, names) if labelled else None
    source = where.rpartition(":")[0]
    if text not in names:
        taken = (label, _column_of_labels(config, rows, names), config.text_pair_column)
        text = _text_column(source, rows, [name for name in names if name not in taken])
    found = [f"texts from column {text!r}"] if text != config.text_column else []
    if labelled and label != config.label_column:
        found.append("no labels" if label is None else f"labels from column {label!r}")
    if found:
        log_once(f"{source}: {', '.join(found)}")
    return Columns(text, label)


def _label_column(config: DataConfig, where: str, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str | None:
    label = config.label_column
    if label != DataConfig.label_column:
        if label not in names:
            raise InputError(f"{where}: no column {label!r}; the row has {sorted(names)}")
        return label
    if label in names:
        return label
    names = [name for name in names if _may_hold_labels(config, rows, name)]
    usual = (name for usual in LABEL_NAMES for name in sorted(names, key=usual.__ne__) if name.casefold() == usual)
    found = next((name for name in usual if all(isinstance(row.get(name), _LABEL_TYPES) for row in rows)), None)
    return found or _column_of_labels(config, rows, names)


def _may_hold_labels(config: DataConfig, rows: Sequence[dict[str, Any]], name: str) -> bool:
    """Whether a column that has a usual name holds one of `config.labels` at least, or they are not known."""
    if not config.labels or config.dataset_format != "plain":
        return True
    reader = LabelReader(LabelSet.of(config.labels), name)
    for value in (row.get(name) for row in rows):
        with contextlib.suppress(ValueError):
            if not is_missing(value) and reader.read(value) is not None:
                return True
    return all(is_missing(row.get(name)) for row in rows)


def _column_of_labels(config: DataConfig, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str | None:
    """The only column that holds names of `config.labels` and nothing else."""
    known = {fold(name) for name in config.labels or ()}

    def holds_labels(name: str) -> bool:
        values = [value for row in rows if not is_missing(value := row.get(name))]
        return bool(values) and all(isinstance(value, str) and fold(value) in known for value in values)

    found = [name for name in names if holds_labels(name)]
    return found[0] if len(found) == 1 else None


_LABEL_TYPES = (str, int, float, type(None))


def _text_column(source: str, rows: Sequence[dict[str, Any]], names: Sequence[str]) -> str:
    """The column of strings with a usual name, else the only column of strings that is no label and no id."""
    texts = {name: _share_of_texts(rows, name) for name in names}
    for usual in TEXT_NAMES:
        for name in names:
            if name.casefold() == usual and texts[name] != 0:
                return name
    others = [
        name for name in names if (texts[name] or 0) > 0.5 and name.casefold() not in LABEL_NAMES and not _is_id(name)
    ]
    if len(others) == 1:
        return others[0]
    shown = ", ".join(f"{name!r} ({_example(rows, name)})" for name in names)
    which = f"any of {others} may hold the texts" if others else "no column holds texts"
    raise InputError(f"{source}: {which}; the columns are {shown}; pass --text_column NAME")


def _share_of_texts(rows: Sequence[dict[str, Any]], name: str) -> float | None:
    """The share of strings that are no numbers among the values that are not blank; None if all are blank."""
    values = [text_of(value) for row in rows if not is_missing(value := row.get(name))]
    texts = sum(isinstance(value, str) and not is_number(value) for value in values)
    return texts / len(values) if values else None


def text_of(value: Any) -> Any:
    """The contents of a list of chat messages, a line each, as TRL's data sets have prompts; another value as it is."""
    if isinstance(value, list) and value and all(isinstance(part, dict) and "content" in part for part in value):
        contents = [part["content"] for part in value]
        return "\n".join(contents) if all(isinstance(content, str) for content in contents) else value
    return value


def is_number(text: str) -> bool:
    """Whether a text is a decimal number."""
    return text.strip().replace(".", "", 1).lstrip("+-").isdecimal()


def _is_id(name: str) -> bool:
    return name.casefold() in ID_NAMES or name.casefold().endswith(("_id", "-id", " id"))


def _example(rows: Sequence[dict[str, Any]], name: str) -> str:
    value = next((row[name] for row in rows if row.get(name) not in (None, "")), None)
    return shorten(value)


def shorten(value: Any) -> str:
    """`repr` of a value of a row for a message, cut if it is long."""
    text = repr(value)
    return text if len(text) <= EXAMPLE_LENGTH else text[:EXAMPLE_LENGTH] + "..."
