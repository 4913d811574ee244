"""Questions from whatever a caller passes: texts, rows, columns, a data frame, a `datasets.Dataset`, a path."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from eightball_ppo.config.data import DataConfig
from eightball_ppo.data.questions import Questions
from eightball_ppo.data.reading import train_split
from eightball_ppo.data.rows import Side, read_rows
from eightball_ppo.data.sources import Rows, Source, from_dataset, open_split
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet

logger = logging.getLogger(__name__)
ACCEPTED = "texts, rows, columns, a pandas.DataFrame, a datasets.Dataset, a path or a Hub id"


def questions_from(
    data: Any,
    config: DataConfig,
    labels: LabelSet | None,
    role: Literal["train", "test"],
    keep_columns: bool = False,
) -> Questions:
    """Reads the questions of an object.

    Args:
        data: A list of texts or of rows (dicts), a dict of columns, a `pandas.DataFrame`, a `datasets.Dataset`, or the
            path or Hub id of a data set, of which the split to learn from is read.
        config: The options that name the columns; those that are missing are found.
        labels: The label set; None to ignore labels.
        role: Of "test", labels must be valid, and rows without one are left out if others have one. Of "train", the
            labels are kept only if all rows have a valid one.
        keep_columns: Whether the columns of the rows are kept, for a judge that takes them.

    Returns:
        The questions; `label_ids` is None if they have no labels.

    Raises:
        InputError: An object of another kind, no text column, or bad rows.
    """
    config, source = _source(data, config, f"{role} data")
    try:
        side = _read(config, source, labels, keep_columns)
    except InputError as error:
        if labels is None or role == "test":
            raise
        side = _read(config, source, None, keep_columns)  # a bad text is refused again
        logger.info("%s: the labels are not used (%s)", source.name, error)
    known, unknown = side
    if role == "test" and len(known):
        return known.dropping("unlabelled_rows", len(unknown))
    return known if len(known) and not len(unknown) else known.joined(unknown) if len(known) else unknown


def _read(config: DataConfig, source: Source, labels: LabelSet | None, keep_columns: bool) -> Side:
    return read_rows(config, source, (labels,), keep_columns=keep_columns)[0]


def _source(data: Any, config: DataConfig, name: str) -> tuple[DataConfig, Source]:
    """The options and the source of an object."""
    if isinstance(data, str | Path):
        config = replace(config, dataset_name=str(data))
        return config, open_split(config.dataset_name, train_split(config), config.dataset_config_name)
    if isinstance(data, Mapping) and hasattr(data, "with_format"):
        raise InputError(f"{name}: a DatasetDict with the splits {list(data)}; pass one of them")
    if hasattr(data, "features") and hasattr(data, "num_rows"):
        return config, from_dataset(name, data)
    if hasattr(data, "to_dict") and hasattr(data, "columns") and hasattr(data, "iloc"):
        data = data.to_dict("records")
    if isinstance(data, Mapping):
        columns = {column: list(values) for column, values in data.items()}
        lengths = {column: len(values) for column, values in columns.items()}
        if len(set(lengths.values())) > 1:
            raise InputError(f"{name}: the columns have {lengths} values")
        data = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    if not isinstance(data, Sequence):
        raise InputError(f"{name}: {ACCEPTED} are accepted, got {type(data).__name__}")
    return config, Source(name, lambda: _rows(data, config, name), {})


def _rows(data: Sequence[Any], config: DataConfig, name: str) -> Rows:
    for number, row in enumerate(data, start=1):
        if isinstance(row, str):
            yield number, {config.text_column: row}
        elif isinstance(row, Mapping):
            yield number, {str(column): value for column, value in row.items()}
        else:
            yield number, InputError(f"{name}:{number}: a text or a dict is needed, got {type(row).__name__}")
