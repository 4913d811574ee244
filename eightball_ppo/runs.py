"""Run directories: resolved config, environment, one metrics row per logged step, results. A finished name is whole.

Everything is written to a sibling, `<name>.unfinished`, and moved to `<name>` at the end; so `<name>` never holds half
a run, and a run that is being replaced stands until its successor is whole.
"""

import contextlib
import dataclasses
import json
import math
import os
import platform
import shutil
import sys
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from types import TracebackType
from typing import Any

import yaml

from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.machine import check_place, refusal
from eightball_ppo.options import StageConfig
from eightball_ppo.ranks import is_main_process, num_processes, wait_for_everyone
from eightball_ppo.redaction import redacted

RESULTS = "results.json"
METRICS = "metrics.jsonl"
CONFIG = "config.yaml"
ENVIRONMENT = "environment.json"
_PACKAGES = ("eightball_ppo", "torch", "transformers", "trl", "accelerate", "datasets", "peft", "tokenizers", "numpy")


def check_output_dir(config: StageConfig) -> None:
    """Raises InputError if `output_dir` cannot be a directory, or holds anything that may not be replaced.

    Only a run of ours is ever replaced, and only on request; a stage whose work is in the grade store replaces its own,
    and one that resumes looks for itself.
    """
    check_place(config.output_dir, "--output_dir")
    path = Path(config.output_dir).absolute()
    for part in (path, *path.parents):
        if part.is_file():
            raise InputError(f"{config.output_dir}: {part.name} is a file; name a directory in --output_dir")
    unfinished = _unfinished(path)
    if checkpoints_in(unfinished) and not config.overwrite_output_dir:
        raise InputError(
            f"{config.output_dir}: {unfinished.name} holds checkpoints of a run that did not end; move it away, or "
            "pass --overwrite_output_dir to drop them"
        )
    if config.resumes or not path.is_dir() or not any(path.iterdir()):
        return
    if not (path / RESULTS).is_file() or not (path / CONFIG).is_file():
        raise InputError(f"{config.output_dir}: holds files that are no run; name another --output_dir")
    if not config.overwrite_output_dir and config.replaces != _method_of(path):
        raise InputError(
            f"{config.output_dir}: holds another run; pass --overwrite_output_dir to replace it or another --output_dir"
        )


def _unfinished(path: Path) -> Path:
    """Where a run is written that will be `path`."""
    return path.with_name(path.name + ".unfinished")


def checkpoints_in(directory: Path) -> list[Path]:
    """The whole checkpoints of a run, oldest first."""
    found = [path for path in directory.glob("checkpoint-*") if path.name.removeprefix("checkpoint-").isdigit()]
    return sorted(found, key=lambda path: int(path.name.removeprefix("checkpoint-")))


def _method_of(path: Path) -> str | None:
    """The method of a finished run."""
    try:
        return json.loads((path / RESULTS).read_text(encoding="utf-8")).get("method")
    except (OSError, ValueError, AttributeError, RecursionError):
        return None


class Run:
    """A run being written. Use as a context manager around the work, and call `finish(results)` as its last act.

    On an InputError or IncompleteError, or where the disk is full, nothing is left behind but checkpoints; on any other
    error `<name>.unfinished` stays for a look.
    Only the main process writes; `path` is where the files of the run go.
    """

    def __init__(self, config: StageConfig, method: str):
        check_output_dir(config)
        self.method = method
        self.target = Path(config.output_dir).absolute()
        self.path = _unfinished(self.target)
        self._made = [parent for parent in self.path.parents if not parent.exists()]
        self.started = time.monotonic()
        if is_main_process():
            if self.path.exists():
                shutil.rmtree(self.path)
            try:
                self.path.mkdir(parents=True)
                write_config(self.path, config)
                write_json(self.path / ENVIRONMENT, environment())
            except OSError:
                self._remove()
                raise

    def __enter__(self) -> "Run":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        foreseen = isinstance(error, InputError | IncompleteError) or (error is not None and refusal(error) is not None)
        if foreseen and is_main_process() and not checkpoints_in(self.path):
            self._remove()

    def _remove(self) -> None:
        """Take away what is unfinished, and the directories that were made for it."""
        shutil.rmtree(self.path, ignore_errors=True)
        with contextlib.suppress(OSError):  # somebody else has put something there by now
            for parent in self._made:
                parent.rmdir()

    @property
    def seconds(self) -> float:
        """Wall seconds since the run began."""
        return time.monotonic() - self.started

    def log(self, row: dict[str, Any]) -> None:
        """Append one row to metrics.jsonl; a value that is not finite becomes null."""
        if is_main_process():
            with (self.path / METRICS).open("a", encoding="utf-8") as file:
                file.write(json.dumps(_finite(row)) + "\n")

    def finish(self, results: dict[str, Any]) -> Path:
        """Write results.json and give the run its name. Returns the finished directory."""
        if is_main_process():
            write_json(self.path / RESULTS, results)
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


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def whole(path: Path) -> Iterator[Path]:
    """A path to write to; what was written is `path` once it is whole, and what was there stands until then."""
    growing = path.with_name(f".{path.name}.unfinished")
    try:
        yield growing
        growing.replace(path)
    finally:
        growing.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8 that is whole, or as it was before."""
    with whole(path) as file:
        file.write_text(text, encoding="utf-8")


def write_config(directory: Path, config: StageConfig) -> None:
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


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Strict JSON: a value that is not finite becomes null."""
    write_text(path, json.dumps(_finite(content), indent=2, ensure_ascii=False) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (path / METRICS).read_text(encoding="utf-8").splitlines()]


def environment() -> dict[str, Any]:
    """What a reader needs to judge or repeat the run: versions, machine, device, threads, processes."""
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
    }
