"""What a dataclass of options is made of: a field with its help text, and a condition with its message."""

from dataclasses import field, fields, is_dataclass
from typing import Any

from eightball_ppo.errors import InputError


def option(default: Any, help: str, free: bool = False) -> Any:
    """A dataclass field whose help text becomes the flag's. `free`: it changes nothing of what is learned or measured,
    such as a place, a display or the pace of grading, so two runs that differ in it alone are alike."""
    metadata = {"help": help, "free": free}
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def options_without_effect(*config_classes: type[Any]) -> frozenset[str]:
    """The names of the free options of these classes; what a class gives another default stays free."""
    bases = {base for own in config_classes for base in own.__mro__ if is_dataclass(base)}
    return frozenset(own.name for base in bases for own in fields(base) if own.metadata.get("free"))


def require(condition: bool, message: str) -> None:
    """Raises InputError with `message` unless `condition` holds."""
    if not condition:
        raise InputError(message)
