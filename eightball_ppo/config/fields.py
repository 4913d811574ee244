"""What a dataclass of options is made of: fields with a help text and a rule, and conditions with a message."""

import dataclasses
import functools
import math
import os
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any, NamedTuple, get_type_hints

from pydantic import TypeAdapter, ValidationError

from eightball_ppo.errors import InputError

MAX_COUNT = 10**9  # of every integer option but the seeds


class Rule(NamedTuple):
    """A condition on the value of an option, and the message for a value that breaks it."""

    holds: Callable[[Any], bool]
    message: str


ANY = Rule(lambda value: True, "")
AT_LEAST_1 = Rule(lambda value: value >= 1, "must be at least 1")
NOT_NEGATIVE = Rule(lambda value: value >= 0, "must not be negative")
POSITIVE = Rule(lambda value: value > 0, "must be above 0")
POSITIVE_FINITE = Rule(lambda value: 0 < value < math.inf, "must be above 0 and finite")
SHARE = Rule(lambda value: 0 <= value <= 1, "must be a share, 0 to 1")
PROBABILITY = Rule(lambda value: 0 <= value <= 1, "must be a probability, 0 to 1")
OPEN_SHARE = Rule(lambda value: 0 < value < 1, "must be between 0 and 1")
DECAY_RATE = Rule(lambda value: 0 <= value < 1, "must be at least 0 and below 1")
SEED = Rule(lambda value: 0 <= value < 2**31, f"must be between 0 and {2**31 - 1}")


def option(default: Any, help: str, rule: Rule = ANY, affects_results: bool = True) -> Any:
    """A dataclass field with the help text of its flag.

    Args:
        default: Default of the field; a list is copied for each instance.
        help: Help text of the flag.
        rule: What a value must fulfil unless it is None; of a list, every item. See `check_values`.
        affects_results: False for paths, display and the pace of grading. Runs that differ only in such options have
            the same results.
    """
    metadata = {"help": help, "affects_results": affects_results, "rule": rule}
    if isinstance(default, list):
        return dataclasses.field(default_factory=default.copy, metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def run_option(default: Any, help: str, rule: Rule = ANY) -> Any:
    """An `option` about how a run is executed, which does not affect its results."""
    return option(default, help, rule, affects_results=False)


def options_without_effect(*config_classes: type[Any]) -> frozenset[str]:
    """Names of the options of these classes that do not affect results, also where a subclass changes the default."""
    bases = {base for config_class in config_classes for base in config_class.__mro__ if is_dataclass(base)}
    return frozenset(
        field.name for base in bases for field in fields(base) if not field.metadata.get("affects_results", True)
    )


def require(condition: bool, message: str) -> None:
    """Raises InputError with `message` unless `condition` holds."""
    if not condition:
        raise InputError(message)


@functools.cache
def _types(config_class: Any) -> dict[str, TypeAdapter[Any]]:
    """A check of the type of each option."""
    hints = get_type_hints(config_class)
    return {field.name: TypeAdapter(hints[field.name]) for field in fields(config_class)}


def _plain(value: Any) -> Any:
    """A path as its text, a number of numpy or torch as Python's, a tuple as a list."""
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    return list(value) if isinstance(value, tuple) else value.item() if hasattr(value, "item") else value


def check_values(config: Any) -> None:
    """Checks every option: its type, its rule, and that it is finite and not too large.

    Paths become text, tuples lists, and numbers of numpy or torch Python's.

    Raises:
        InputError: The first option that cannot be used.
    """
    config_class: Any = type(config)
    types = _types(config_class)
    for field in fields(config):
        value, rule = _plain(getattr(config, field.name)), field.metadata.get("rule", ANY)
        try:
            setattr(config, field.name, types[field.name].validate_python(value, strict=True))
        except ValidationError as error:
            reason = error.errors()[0]["msg"]
            raise InputError(f"--{field.name} {value!r}: {reason[0].lower()}{reason[1:]}") from None
        if isinstance(value, float):
            require(math.isfinite(value), f"--{field.name} {value}: must be a finite number")
        if isinstance(value, int) and rule is not SEED:
            require(abs(value) <= MAX_COUNT, f"--{field.name} {value}: at most {MAX_COUNT}")
        for item in value if isinstance(value, list) else [value]:
            require(item is None or rule.holds(item), f"--{field.name} {item}: {rule.message}")
