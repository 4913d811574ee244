"""What a dataclass of options is made of: a field with its help text, and a condition with its message."""

import dataclasses
from dataclasses import fields, is_dataclass
from typing import Any

from eightball_ppo.errors import InputError


def option(default: Any, help: str, affects_results: bool = True) -> Any:
    """A dataclass field with the help text of its flag.

    Args:
        default: the field's default; a list is copied for each instance.
        help: help text of the flag.
        affects_results: False for a path, a display or the pace of grading. Two runs that differ only in such options
            have the same results.
    """
    metadata = {"help": help, "affects_results": affects_results}
    if isinstance(default, list):
        return dataclasses.field(default_factory=lambda: list(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


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
