"""Long columns of texts, memory-mapped: Python strings exist only for the rows that are read."""

import contextlib
import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np
import pyarrow as pa

CHUNK_SIZE = 4096  # strings that are written or read at once
_SCHEMA = pa.schema([("text", pa.large_string())])


class ArrowTexts(Sequence[str]):
    """Strings in an Arrow column. A slice is a list."""

    def __init__(self, column: pa.ChunkedArray):
        self._column = column

    @classmethod
    def from_iterable(cls, texts: Iterable[str]) -> "ArrowTexts":
        """Writes `texts` to a temporary file that is memory-mapped and vanishes with the mapping."""
        return cls.partition(((0, text) for text in texts), 1)[0]

    @classmethod
    def partition(cls, texts: Iterable[tuple[int, str]], num_parts: int) -> list["ArrowTexts"]:
        """Writes (part, text) pairs in one pass to `num_parts` columns, each as `from_iterable` does."""
        with contextlib.ExitStack() as stack:
            writers = [stack.enter_context(_ArrowWriter()) for _ in range(num_parts)]
            for part, text in texts:
                writers[part].add(text)
            return [cls(writer.finish()) for writer in writers]

    @classmethod
    def concatenate(cls, parts: Iterable[Sequence[str]]) -> "ArrowTexts":
        """Joins columns of texts; those that are Arrow columns are not copied."""
        columns = [p._column if isinstance(p, cls) else pa.chunked_array([list(p)], pa.large_string()) for p in parts]
        return cls(pa.chunked_array([chunk for column in columns for chunk in column.chunks], pa.large_string()))

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

    def take(self, rows: Iterable[int]) -> "ArrowTexts":
        """The texts of `rows`, in that order, as a new memory-mapped column."""
        return ArrowTexts.from_iterable(self[row] for row in rows)


class _ArrowWriter(contextlib.AbstractContextManager["_ArrowWriter"]):
    """Writes strings to a temporary file (in TMPDIR), which is unlinked on exit."""

    def __init__(self) -> None:
        self._buffer: list[str] = []
        handle, self._path = tempfile.mkstemp(prefix="eightball-", suffix=".arrow")
        self._file = os.fdopen(handle, "wb")
        self._writer = pa.ipc.new_stream(self._file, _SCHEMA)

    def add(self, text: str) -> None:
        self._buffer.append(text)
        if len(self._buffer) == CHUNK_SIZE:
            self._flush()

    def _flush(self) -> None:
        self._writer.write_batch(pa.record_batch([pa.array(self._buffer, pa.large_string())], schema=_SCHEMA))
        self._buffer = []

    def finish(self) -> pa.ChunkedArray:
        """Closes the file and memory-maps the strings in it."""
        self._flush()
        self._writer.close()
        self._file.close()
        with pa.memory_map(self._path) as mapped:
            return pa.ipc.open_stream(mapped).read_all().column("text")

    def __exit__(self, *_: object) -> None:
        self._file.close()
        with contextlib.suppress(OSError):  # Windows cannot unlink a mapped file
            os.unlink(self._path)


def first_occurrence_N(texts: Sequence[str]) -> np.ndarray:
    """Marks each distinct text's first row.

    Compares hashes of 8 bytes first, and texts only where hashes collide: about 40 bytes a text while it runs.

    Returns:
        Boolean array of shape [N]; True where a text occurs for the first time.
    """
    hash_N = np.fromiter(map(hash, texts), np.int64, len(texts))
    order_N = hash_N.argsort(kind="stable")
    is_first_N = np.ones(len(texts), dtype=bool)
    collisions = np.flatnonzero(np.diff(hash_N[order_N]) == 0) + 1  # positions in `order_N` with the hash of the last
    group, seen = None, set[str]()
    for position in collisions.tolist():
        row = int(order_N[position])
        if hash_N[row] != group:
            group, seen = hash_N[row], {texts[int(order_N[position - 1])]}
        text = texts[row]
        is_first_N[row] = text not in seen
        seen.add(text)
    return is_first_N
