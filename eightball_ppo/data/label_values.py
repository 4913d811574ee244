"""From the value of a label column to a label id."""

import math
from collections import Counter
from collections.abc import Sequence
from typing import Any

from eightball_ppo.labels import LabelSet

TRUTH = {"true": True, "false": False}
MAX_WHOLE = 2**53  # whole numbers below it are exact as floats
MAX_KNOWN = 20  # labels that a message names


class LabelReader:
    """Reads label values: names, spelled with any case and blanks around them, ids, and booleans of two labels.

    Args:
        labels: The labels.
        column: The column, for messages.
        classes: The names of a ClassLabel column, whose values are their numbers.
    """

    def __init__(self, labels: LabelSet, column: str, classes: Sequence[str] | None = None):
        self.labels, self.column, self.classes = labels, column, classes
        folded = Counter(map(fold, labels.names))
        self._ids = {fold(name): i for i, name in enumerate(labels.names) if folded[fold(name)] == 1}
        self._ids |= {name: i for i, name in enumerate(labels.names)}

    def read(self, value: Any) -> int:
        """The id of a label.

        Raises:
            ValueError: The value is no label; the message says why.
        """
        found, number = None, value
        if isinstance(value, str):
            found, number = self._by_name(value), number_of(value)
        if found is None:
            found = self._by_number(number)
        if found is None:
            known = list(self.labels.names)[:MAX_KNOWN]
            raise ValueError(f"unknown label {value!r} in column {self.column!r}; known: {known}")
        return found

    def _by_name(self, value: str) -> int | None:
        return self._ids.get(value.strip(), self._ids.get(fold(value)))

    def _by_number(self, number: Any) -> int | None:
        if isinstance(number, bool):
            found = self._by_name(str(number))
            return int(number) if found is None and len(self.labels) == 2 else found
        if not isinstance(number, int | float) or not abs(number) < MAX_WHOLE or number != int(number):
            return None
        number = int(number)
        found = self._by_name(str(number)) if self.classes is None else None
        if found is not None:
            return found
        names = self.labels.names if self.classes is None else self.classes
        if not 0 <= number < len(names):
            reason = f"is no id of {len(names)} labels, {list(names)[:MAX_KNOWN]}"
            raise ValueError(f"label {number} in column {self.column!r} {reason}")
        return self._by_name(names[number])


def fold(name: str) -> str:
    """A label name without its case and the blanks around it."""
    return name.strip().casefold()


def number_of(text: str) -> Any:
    """The number or boolean that a cell of a CSV file spells; else the stripped text."""
    text = text.strip()
    if fold(text) in TRUTH:
        return TRUTH[fold(text)]
    if text.replace(".", "", 1).lstrip("+-").isdecimal() and text.isascii() and len(text) < 16:
        return float(text)
    return text


def is_missing(value: Any, classes: Sequence[str] | None = None) -> bool:
    """Whether a row has no label: no value, a blank one, NaN, or -1 in a ClassLabel column of the names `classes`."""
    if value is None or (classes is not None and value == -1):
        return True
    return math.isnan(value) if isinstance(value, float) else isinstance(value, str) and not value.strip()


def merge_spellings(counts: Counter[str]) -> list[str]:
    """The label names, sorted; spellings that differ in case are one label, which the most frequent one names."""
    best: dict[str, str] = {}
    for name in sorted(counts, key=lambda name: (-counts[name], name)):
        best.setdefault(fold(name), name)
    return sorted(best.values())
