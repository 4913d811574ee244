"""Questions from whatever a caller passes: texts, rows, columns, a data frame, a `datasets.Dataset`, a path."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from eightball_ppo.config.data import DataConfig
from eightball_ppo.config.fields import require
from eightball_ppo.data.questions import HELD_OUT, Questions
from eightball_ppo.data.reading import cut, train_split
from eightball_ppo.data.rows import read_rows
from eightball_ppo.data.sources import Rows, Source, from_dataset, open_split
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet

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
        labels: The label set; None to ignore labels. Rows without a label are left out if others have one.
        role: For messages.
        keep_columns: Whether the columns of the rows are kept, for a judge that takes them.

    Returns:
        The questions; `label_ids` is None if they have no labels.

    Raises:
        InputError: An object of another kind, no text column, or bad rows.
    """
    config, source = _source(data, config, f"{role} data")
    known, unknown = read_rows(config, source, (labels,), keep_columns=keep_columns)[0]
    return known.dropping("unlabelled_rows", len(unknown)) if len(known) else unknown


def cut_questions(
    data: Any, config: DataConfig, labels: LabelSet, keep_columns: bool = False
) -> tuple[Questions, Questions]:
    """(train, held-out part) of an object, as a file that holds its rows would be cut.

    Args:
        data: As of `questions_from`.
        config: The data options; `dataset_test_split` may be the share to hold out.
        labels: The label set; the labels of the rows to learn from are not used.
        keep_columns: Whether the columns of the rows are kept.

    Raises:
        InputError: As `questions_from`, the name of a split, or one side is empty.
    """
    named = config.test_fraction is None and config.dataset_test_split != DataConfig.dataset_test_split
    require(
        not named,
        f"--dataset_test_split {config.dataset_test_split}: is no share; pass one, such as 0.2, or eval_dataset",
    )
    config, source = _source(data, config, "train data")
    return cut(config, source, config.test_fraction or HELD_OUT, None, labels, keep_columns)


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
        twice = [str(column) for column in data.columns[data.columns.duplicated()]]
        require(not twice, f"{name}: duplicate column {twice[:1]}; every column needs a name of its own")
        data = data.to_dict("records")
    if isinstance(data, Mapping):
        listed = {column: not isinstance(values, str) for column, values in data.items()}
        require(all(listed.values()), f"{name}: a column of a dict is a list of values; {listed} says which are lists")
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
