"""Run directories: resolved config, environment, one metrics row per logged step, results. A finished name is whole.

Everything is written to a sibling, `<name>.unfinished`, and moved to `<name>` at the end; so `<name>` never holds half
a run, and a run that is being replaced stands until its successor is whole.
"""

import contextlib
import dataclasses
import json
import os
import platform
import shutil
import sys
import time
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from eightball_ppo.config.base import RunConfig
from eightball_ppo.config.training import CheckpointedConfig
from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.runtime.atomic_io import (
    DirectoryLock,
    nan_to_null,
    remove_directory,
    sync_file,
    write_json,
    write_text,
)
from eightball_ppo.runtime.distributed import is_main_process, num_processes, wait_for_everyone
from eightball_ppo.runtime.progress import (
    METRICS,
    Progress,
    checkpoints_in,
    clear_directory,
    rewind_to,
    staging_path,
    update_of,
)
from eightball_ppo.runtime.redaction import redacted
from eightball_ppo.runtime.system_errors import as_user_error, check_writable

RESULTS = "results.json"
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
BEST = "best"  # in an unfinished run that was given up: the policy with the best objective
_PACKAGES = ("eightball_ppo", "torch", "transformers", "trl", "accelerate", "datasets", "peft", "tokenizers", "numpy")


def check_output_dir(config: RunConfig) -> None:
    """Raises InputError if `output_dir` cannot be a directory, or holds anything that may not be replaced.

    Only a run of ours is ever replaced, and only on request; a stage whose work is in the grade store replaces its own,
    and one that resumes looks for itself.
    """
    check_writable(config.output_dir, "--output_dir")
    path = Path(config.output_dir).absolute()
    for part in (path, *path.parents):
        if part.is_file():
            raise InputError(f"{config.output_dir}: {part.name} is a file; name a directory in --output_dir")
    _check_unfinished(config, staging_path(path))
    if config.resumes or not path.is_dir() or not any(path.iterdir()):
        return
    if not (path / RESULTS).is_file() or not (path / CONFIG).is_file():
        raise InputError(f"{config.output_dir}: holds files that are no run; name another --output_dir")
    if not config.overwrite_output_dir and config.replaces != _method_of(path):
        raise InputError(
            f"{config.output_dir}: holds another run; pass --overwrite_output_dir to replace it or another --output_dir"
        )


def _check_unfinished(config: RunConfig, unfinished: Path) -> None:
    """Raises InputError if a run is being written there, one that may be gone on with, or none where one is needed."""
    if unfinished.is_dir() and is_main_process():
        DirectoryLock(unfinished).release()
    kept = checkpoints_in(unfinished)
    resume = f"--resume_from_checkpoint {config.resume_from_checkpoint}"
    if config.resume_from_checkpoint is not None and not kept:
        raise InputError(f"{resume}: {unfinished} holds no checkpoint; leave the flag out to begin anew")
    if config.resume_from_checkpoint is None and not config.overwrite_output_dir:
        if kept:
            raise InputError(
                f"{config.output_dir}: {unfinished.name} holds checkpoints of a run that did not end; go on with it "
                "by --resume_from_checkpoint true, move it away, or drop it by --overwrite_output_dir"
            )
        if (unfinished / BEST).exists():
            raise InputError(
                f"{config.output_dir}: {unfinished.name} holds the best policy of a run that was given up; move it "
                "away, or drop it by --overwrite_output_dir"
            )


def _method_of(path: Path) -> str | None:
    """The method of a finished run."""
    try:
        return json.loads((path / RESULTS).read_text(encoding="utf-8")).get("method")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


class Run:
    """A run being written. Use as a context manager around the work, and call `finish(results)` as its last act.

    With `progress`, go on with what stands in `<name>.unfinished`, put back to where it was then.
    On an InputError or IncompleteError, or where the disk is full, nothing is left behind but checkpoints; on any other
    error `<name>.unfinished` stays for a look. Nobody else can write there meanwhile.
    Only the main process writes; `path` is where the files of the run go.

    Raises:
        InputError: the output directory cannot be used, or another process is at work there.
    """

    def __init__(self, config: RunConfig, method: str, progress: Progress | None = None):
        check_output_dir(config)
        self.method = method
        self.target = Path(config.output_dir).absolute()
        self.path = staging_path(self.target)
        self._made = [parent for parent in self.path.parents if not parent.exists()]
        self.started = time.monotonic() - (0.0 if progress is None else progress.seconds)
        self.results: dict[str, Any] = {}  # what a method says of its training beside what all of them say
        self.tried_only = 0  # checkpoints up to this update are of policies that the run has tried and left
        self._keeps_checkpoints = isinstance(config, CheckpointedConfig) and config.save_steps is not None
        self._lock: DirectoryLock | None = None
        if is_main_process():
            self._lock = DirectoryLock(self.path)
            try:
                if progress is None:
                    clear_directory(self.path)
                    write_config(self.path, config)
                    write_json(self.path / ENVIRONMENT, environment(config.trust_remote_code))
                else:
                    rewind_to(self.path, progress)
                    self._note_resumption(progress.update)
            except OSError as error:
                self.__exit__(type(error), error, None)
                raise

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if is_main_process():
            try:
                self._leave(error)
            finally:
                if self._lock is not None:
                    self._lock.release()

    def _leave(self, error: BaseException | None) -> None:
        """Clear away what nobody can go on with.

        Raises:
            IncompleteError: instead of what says that the disk or the memory is full: how to go on.
        """
        told = None if error is None else as_user_error(error)
        stored = checkpoints_in(self.path)
        if not stored and (told is not None or isinstance(error, InputError | IncompleteError)):
            shutil.rmtree(self.path, ignore_errors=True)
            with contextlib.suppress(OSError):  # somebody else has put something there by now
                for parent in self._made:
                    parent.rmdir()
        if isinstance(told, IncompleteError):
            go_on = f"; go on with --resume_from_checkpoint true, from {stored[-1].name}" if stored else ""
            raise IncompleteError(f"{told}{go_on}") from error

    def _note_resumption(self, update: int) -> None:
        """With what the run goes on after `update`, beside what it began with."""
        content = read_environment(self.path)
        before = [own for own in content.get("resumed", []) if own["after_update"] <= update]  # the others are cut off
        content["resumed"] = [*before, {"after_update": update, **environment()}]
        write_json(self.path / ENVIRONMENT, content)

    @property
    def seconds(self) -> float:
        """Wall seconds since the run began, without those between a stop and a resumption."""
        return time.monotonic() - self.started

    def log(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl; a value that is not finite becomes null."""
        if is_main_process():
            with (self.path / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(nan_to_null(row)) + "\n")

    def progress(self, update: int) -> Progress:
        """How far the run is after `update`; the rows of metrics.jsonl are on the disk then."""
        return Progress(update, sync_file(self.path / METRICS), self.seconds)

    def finish(self, results: dict[str, Any]) -> Path:
        """Write results.json and give the run its name. Returns the finished directory."""
        if is_main_process():
            write_json(self.path / RESULTS, results)
            for checkpoint in checkpoints_in(self.path):
                # without --save_steps those that are there were written where the run was stopped
                if not self._keeps_checkpoints or update_of(checkpoint) <= self.tried_only:
                    remove_directory(checkpoint)
            replaced = self.target.with_name(self.target.name + ".replaced")
            shutil.rmtree(replaced, ignore_errors=True)  # of a run that was killed right here
            if self.target.exists():
                self.target.rename(replaced)
            try:
                self.path.rename(self.target)
            except OSError:
                if replaced.exists():
                    replaced.rename(self.target)
                raise
            shutil.rmtree(replaced, ignore_errors=True)
        wait_for_everyone()
        return self.target


def write_config(directory: Path, config: RunConfig) -> None:
    """`config.yaml`: every option as it was resolved, without keys or passwords."""
    resolved = yaml.safe_dump(redacted(dataclasses.asdict(config)), sort_keys=False)
    write_text(directory / CONFIG, resolved)


def read_config(directory: Path) -> dict[str, Any]:
    """The options that a run was made with.

    Raises:
        InputError: there is no readable `config.yaml`.
    """
    try:
        options = yaml.safe_load((directory / CONFIG).read_text(encoding="utf-8"))
        return dict(options)
    except (OSError, yaml.YAMLError, TypeError, ValueError, RecursionError):
        raise InputError(f"{directory}: no finished run, {CONFIG} is missing or damaged") from None


def read_results(directory: Path) -> dict[str, Any]:
    """The results of a finished run.

    Raises:
        InputError: there is no readable `results.json` with a method in it.
    """
    try:
        results = json.loads((directory / RESULTS).read_text(encoding="utf-8"))
        if not isinstance(results["method"], str):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{directory}: no finished run, {RESULTS} is missing or damaged") from None
    return results


def read_environment(directory: Path) -> dict[str, Any]:
    """The versions and the machine that a run was made with.

    Raises:
        InputError: there is no readable `environment.json`.
    """
    try:
        return dict(json.loads((directory / ENVIRONMENT).read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError, RecursionError):
        raise InputError(f"{directory}: no finished run, {ENVIRONMENT} is missing or damaged") from None


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (path / METRICS).read_text(encoding="utf-8").splitlines()]


def environment(trust_remote_code: bool = False) -> dict[str, Any]:
    """What a reader needs to judge or repeat the run: versions, machine, device, threads, processes; and whether code
    that came with a model could run, which may have changed anything."""
    import torch

    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "packages": {name: metadata.version(name) for name in _PACKAGES},
        "cpu_count": os.cpu_count(),
        "torch_threads": torch.get_num_threads(),
        "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "processes": num_processes(),
        "command": redacted([Path(sys.argv[0]).name, *sys.argv[1:]]),
        **({"trust_remote_code": True} if trust_remote_code else {}),
    }
