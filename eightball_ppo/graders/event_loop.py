"""Runs coroutines from ordinary code, also where the calling thread has a running event loop (a notebook)."""

import asyncio
import functools
import threading
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


@functools.cache
def _background_loop() -> asyncio.AbstractEventLoop:
    """One loop for the whole process, so that a client that a judge keeps open between calls stays usable."""
    loop = asyncio.new_event_loop()
    threading.Thread(target=loop.run_forever, name="judges", daemon=True).start()
    return loop


def run_coroutine(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Runs `coroutine` in the background loop, waits for it, and returns its result; Ctrl-C cancels it."""
    future = asyncio.run_coroutine_threadsafe(coroutine, _background_loop())
    try:
        return future.result()
    except BaseException:
        future.cancel()
        raise


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, in this thread; a loop that is running waits meanwhile, as for any synchronous call."""
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        return asyncio.run(main)
    finally:
        asyncio._set_running_loop(running)
