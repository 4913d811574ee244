"""Files and directories that survive a crash: complete or absent, with checksums that show any damage."""

import contextlib
import hashlib
import json
import math
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from filelock import lock_descriptor

from eightball_ppo.errors import InputError

CHECKSUMS = "complete.json"  # written last: size and sha256 of every other file
MAX_NAME_LENGTH = 200  # of a file in it: a longer one is not ours, and the system may refuse it


class DirectoryLock:
    """Keeps other processes out of a directory until `close` or the end of this process.

    The lock is on the directory itself: it leaves no file and follows a rename.

    Args:
        directory: The directory to lock; created if missing.

    Raises:
        InputError: Another process holds the lock, or the file system has no locks.
    """

    def __init__(self, directory: Path):
        self.directory = directory
        while True:
            directory.mkdir(parents=True, exist_ok=True)
            try:
                self._descriptor = os.open(directory, os.O_RDONLY)
            except FileNotFoundError:  # another process has just renamed or removed it
                continue
            try:
                free = lock_descriptor(self._descriptor, blocking=False)
            except OSError as error:
                self.close()
                problem = f"cannot be locked ({error.strerror}); name an --output_dir on a file system with locks"
                raise InputError(f"{directory}: {problem}") from None
            if not free:
                os.close(self._descriptor)
                raise InputError(
                    f"{directory}: another run is at work there; wait for its end, or name another --output_dir"
                )
            if directory.is_dir() and os.path.samestat(os.fstat(self._descriptor), directory.stat()):
                return
            os.close(self._descriptor)

    def close(self) -> None:
        """Release the lock; removes the directory if it is empty."""
        with contextlib.suppress(OSError):
            self.directory.rmdir()
        os.close(self._descriptor)


def write_directory(directory: Path, fill: Callable[[Path], None]) -> None:
    """Create or replace a directory atomically: readers see all of it or none of it, also after a crash.

    Args:
        directory: Where the directory will be.
        fill: Writes the files into the directory that it is given, a hidden sibling; checksums are added to them.
    """
    staging = directory.with_name(f".{directory.name}")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        fill(staging)
        _write_checksums(staging)
        for folder, _, files in os.walk(staging, topdown=False):
            for path in (*(Path(folder) / name for name in files), Path(folder)):
                _sync(path)
        remove_directory(directory)
        staging.rename(directory)
        _sync(directory.parent)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        raise


def remove_directory(directory: Path) -> None:
    """Remove a directory, if it exists; it is renamed first, so that a crash leaves no half of it."""
    if directory.exists():
        dropped = directory.with_name(f".dropped-{directory.name}")
        shutil.rmtree(dropped, ignore_errors=True)
        directory.rename(dropped)
        shutil.rmtree(dropped)


def sync_file(path: Path) -> int:
    """Flush a file to the disk, if it exists; returns its size in bytes."""
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
    manifest = directory / CHECKSUMS
    try:
        files = dict(json.loads(manifest.read_text(encoding="utf-8"))["files"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise InputError(f"{manifest}: missing or damaged, so the checkpoint cannot be trusted") from None
    for name, digest in files.items():
        path = directory / name
        if len(name) > MAX_NAME_LENGTH or not path.is_file():
            raise InputError(f"{path}: missing, so the checkpoint is damaged")
        if _digest(path) != digest:
            raise InputError(f"{path}: not as it was written, so the checkpoint is damaged")


def map_leaves(value: Any, fn: Callable[[Any], Any]) -> Any:
    """Applies `fn` to every value in nested dicts, lists and tuples; tuples become lists."""
    if isinstance(value, dict):
        return {key: map_leaves(item, fn) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [map_leaves(item, fn) for item in value]
    return fn(value)


def nan_to_null(value: Any) -> Any:
    """`value` as strict JSON can hold it: None in place of every number that is not finite."""
    return map_leaves(value, lambda leaf: None if isinstance(leaf, float) and not math.isfinite(leaf) else leaf)


@contextlib.contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """A sibling of `path` to write to, which replaces `path` if the block ends without an error."""
    staging = path.with_name(f".{path.name}.unfinished")
    try:
        yield staging
        staging.replace(path)
    finally:
        staging.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write a text file in UTF-8 atomically."""
    with atomic_path(path) as file:
        file.write_text(text, encoding="utf-8")


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write strict JSON atomically; a number that is not finite becomes null."""
    write_text(path, json.dumps(nan_to_null(content), indent=2, ensure_ascii=False) + "\n")
