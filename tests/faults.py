"""Faults to inject: writes that fail, too little memory."""

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


def full_at(size: int) -> Fault:
    """No file may have more than `size` bytes: the kernel fails the write, be it Python's, Rust's or SQLite's."""

    @contextlib.contextmanager
    def fault(_: Path) -> Iterator[None]:
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))  # Python ignores the signal, and gets EFBIG
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)

    return fault


def nth_write(nth: int, number: int = errno.ENOSPC) -> Fault:
    """The n-th time that Python makes, opens, writes or renames a file below the directory fails."""

    @contextlib.contextmanager
    def fault(directory: Path) -> Iterator[None]:
        count = 0

        def touch(path: Any) -> Any:
            nonlocal count
            if isinstance(path, int) or not Path(os.fsdecode(path)).absolute().is_relative_to(directory):
                return
            count += 1
            if count == nth:
                raise OSError(number, os.strerror(number), os.fsdecode(path))

        def watched(function: Callable[..., Any]) -> Callable[..., Any]:
            return lambda path, *args, **kwargs: (touch(path), function(path, *args, **kwargs))[1]

        def opened(path: Any, mode: str = "r", *args: Any, **kwargs: Any) -> Any:
            if not set(mode) & set("wax+"):
                return real_open(path, mode, *args, **kwargs)
            touch(path)
            file: Any = real_open(path, mode, *args, **kwargs)
            write = file.write
            file.write = lambda content: (touch(path), write(content))[1]
            return file

        real_open = io.open
        with pytest.MonkeyPatch.context() as patch:
            for name in ("mkdir", "rename", "replace"):
                patch.setattr(os, name, watched(getattr(os, name)))
            patch.setattr(io, "open", opened)
            patch.setattr("builtins.open", opened)
            yield

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
