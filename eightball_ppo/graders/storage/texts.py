"""Long columns of texts, looked at a few thousand at a time: no list of all of them is made anywhere."""

from collections.abc import Iterator, Sequence
from itertools import chain
from typing import overload

import numpy as np

CHUNK_SIZE = 2048


class ConcatTexts(Sequence[str]):
    """Several columns of texts as one, without a copy. A slice is a list."""

    def __init__(self, parts: Sequence[Sequence[str]]):
        self._parts = [part for part in parts if len(part)]
        self._start_P1 = np.cumsum([0, *map(len, self._parts)])

    def __len__(self) -> int:
        return int(self._start_P1[-1])

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            first, last, step = index.indices(len(self))
            if step < 1:
                return [self[row] for row in range(first, last, step)]
            spans = zip(self._parts, self._start_P1.tolist(), strict=False)
            wanted = (list(part[max(0, first - start) : max(0, last - start)]) for part, start in spans)
            return list(chain.from_iterable(wanted))[::step]
        row = range(len(self))[index]
        part = int(np.searchsorted(self._start_P1, row, side="right")) - 1
        return self._parts[part][row - int(self._start_P1[part])]

    def __iter__(self) -> Iterator[str]:
        return chain.from_iterable(self._parts)


def chunks(texts: Sequence[str], size: int = CHUNK_SIZE) -> Iterator[Sequence[str]]:
    """`texts` in pieces of at most `size`, none of them empty."""
    return (texts[start : start + size] for start in range(0, len(texts), size))


def first_occurrence_N(texts: Sequence[str]) -> np.ndarray:
    """True where a text stands for the first time; takes some 40 bytes a text while it works, and 1 afterwards.

    Texts are told apart by a hash of 8 bytes, and looked at only where two have the same.
    """
    hash_N = np.fromiter(map(hash, texts), np.int64, len(texts))
    order_N = hash_N.argsort(kind="stable")
    first = np.ones(len(texts), dtype=bool)
    again = np.flatnonzero(np.diff(hash_N[order_N]) == 0) + 1  # places in `order_N` whose neighbour has the same hash
    group, seen = None, set[str]()
    for place in again.tolist():
        row = int(order_N[place])
        if hash_N[row] != group:
            group, seen = hash_N[row], {texts[int(order_N[place - 1])]}
        text = texts[row]
        first[row] = text not in seen
        seen.add(text)
    return first
