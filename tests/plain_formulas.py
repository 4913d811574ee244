"""Formulas of the tests by hand: plain Python over lists."""

import math
from collections.abc import Sequence

Row = Sequence[float]


def log_softmax(logits: Row) -> list[float]:
    largest = max(logits)
    total = math.log(sum(math.exp(x - largest) for x in logits)) + largest
    return [x - total for x in logits]


def entropy(logp: Row) -> float:
    return -sum(math.exp(x) * x for x in logp)


def clip(x: float, low: float, high: float) -> float:
    return max(low, min(high, x))
