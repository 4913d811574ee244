"""What a dataclass of options is made of: a field with its help text, and a condition with its message."""

from dataclasses import field
from typing import Any

from eightball_ppo.errors import InputError


def option(default: Any, help: str) -> Any:
    """A dataclass field whose help text becomes the flag's."""
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata={"help": help})
    return field(default=default, metadata={"help": help})


def require(condition: bool, message: str) -> None:
    """Raises InputError with `message` unless `condition` holds."""
    if not condition:
        raise InputError(message)
