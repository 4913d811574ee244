"""Trackers (`--report_to`): where they write, under which name, and that they are closed when a stage ends.

transformers' callbacks do the logging. What they leave open: the events of TensorBoard lay under the machine's name in
a `runs` of their own, Weights & Biases never ended a run, so that the next stage of the process wrote into it, and
Trackio goes on in a run that has the same name.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers.integrations.integration_utils import TensorBoardCallback, TrackioCallback, WandbCallback

from eightball_ppo.runtime.distributed import is_main_process
from eightball_ppo.runtime.redaction import redacted

PROJECT = "eightball"
TENSORBOARD = "tensorboard"


def project() -> str:
    """The project of Trackio, which transformers reads from its arguments and not from the environment."""
    return os.environ.get("TRACKIO_PROJECT", PROJECT)


def run_name(name: str, report_to: str) -> str:
    """`name`, for Trackio with the time: of two runs of one name it makes one, each step standing in it twice."""
    if not {"trackio", "all"} & set(report_to.split(",")):
        return name
    return f"{name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


@contextlib.contextmanager
def tracker_session(trainer: Any, directory: Path, stage: str) -> Iterator[None]:
    """Around `train()`: one run of each tracker, named by the trainer's `run_name`, closed at the end whatever happens.

    TensorBoard writes to `directory`/tensorboard/`stage` (unless TENSORBOARD_LOGGING_DIR is set) and is closed before
    the run gets its name; Weights & Biases and Trackio write where they always do. What trackers print is no result,
    so it goes to stderr. A run of Weights & Biases that the caller has open is used, and left open.
    """
    callbacks = {type(callback): callback for callback in trainer.callback_handler.callbacks}
    board, trackio = callbacks.get(TensorBoardCallback), callbacks.get(TrackioCallback)
    if board is not None and board.logging_dir is None:
        board.logging_dir = str(directory / TENSORBOARD / stage)
    opened = None
    with contextlib.redirect_stdout(sys.stderr):
        try:
            if WandbCallback in callbacks and is_main_process():
                opened = _open_wandb(trainer.args.run_name)
            yield
        except BaseException:
            if trackio is not None and trackio._initialized and is_main_process():
                trackio._trackio.finish()
            if opened is not None:
                opened.finish(exit_code=1)
                opened = None
            raise
        finally:
            if board is not None and board.tb_writer is not None:
                board.tb_writer.close()
            if opened is not None:
                opened.finish()


def _open_wandb(name: str) -> Any | None:
    """A new run of Weights & Biases, which keeps the command; none if one is open."""
    import wandb

    if wandb.run is not None:
        return None
    command = sys.argv
    sys.argv = [command[0], *redacted(command[1:])]  # it may hold a password in an address
    try:
        return wandb.init(project=os.environ.get("WANDB_PROJECT", PROJECT), name=name)
    finally:
        sys.argv = command
