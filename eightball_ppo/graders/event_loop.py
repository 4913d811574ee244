"""Coroutines from synchronous code, also where an event loop is running already, as in a notebook."""

import asyncio
from collections.abc import Coroutine
from typing import Any, TypeVar

T = TypeVar("T")


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, in this thread; a loop that is running waits meanwhile, as for any synchronous call."""
    running = asyncio._get_running_loop()
    asyncio._set_running_loop(None)
    try:
        return asyncio.run(main)
    finally:
        asyncio._set_running_loop(running)
