"""Files and directories that survive a crash: whole under their name or not there; directories with a seal that shows
any damage."""

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from eightball_ppo.errors import InputError

CHECKSUMS = "complete.json"  # written last: size and sha256 of every other file


class DirectoryLock:
    """Keeps other processes out of a directory, which is made, until `release` or the end of this process.

    Raises:
        InputError: another process is at work there.
    """

    def __init__(self, directory: Path):
        while True:
            directory.mkdir(parents=True, exist_ok=True)
            try:
                self._descriptor = os.open(directory, os.O_RDONLY)
            except FileNotFoundError:  # it has just become a finished run
                continue
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(self._descriptor)
                raise InputError(
                    f"{directory}: another run is at work there; wait for its end, or name another --output_dir"
                ) from None
            if directory.is_dir() and os.path.samestat(os.fstat(self._descriptor), directory.stat()):
                return
            os.close(self._descriptor)

    def release(self) -> None:
        os.close(self._descriptor)


def write_directory(directory: Path, fill: Callable[[Path], None]) -> None:
    """Let `fill` write a hidden sibling, seal it, and give it the name `directory` once all of it is on the disk.

    Whoever reads meanwhile, and whatever happens, there is all of it or nothing. One that stands there is replaced.
    """
    growing = directory.with_name(f".{directory.name}")
    try:
        shutil.rmtree(growing, ignore_errors=True)
        growing.mkdir(parents=True)
        fill(growing)
        _write_checksums(growing)
        for folder, _, files in os.walk(growing, topdown=False):
            for path in (*(Path(folder) / name for name in files), Path(folder)):
                _sync(path)
        remove_directory(directory)
        growing.rename(directory)
        _sync(directory.parent)
    except BaseException:
        shutil.rmtree(growing, ignore_errors=True)
        raise


def remove_directory(directory: Path) -> None:
    """Remove a directory, if it is there; it loses its name before it loses its first file."""
    if directory.exists():
        falling = directory.with_name(f".dropped-{directory.name}")
        shutil.rmtree(falling, ignore_errors=True)
        directory.rename(falling)
        shutil.rmtree(falling)


def sync_file(path: Path) -> int:
    """Put a file on the disk, if it is there; returns its bytes."""
    if not path.exists():
        return 0
    _sync(path)
    return path.stat().st_size


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_checksums(directory: Path) -> None:
    files = {str(path.relative_to(directory)): _digest(path) for path in sorted(directory.rglob("*")) if path.is_file()}
    (directory / CHECKSUMS).write_text(json.dumps({"files": files}, indent=1) + "\n", encoding="utf-8")


def _digest(path: Path) -> dict[str, object]:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def verify_checksums(directory: Path) -> None:
    """Raises InputError, naming the file, unless every file is as it was written."""
    seal = directory / CHECKSUMS
    try:
        files = dict(json.loads(seal.read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{seal}: missing or damaged, so the checkpoint cannot be trusted") from None
    for name, digest in files.items():
        path = directory / name
        if not path.is_file():
            raise InputError(f"{path}: missing, so the checkpoint is damaged")
        if _digest(path) != digest:
            raise InputError(f"{path}: not as it was written, so the checkpoint is damaged")


def nan_to_null(value: Any) -> Any:
    """`value` as strict JSON holds it: null for every number that is not finite."""
    if isinstance(value, dict):
        return {key: nan_to_null(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [nan_to_null(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A path to write to; what was written is `path` once it is whole, and what was there stands until then."""
    growing = path.with_name(f".{path.name}.unfinished")
    try:
        yield growing
        growing.replace(path)
    finally:
        growing.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """A text file in UTF-8 that is whole, or as it was before."""
    with atomic_path(path) as file:
        file.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Strict JSON: a value that is not finite becomes null."""
    write_text(path, json.dumps(nan_to_null(content), indent=2, ensure_ascii=False) + "\n")
