"""Texts of a split: Python strings only while somebody looks at them."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import overload

import pyarrow as pa

AT_ONCE = 4096  # strings that are written or read together


class Texts(Sequence[str]):
    """Strings in an Arrow column. A slice is a list; equal to any sequence of the same strings."""

    def __init__(self, column: pa.ChunkedArray):
        self._column = column

    @classmethod
    def written(cls, texts: Iterable[str]) -> "Texts":
        """`texts`, in a temporary file that is mapped into memory and goes with the mapping."""
        handle, path = tempfile.mkstemp(prefix="eightball-", suffix=".arrow")
        schema = pa.schema([("text", pa.large_string())])
        strings = iter(texts)
        try:
            with os.fdopen(handle, "wb") as file, pa.ipc.new_stream(file, schema) as writer:
                while some := list(islice(strings, AT_ONCE)):
                    writer.write_batch(pa.record_batch([pa.array(some, pa.large_string())], schema=schema))
            with pa.memory_map(path) as mapped:
                return cls(pa.ipc.open_stream(mapped).read_all().column("text"))
        finally:
            with contextlib.suppress(OSError):  # a system that keeps what is mapped removes it with its temporary files
                os.unlink(path)

    def __len__(self) -> int:
        return len(self._column)

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if not isinstance(index, slice):
            return str(self._column[int(index)].as_py())
        rows = range(len(self))[index]
        if rows.step == 1:
            return list(self._column.slice(rows.start, len(rows)).to_pylist())
        return [self[row] for row in rows]

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), AT_ONCE):
            yield from self[first : first + AT_ONCE]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str) or not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Texts({self[:2]}{' ...' if len(self) > 2 else ''})"

    def take(self, rows: Sequence[int]) -> "Texts":
        """The texts of `rows`, in that order."""
        return Texts(self._column.take(pa.array(rows, pa.int64())))
