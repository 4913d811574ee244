"""SIGTERM and SIGINT: a training finishes its update and writes a checkpoint first; anything else ends at once.

Python programs that call `train()` keep their own handlers: only the command line installs these.
"""

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from eightball_ppo.runtime.distributed import num_processes

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
DEDUP_SECONDS = 1.0  # a launcher passes on a signal that its processes got from the terminal, too


class Interrupted(KeyboardInterrupt):
    """A signal that ends the program; `number` says which."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class _SignalState:
    """The first signal, 0 before one came; when it came; whether a training defers signals."""

    number = 0
    received_at = 0.0
    deferring = False


_state = _SignalState()


@contextmanager
def install_handlers() -> Iterator[None]:
    """Handles signals in the block: the first raises Interrupted, or waits for `defer_signals`; a second one kills."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _state.number = 0
    before: dict[signal.Signals, Any] = {number: signal.signal(number, _handle) for number in STOP_SIGNALS}
    try:
        yield
    finally:
        _state.number = 0
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle(number: int, frame: FrameType | None) -> None:
    again = _state.number != 0
    if again and num_processes() > 1 and time.monotonic() - _state.received_at < DEDUP_SECONDS:
        return
    if again:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    _state.number, _state.received_at = number, time.monotonic()
    if not _state.deferring:
        raise Interrupted(number)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Defers signals in the block, which must check `pending_signal` after every update. Blocks may be nested.

    Raises:
        Interrupted: A signal came after the last check; raised at the end of the outermost block.
    """
    nested, _state.deferring = _state.deferring, True
    try:
        yield
    finally:
        _state.deferring = nested
    if _state.number and not nested:
        raise Interrupted(_state.number)


def pending_signal() -> int:
    """The number of the signal that came, or 0."""
    return _state.number
