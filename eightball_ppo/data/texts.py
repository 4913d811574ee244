"""Texts of a split: Python strings only while somebody looks at them."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import Self, overload

import pyarrow as pa

CHUNK_SIZE = 4096  # strings that are written or read together


class ArrowTexts(Sequence[str]):
    """Strings in an Arrow column. A slice is a list; equal to any sequence of the same strings."""

    def __init__(self, column: pa.ChunkedArray):
        self._column = column

    @classmethod
    def written(cls, texts: Iterable[str]) -> "ArrowTexts":
        """`texts`, in a temporary file that is mapped into memory and goes with the mapping."""
        return cls.written_apart(((0, text) for text in texts), 1)[0]

    @classmethod
    def written_apart(cls, texts: Iterable[tuple[int, str]], columns: int) -> list["ArrowTexts"]:
        """The texts that come with 0, with 1 ... and with `columns - 1`, written in one pass as `written` does."""
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(_ArrowWriter()) for _ in range(columns)]
            for column, text in texts:
                files[column].add(text)
            return [cls(file.column()) for file in files]

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
        for first in range(0, len(self), CHUNK_SIZE):
            yield from self[first : first + CHUNK_SIZE]

    def __eq__(self, other: object) -> bool:
        if isinstance(other, str) or not isinstance(other, Sequence):
            return NotImplemented
        return len(self) == len(other) and all(mine == theirs for mine, theirs in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Texts({self[:2]}{' ...' if len(self) > 2 else ''})"

    def take(self, rows: Iterable[int]) -> "ArrowTexts":
        """The texts of `rows`, in that order, in a temporary file of their own."""
        return ArrowTexts.written(self[row] for row in rows)


class _ArrowWriter:
    """A temporary file that strings are written to, in the directory that the environment variable TMPDIR names. It has
    no name any more once it is left."""

    def __init__(self) -> None:
        self._schema = pa.schema([("text", pa.large_string())])
        self._waiting: list[str] = []
        handle, self._path = tempfile.mkstemp(prefix="eightball-", suffix=".arrow")
        self._file = os.fdopen(handle, "wb")
        self._writer = pa.ipc.new_stream(self._file, self._schema)

    def __enter__(self) -> Self:
        return self

    def add(self, text: str) -> None:
        self._waiting.append(text)
        if len(self._waiting) == CHUNK_SIZE:
            self._write()

    def _write(self) -> None:
        self._writer.write_batch(pa.record_batch([pa.array(self._waiting, pa.large_string())], schema=self._schema))
        self._waiting = []

    def column(self) -> pa.ChunkedArray:
        """What was added, mapped into memory."""
        if self._waiting:
            self._write()
        self._writer.close()
        self._file.close()
        with pa.memory_map(self._path) as mapped:
            return pa.ipc.open_stream(mapped).read_all().column("text")

    def __exit__(self, *_: object) -> None:
        self._file.close()
        with contextlib.suppress(OSError):  # a system that keeps what is mapped removes it with its temporary files
            os.unlink(self._path)
