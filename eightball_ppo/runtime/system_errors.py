"""What the machine refuses, in words: a place that nobody can write to, a full or failing disk, too little memory."""

import errno
import os
import re
from collections.abc import Iterator
from pathlib import Path

from eightball_ppo.errors import IncompleteError, InputError

FAILING = (
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EFBIG,
    errno.EIO,
    errno.EROFS,
    errno.ESTALE,
)  # goes away, or can be made to
REFUSED = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)  # another place is needed
_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # how safetensors and tokenizers say it, which are Rust

_OUT_OF_MEMORY = re.compile(
    "out of memory|(?:can't|cannot) allocate memory|not enough memory|_STATUS_ALLOC_FAILED", re.IGNORECASE
)


def check_writable(name: str, flag: str) -> None:
    """Raises InputError unless a directory of this `name`, which `flag` was given, can be made or written to."""
    path = Path(name).absolute()
    if not path.name or "\0" in name:
        raise InputError(f"{flag} {name!r}: no name of a directory; name another")
    there = path
    while not os.path.lexists(there):
        there = there.parent
    if there.is_symlink() and not there.exists():
        raise InputError(f"{flag} {name}: {there} is a link to nothing; name another directory")
    if there.is_dir() and not os.access(there, os.W_OK | os.X_OK):
        raise InputError(f"{flag} {name}: {there} cannot be written to; name another directory")


def as_user_error(error: BaseException) -> IncompleteError | InputError | None:
    """What to say where `error`, or what it came from, is the machine's doing; None where it is not.

    A disk that is full or fails, or too little memory, stops a stage on the way, exit code 3; a place that is not to be
    had is bad input.
    """
    for cause in _causes(error):
        if is_out_of_memory(cause):
            return IncompleteError(
                "out of memory; free some, or take a machine with more, and run the same command again, or begin anew "
                "with smaller batches; grades and checkpoints that were made are kept"
            )
        number, file = _number(cause), getattr(cause, "filename", None)
        where = "" if file is None else f"{file}: "
        if number in FAILING:
            return IncompleteError(
                f"{where}{os.strerror(number)}; make room, or name an --output_dir on another disk, and run the same "
                "command again; grades and checkpoints that were made are kept"
            )
        if number in REFUSED:
            return InputError(f"{where}{os.strerror(number)}; name another file or directory, or change who may use it")
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, the system or torch, on a card or the CPU, got less memory than it asked for."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's, without torch
        return True
    if isinstance(error, RuntimeError):
        return _OUT_OF_MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError) or _number(error) == errno.ENOMEM


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and what it was raised from, or raised while handling."""
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _number(error: BaseException) -> int:
    """The errno of an exception, 0 where it has none."""
    if isinstance(error, OSError):
        return error.errno or 0
    said = _OS_ERROR.search(str(error))
    return int(said[1]) if said else 0
