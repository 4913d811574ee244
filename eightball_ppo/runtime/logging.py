"""What is printed beside a stage's own lines: our log messages from one process, little from the libraries."""

import contextlib
import logging
import os
import sys
from collections.abc import Iterator

from eightball_ppo.runtime.distributed import is_main_process


def configure_logging() -> None:
    """Send our log messages to stderr, from the main process; turn off telemetry and TRL's experimental notice."""
    level = logging.WARNING if is_main_process() else logging.CRITICAL
    logging.basicConfig(level=level, format="%(message)s", stream=sys.stderr)
    if is_main_process():
        logging.getLogger("eightball_ppo").setLevel(logging.INFO)
    logging.getLogger("stamina").setLevel(logging.ERROR)  # it logs every retry; only the last failure matters
    os.environ.setdefault("TRL_EXPERIMENTAL_SILENCE", "1")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")


@contextlib.contextmanager
def decisions_on_stderr() -> Iterator[None]:
    """Shows our log messages in the block, if the program has set up no logging of its own."""
    ours = logging.getLogger("eightball_ppo")
    if ours.handlers or logging.getLogger().handlers or not is_main_process():
        yield
        return
    handler, level = logging.StreamHandler(sys.stderr), ours.level
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)
    try:
        yield
    finally:
        ours.removeHandler(handler)
        ours.setLevel(level)


def silence_libraries() -> None:
    """Turn off transformers' bars and messages for loading and saving weights."""
    import warnings

    from transformers.utils import logging as transformers_logging

    # PEFT asks transformers by an old name, once for every model that is wrapped
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning)

    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()
