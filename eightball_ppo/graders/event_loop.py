"""Runs coroutines from ordinary code, also where the calling thread has a running event loop (a notebook)."""

import asyncio
import functools
import threading
from collections.abc import Coroutine
from typing import Any


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


def has_running_loop() -> bool:
    """Whether the calling thread is inside an event loop, where `asyncio.run` is refused."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return False
    return True
