"""How far an unfinished run has come: its checkpoints, and what is removed when it resumes from one of them."""

import dataclasses
import os
import re
import shutil
from pathlib import Path

from eightball_ppo.runtime.atomic_io import remove_directory

METRICS = "metrics.jsonl"


@dataclasses.dataclass(frozen=True)
class Progress:
    """How far a run had come at a checkpoint: updates, bytes of metrics.jsonl, wall seconds."""

    update: int
    metrics_bytes: int
    seconds: float


def staging_path(path: Path) -> Path:
    """Where a run is written that will be `path`."""
    return path.with_name(path.name + ".unfinished")


def checkpoints_in(directory: Path) -> list[Path]:
    """The complete checkpoints of a run, oldest first."""
    names = re.compile("checkpoint-[0-9]+")
    found = [path for path in directory.glob("checkpoint-*") if names.fullmatch(path.name)]
    return sorted(found, key=update_of)


def update_of(checkpoint: Path) -> int:
    """The update after which a checkpoint was written."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def clear_directory(directory: Path) -> None:
    """Remove what is in a directory, but not the directory, which is locked."""
    for path in directory.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def rewind_to(directory: Path, progress: Progress) -> None:
    """Remove what was written after a checkpoint: later and incomplete checkpoints, and rows of metrics.jsonl."""
    for path in (*directory.glob(".checkpoint-*"), *directory.glob(".dropped-*")):
        shutil.rmtree(path)
    for path in checkpoints_in(directory):
        if update_of(path) > progress.update:
            remove_directory(path)
    metrics = directory / METRICS
    if progress.metrics_bytes:
        os.truncate(metrics, progress.metrics_bytes)
    else:
        metrics.unlink(missing_ok=True)
