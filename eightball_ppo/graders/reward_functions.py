"""TRL's reward functions, called as TRL 1.12 calls them, once for every (text, label)."""

import hashlib
import inspect
import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from eightball_ppo.data import Questions
from eightball_ppo.errors import InputError
from eightball_ppo.graders.function_calls import Row, as_list, as_number, call, name_of
from eightball_ppo.labels import LabelSet

Columns = Mapping[str, Mapping[str, Any]]  # text -> the other columns of its row
_TRL_ARGUMENTS = ("prompts", "completions", "completion_ids", "trainer_state", "log_extra", "log_metric")


def columns_by_text(*splits: Questions) -> Columns:
    """The other columns of each text's row, in the splits that keep them; of equal texts, those of the first."""
    found: dict[str, dict[str, Any]] = {}
    for split in splits:
        for row, text in enumerate(split.texts if split.columns else ()):
            found.setdefault(text, {name: values[row] for name, values in split.columns.items()})
    return found


def reward_rows(
    functions: Sequence[Callable[..., Any]],
    weights: Sequence[float],
    texts: list[str],
    labels: LabelSet,
    columns: Columns,
) -> list[Row]:
    """The rows of TRL reward functions: the weighted sum, without those that returned None for the label."""
    rows = [columns.get(text, {}) for text in texts for _ in labels.names]
    pairs = [(text, name) for text in texts for name in labels.names]
    prompts = [row.get("prompt", text) for row, (text, _) in zip(rows, pairs, strict=True)]
    completions = [
        name if isinstance(prompt, str) else [{"role": "assistant", "content": name}]
        for prompt, (_, name) in zip(prompts, pairs, strict=True)
    ]
    arguments: dict[str, Any] = {
        "prompts": prompts,
        "completions": completions,
        "completion_ids": [[labels.id_of(name)] for _, name in pairs],
        "trainer_state": None,
        "log_extra": lambda *_: None,
        "log_metric": lambda *_: None,
        **{name: [row.get(name) for row in rows] for name in _column_names(columns)},
    }
    rewards = [_rewards(function, arguments, len(pairs)) for function in functions]
    total: list[float | None] = []
    for cell in zip(*rewards, strict=True):
        given = [weight * reward for weight, reward in zip(weights, cell, strict=True) if reward is not None]
        total.append(math.fsum(given) if given else None)
    per_text = [total[start : start + len(labels)] for start in range(0, len(total), len(labels))]
    return [_complete(cells, labels) for cells in per_text]


def _complete(cells: list[float | None], labels: LabelSet) -> Row:
    missing = [name for name, cell in zip(labels.names, cells, strict=True) if cell is None]
    return f"every function returned None for {missing}" if missing else [cell for cell in cells if cell is not None]


def _rewards(function: Callable[..., Any], arguments: dict[str, Any], number: int) -> list[float | None]:
    """The rewards of one function, called by keyword with the arguments that it takes."""
    name, needed = name_of(function), f"a list of {number} rewards is needed, one for each completion"
    parameters = inspect.signature(function).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        arguments = {key: value for key, value in arguments.items() if key in parameters}
    rewards = as_list(call(function, **arguments), name, needed)
    if len(rewards) != number:
        raise InputError(f"judge {name}: returned {len(rewards)} rewards; {needed}")
    return [None if reward is None else as_number(reward, name) for reward in rewards]


def _column_names(columns: Columns) -> list[str]:
    """The names of the columns that a function gets by keyword."""
    names = dict.fromkeys(name for row in columns.values() for name in row)
    return [name for name in names if name not in ("prompt", *_TRL_ARGUMENTS)]


def check_columns(functions: Sequence[Callable[..., Any]], columns: Columns, data: str = "the data") -> None:
    """Raises InputError if a function needs a column that `data` lack."""
    known = _column_names(columns)
    for function in functions:
        for parameter in inspect.signature(function).parameters.values():
            required = parameter.default is parameter.empty and parameter.kind in (
                parameter.POSITIONAL_OR_KEYWORD,
                parameter.KEYWORD_ONLY,
            )
            if required and parameter.name not in (*_TRL_ARGUMENTS, *known):
                has = f"the other columns of {data} are {known}" if known else f"{data} have no other columns"
                raise InputError(f"judge {name_of(function)}: needs the column {parameter.name!r}; {has}")


def columns_digest(columns: Columns) -> str:
    """A hash of the columns, because the rewards depend on them."""
    text = json.dumps([[text, columns[text]] for text in sorted(columns)], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:16] if columns else ""
