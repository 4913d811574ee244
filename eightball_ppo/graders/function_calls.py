"""Calls of the user's functions, and what they return as numbers."""

import asyncio
import contextlib
import functools
import inspect
import math
import sys
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from typing import Any

from eightball_ppo.errors import InputError

Row = Sequence[float] | str  # the K scores of one text, or the reason why there are none


def name_of(function: Callable[..., Any]) -> str:
    """The function's name, for messages."""
    return getattr(function, "__qualname__", type(function).__qualname__)


@functools.cache
def _background_loop() -> asyncio.AbstractEventLoop:
    """One loop for the whole process, so that a client that a judge keeps open between its calls stays usable."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="judges", daemon=True).start()
    return loop


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """The result of `coroutine`, also where the calling thread runs an event loop (a notebook); Ctrl-C cancels it."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _background_loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def call(function: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Calls a function of the user, sync or async; what it prints goes to stderr."""
    with printing_to_stderr(), exit_as_error():
        result = function(*args, **kwargs)
        return run_coroutine(result_of(result)) if inspect.isawaitable(result) else result


@contextlib.contextmanager
def printing_to_stderr() -> Iterator[None]:
    """Keeps what judges print off stdout; one thread at a time, because the program has one stdout."""
    with _PRINTING, contextlib.redirect_stdout(sys.stderr):
        yield


_PRINTING = threading.RLock()


@contextlib.contextmanager
def exit_as_error() -> Iterator[None]:
    """A judge that calls `sys.exit` has failed; it ends neither the program nor the loop of async judges."""
    try:
        yield
    except SystemExit as end:
        raise RuntimeError(f"called sys.exit({end.code!r})") from None


async def result_of(awaitable: Any) -> Any:
    """What the user's coroutine returns."""
    with exit_as_error():
        return await awaitable


def reason(error: BaseException) -> str:
    """One line on what a function raised."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"


def as_list(value: Any, name: str, needed: str) -> list[Any]:
    """The items of a list, a numpy or pandas object, or a tensor.

    Raises:
        InputError: Anything else; the message says what the function `name` returned, and what is `needed`.
    """
    if hasattr(value, "to_numpy"):  # a pandas object
        value = value.to_numpy()
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        return list(value)
    raise InputError(f"judge {name}: returned {str(value)[:40]!r} of type {type(value).__name__}; {needed}")


def as_number(value: Any, name: str) -> float:
    """The score as a float, NaN for None."""
    if hasattr(value, "item"):  # numpy's and torch's scalars
        value = value.item()
    if value is None:
        return math.nan
    if not isinstance(value, int | float):
        what = f"{str(value)[:40]!r} of type {type(value).__name__}"
        raise InputError(f"judge {name}: returned {what} as a score; numbers are needed")
    return float(value)
