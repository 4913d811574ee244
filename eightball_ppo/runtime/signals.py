"""SIGTERM and SIGINT: a training finishes its update and writes a checkpoint first; anything else ends at once.

Python programs that call `train()` keep their own handlers: only the scripts install these (`cli.main`).
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
DEDUP_SECONDS = 1.0  # seconds in which a launcher passes on what its processes got from the terminal already


class Interrupted(KeyboardInterrupt):
    """A signal that ends the program; `number` says which."""

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number


class _SignalState:
    """What this process was asked for: the first signal, and whether a training is going on that can finish."""

    number = 0
    at = 0.0
    training = False


_state = _SignalState()


@contextmanager
def install_handlers() -> Iterator[None]:
    """Around a script's work. Outside `finishing` the first signal raises Interrupted; a second one ends at once."""
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
    if again and num_processes() > 1 and time.monotonic() - _state.at < DEDUP_SECONDS:
        return
    if again:
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    _state.number, _state.at = number, time.monotonic()
    if not _state.training:
        raise Interrupted(number)


@contextmanager
def defer_signals() -> Iterator[None]:
    """Around a training that looks at `asked()` after every update; what it did not look at any more counts after it.
    Within another one, which is made of several trainings, it counts for the next of them.

    Raises:
        Interrupted: a signal came after the last look.
    """
    within, _state.training = _state.training, True
    try:
        yield
    finally:
        _state.training = within
    if _state.number and not within:
        raise Interrupted(_state.number)


def pending_signal() -> int:
    """The number of the signal that came, or 0."""
    return _state.number
