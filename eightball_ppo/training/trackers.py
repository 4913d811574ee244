"""Trackers (`--report_to`): which ones, where they write, under which name, and that they are closed after a stage.

transformers' callbacks do the logging. They put TensorBoard's events into a `runs` directory under the machine's name,
never end a run of Weights & Biases, so that the next stage of the process would write into it, and let Trackio
continue a run of the same name; `tracker_session` corrects that.
"""

import contextlib
import os
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers.integrations.integration_utils import (
    INTEGRATION_TO_CALLBACK,
    TensorBoardCallback,
    TrackioCallback,
    WandbCallback,
    get_available_reporting_integrations,
)

from eightball_ppo.config.fields import require
from eightball_ppo.runtime.distributed import is_main_process
from eightball_ppo.runtime.redaction import redacted

PROJECT = "eightball"


def resolve_report_to(report_to: str) -> list[str]:
    """The trackers that `--report_to` names (comma-separated; `none`, or `all` that are installed).

    Raises:
        InputError: A tracker that transformers does not know, or that is not installed.
    """
    if report_to == "none":
        return []  # to look for trackers is to import them
    installed = get_available_reporting_integrations()
    if report_to == "all":
        return installed
    known, names = INTEGRATION_TO_CALLBACK, report_to.split(",")
    for name in names:
        require(name in known, f"--report_to {report_to}: unknown tracker {name!r}; known: {', '.join(known)}")
        require(name in installed, f"--report_to {report_to}: {name} is not installed; pip install {name}")
    require("wandb" not in names or _wandb_can_log(), f"--report_to {report_to}: {NO_KEY}")
    return names


NO_KEY = "wandb has no key; run `wandb login`, or set WANDB_MODE=offline"


def _wandb_can_log() -> bool:
    if os.environ.get("WANDB_MODE") in ("offline", "disabled", "dryrun") or os.environ.get("WANDB_API_KEY"):
        return True
    import wandb  # heavy

    return bool(wandb.api.api_key)


def project() -> str:
    """The project of Trackio, which transformers reads from its arguments and not from the environment."""
    return os.environ.get("TRACKIO_PROJECT", PROJECT)


def run_name(name: str, report_to: str) -> str:
    """`name`, for Trackio with the time: it would merge two runs of one name, with each step in it twice."""
    if not {"trackio", "all"} & set(report_to.split(",")):
        return name
    return f"{name} {datetime.now(UTC):%Y-%m-%d %H:%M:%S}"


@contextlib.contextmanager
def tracker_session(trainer: Any, directory: Path, stage: str) -> Iterator[None]:
    """Context of `train()`: one run of each tracker, named by the trainer's `run_name`, closed even after an error.

    TensorBoard writes to `directory`/tensorboard/`stage` (unless TENSORBOARD_LOGGING_DIR is set) and is closed before
    the run gets its name; Weights & Biases and Trackio write where they always do. What trackers print goes to stderr.
    A run of Weights & Biases that the caller has open is used, and left open.
    """
    callbacks = {type(callback): callback for callback in trainer.callback_handler.callbacks}
    board, trackio = callbacks.get(TensorBoardCallback), callbacks.get(TrackioCallback)
    if board is not None and board.logging_dir is None:
        board.logging_dir = str(directory / "tensorboard" / stage)
    wandb_run, exit_code = None, {"exit_code": 1}
    with contextlib.redirect_stdout(sys.stderr):
        try:
            if WandbCallback in callbacks and is_main_process():
                wandb_run = _open_wandb(trainer.args.run_name)
            yield
            exit_code = {}
        except BaseException:
            if trackio is not None and trackio._initialized and is_main_process():
                trackio._trackio.finish()
            raise
        finally:
            if board is not None and board.tb_writer is not None:
                board.tb_writer.close()
            if wandb_run is not None:
                wandb_run.finish(**exit_code)


def _open_wandb(name: str) -> Any | None:
    """A new run of Weights & Biases, which records the command; None if one is open."""
    import wandb

    if wandb.run is not None:
        return None
    command = sys.argv
    sys.argv = [command[0], *redacted(command[1:])]  # it may hold a password in an address
    try:
        return wandb.init(project=os.environ.get("WANDB_PROJECT", PROJECT), name=name)
    finally:
        sys.argv = command
