"""Run directories: resolved config, environment, one metrics row per logged step, results.

Everything is written to a sibling, `<name>.unfinished`, and renamed to `<name>` at the end. So `<name>` is always a
complete run, and a run that is being replaced exists until its successor is complete.
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
BEST = "best"  # in an unfinished run that diverged: the policy with the best objective
_ENDINGS = (InputError, IncompleteError, KeyboardInterrupt)  # of a run whose files nobody needs to inspect
_PACKAGES = ("eightball_ppo", "torch", "transformers", "trl", "accelerate", "datasets", "peft", "tokenizers", "numpy")


def check_output_dir(config: RunConfig) -> None:
    """Checks `output_dir`; every stage does so once, before anything else.

    Only a run of this package is ever replaced, and only on request. A stage whose work is in the grade store replaces
    its own runs; a stage that resumes in an existing directory checks its content itself.

    Raises:
        InputError: It cannot be a directory, holds anything that may not be replaced, or another process is at work.
    """
    check_writable(config.output_dir, "--output_dir")
    path = Path(config.output_dir).absolute()
    unfinished = staging_path(path)
    for directory in (unfinished, _replaced_path(path)):
        _check_belongs_to_a_run(directory)
    if unfinished.is_dir() and is_main_process():
        DirectoryLock(unfinished).close()
    _check_nothing_is_lost(config)


def _replaced_path(path: Path) -> Path:
    """Where a run is kept while its successor takes its name."""
    return path.with_name(path.name + ".replaced")


def _check_belongs_to_a_run(directory: Path) -> None:
    """Raises InputError unless a directory that will be removed is one that a run has written, or empty."""
    if not os.path.lexists(directory):
        return
    fix = "move it away, or name another --output_dir"
    if directory.is_symlink() or not directory.is_dir():
        raise InputError(f"{directory}: is no directory that a run has written; {fix}")
    names = {path.name for path in directory.iterdir() if not path.name.startswith(".")}
    if names and not names & {CONFIG, ENVIRONMENT, RESULTS, METRICS, "model.safetensors"}:  # a kill may leave one
        raise InputError(f"{directory}: holds files that no run has written; {fix}")


def _check_nothing_is_lost(config: RunConfig) -> None:
    """Raises InputError if the run would replace a run or a checkpoint without request."""
    path = Path(config.output_dir).absolute()
    _check_unfinished(config, staging_path(path))
    if config.resumes or not path.is_dir() or not any(path.iterdir()):
        return
    if not (path / RESULTS).is_file() or not (path / CONFIG).is_file():
        raise InputError(f"{config.output_dir}: holds files that are no run; name another --output_dir")
    method = None
    with contextlib.suppress(InputError):
        method = read_results(path)["method"]
    if not config.overwrite_output_dir and config.replaces != method:
        raise InputError(
            f"{config.output_dir}: holds another run; pass --overwrite_output_dir to replace it or another --output_dir"
        )


def _check_unfinished(config: RunConfig, unfinished: Path) -> None:
    """Raises InputError unless the unfinished run may be resumed or replaced as `config` asks."""
    checkpoints, resume = checkpoints_in(unfinished), config.resume_from_checkpoint
    if resume is not None and not checkpoints:
        raise InputError(
            f"--resume_from_checkpoint {resume}: {unfinished} holds no checkpoint; leave the flag out to start again"
        )
    if resume is not None or config.overwrite_output_dir:
        return
    if checkpoints:
        raise InputError(
            f"{config.output_dir}: {unfinished.name} holds checkpoints of a run that did not end; resume it by "
            "--resume_from_checkpoint true, move it away, or drop it by --overwrite_output_dir"
        )
    if (unfinished / BEST).exists():
        raise InputError(
            f"{config.output_dir}: {unfinished.name} holds the best policy of a run that diverged; move it away, or "
            "drop it by --overwrite_output_dir"
        )


class Run:
    """A run being written. Use as a context manager around the work, and call `finish(results)` as its last act.

    On an InputError, IncompleteError or KeyboardInterrupt, or where the disk or the memory is full, only checkpoints
    remain; on any other error `<name>.unfinished` remains for inspection. Only the main process writes.

    Args:
        config: The options of the stage, whose `output_dir` has passed `check_output_dir`.
        method: The name of the method or stage.
        progress: Where to resume the run in `<name>.unfinished`; what was written after it is removed.

    Attributes:
        config: The options, as config.yaml has them.
        path: The directory to write to.
        target: The directory of the finished run.
        results: What a method adds to results.json.
        obsolete_until: Checkpoints up to this update are of policies that the run has tried and dropped.

    Raises:
        InputError: Another process is at work in the output directory.
    """

    def __init__(self, config: RunConfig, method: str, progress: Progress | None = None):
        self.config, self.method = config, method
        self.target = Path(config.output_dir).absolute()
        self.path = staging_path(self.target)
        self._created_parents = [parent for parent in self.path.parents if not parent.exists()]
        self.started = time.monotonic() - (0.0 if progress is None else progress.seconds)
        self.results: dict[str, Any] = {}
        self.obsolete_until = 0
        self._keeps_checkpoints = isinstance(config, CheckpointedConfig) and config.save_steps is not None
        self._lock: DirectoryLock | None = None
        if is_main_process():
            self._lock = DirectoryLock(self.path)
            try:
                _check_nothing_is_lost(config)  # another process may have finished a run there meanwhile
                if progress is None:
                    clear_directory(self.path)
                    write_config(self.path, config)
                    write_json(self.path / ENVIRONMENT, environment(config.trust_remote_code))
                else:
                    rewind_to(self.path, progress)
                    self._record_resumption(progress.update)
            except (OSError, InputError) as error:
                self.__exit__(type(error), error, None)
                raise

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if self._lock is not None:
            try:
                self._cleanup(error)
            finally:
                self._lock.close()

    def _cleanup(self, error: BaseException | None) -> None:
        """Remove what cannot be resumed.

        Raises:
            IncompleteError: `error` says that the disk or the memory is full; this one says how to resume.
        """
        user_error = as_user_error(error)
        checkpoints = checkpoints_in(self.path)
        if not checkpoints and (user_error is not None or isinstance(error, _ENDINGS)):
            shutil.rmtree(self.path, ignore_errors=True)
            with contextlib.suppress(OSError):  # another process may have written there meanwhile
                for parent in self._created_parents:
                    parent.rmdir()
        if isinstance(user_error, IncompleteError):
            hint = f"; resume by --resume_from_checkpoint true, from {checkpoints[-1].name}" if checkpoints else ""
            raise IncompleteError(f"{user_error}{hint}") from error

    def _record_resumption(self, update: int) -> None:
        """Append the present environment to those in which the run began and was resumed."""
        content = read_environment(self.path)
        before = [entry for entry in content.get("resumed", []) if entry["after_update"] <= update]
        content["resumed"] = [*before, {"after_update": update, **environment()}]
        write_json(self.path / ENVIRONMENT, content)

    @property
    def seconds(self) -> float:
        """Wall seconds since the run began, without those between a stop and a resumption."""
        return time.monotonic() - self.started

    def log(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl; a number that is not finite becomes null."""
        if is_main_process():
            with (self.path / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(nan_to_null(row)) + "\n")

    def progress(self, update: int) -> Progress:
        """The progress after `update`; flushes metrics.jsonl to the disk."""
        return Progress(update, sync_file(self.path / METRICS), self.seconds)

    def finish(self, results: dict[str, Any]) -> Path:
        """Write results.json and rename the run to `target`, which is returned."""
        if is_main_process():
            write_json(self.path / RESULTS, results)
            for checkpoint in checkpoints_in(self.path):
                # without --save_steps a checkpoint is written only where the run is stopped
                if not self._keeps_checkpoints or update_of(checkpoint) <= self.obsolete_until:
                    remove_directory(checkpoint)
            replaced = _replaced_path(self.target)
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
    """Write `config.yaml`: every option as it was resolved, without keys or passwords."""
    resolved = yaml.safe_dump(redacted(dataclasses.asdict(config)), sort_keys=False)
    write_text(directory / CONFIG, resolved)


def _read_mapping(file: Path) -> dict[str, Any]:
    try:
        text = file.read_text(encoding="utf-8")
        return dict(yaml.safe_load(text) if file.name == CONFIG else json.loads(text))
    except (OSError, yaml.YAMLError, TypeError, ValueError, RecursionError):
        raise InputError(f"{file.parent}: no finished run, {file.name} is missing or damaged") from None


def read_config(directory: Path) -> dict[str, Any]:
    """The options of a run; raises InputError if there is no readable `config.yaml`."""
    return _read_mapping(directory / CONFIG)


def read_environment(directory: Path) -> dict[str, Any]:
    """The versions and the machine of a run; raises InputError if there is no readable `environment.json`."""
    return _read_mapping(directory / ENVIRONMENT)


def read_results(directory: Path) -> dict[str, Any]:
    """The results of a finished run; raises InputError if there is no readable `results.json` with a method in it."""
    results = _read_mapping(directory / RESULTS)
    if not isinstance(results.get("method"), str):
        raise InputError(f"{directory}: no finished run, {RESULTS} is missing or damaged")
    return results


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (path / METRICS).read_text(encoding="utf-8").splitlines()]


def environment(trust_remote_code: bool = False) -> dict[str, Any]:
    """Versions, machine, device, threads and processes; and whether code that came with a model was allowed to run."""
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
