"""A machine that fails, on purpose: writes that do not get through, too little memory."""

import contextlib
import errno
import importlib
import io
import os
import resource
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

Fault = Callable[[Path], contextlib.AbstractContextManager[object]]
"""Given the directory whose files are concerned."""


def full_at(most: int) -> Fault:
    """No file may have more than `most` bytes: the kernel fails the write, be it Python's, Rust's or SQLite's."""

    @contextlib.contextmanager
    def fault(_: Path) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (most, before[1]))  # Python ignores the signal, and gets EFBIG
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return fault


class FailingDisk:
    """Below `directory` the n-th thing that Python does to the disk fails: to make, open, write or name a file."""

    def __init__(self, directory: Path, nth: int, number: int):
        self.directory, self.nth, self.number, self.count = directory, nth, number, 0

    def touch(self, path: Any) -> None:
        if isinstance(path, int) or not Path(os.fsdecode(path)).absolute().is_relative_to(self.directory):
            return
        self.count += 1
        if self.count == self.nth:
            raise OSError(self.number, os.strerror(self.number), os.fsdecode(path))

    def watch(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def watched(path: Any, *args: Any, **kwargs: Any) -> Any:
            self.touch(path)
            return function(path, *args, **kwargs)

        return watched

    def open(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not set(mode) & set("wax+"):
                return function(path, mode, *args, **kwargs)
            self.touch(path)
            file = function(path, mode, *args, **kwargs)
            write = file.write

            def written(content: Any) -> Any:
                self.touch(path)
                return write(content)

            file.write = written
            return file

        return opened


def nth_write(nth: int, number: int = errno.ENOSPC) -> Fault:
    """See `FailingDisk`."""

    @contextlib.contextmanager
    def fault(directory: Path) -> Iterator[FailingDisk]:
        disk = FailingDisk(directory, nth, number)
        with pytest.MonkeyPatch.context() as patched:
            for name in ("mkdir", "rename", "replace"):
                patched.setattr(os, name, disk.watch(getattr(os, name)))
            patched.setattr(io, "open", disk.open(io.open))
            patched.setattr("builtins.open", io.open)
            yield disk

    return fault


def failing(function: str, error: Exception, after: int = 0) -> Fault:
    """`function`, by its module and name, raises `error` once, at its call after `after` others."""

    @contextlib.contextmanager
    def fault(_: Path) -> Iterator[None]:
        calls = iter(range(10**9))
        with pytest.MonkeyPatch.context() as patched:
            module, name = function.rsplit(".", 1)
            original = importlib.import_module(module)
            real = getattr(original, name)

            def called(*args: Any, **kwargs: Any) -> Any:
                if next(calls) == after:
                    raise error
                return real(*args, **kwargs)

            patched.setattr(original, name, called)
            yield

    return fault
