"""Errors of the machine as user-facing errors: a directory without write access, a full or failing disk, no memory."""

import errno
import os
import re
from pathlib import Path

from eightball_ppo.errors import IncompleteError, InputError

# of a disk: they pass, or the user can end them
RETRYABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EROFS, errno.ESTALE)
PERMANENT = (errno.EACCES, errno.EPERM, errno.ENAMETOOLONG, errno.ELOOP)  # another path is needed
_RUST_OS_ERROR = re.compile(r"\(os error (\d+)\)")  # of safetensors and tokenizers
_OUT_OF_MEMORY = re.compile(
    "out of memory|(?:can't|cannot) allocate memory|not enough memory|_STATUS_ALLOC_FAILED", re.IGNORECASE
)


def check_writable(name: str, flag: str) -> None:
    """Raises InputError unless a directory of this `name`, which `flag` was given, can be created or written to."""
    path = Path(name).absolute()
    if not path.name or "\0" in name:
        raise InputError(f"{flag} {name!r}: no name of a directory; name another")
    existing = path
    while not os.path.lexists(existing):
        existing = existing.parent
    if existing.is_file():
        raise InputError(f"{name}: {existing.name} is a file; name a directory in {flag}")
    if existing.is_symlink() and not existing.exists():
        raise InputError(f"{flag} {name}: {existing} is a link to nothing; name another directory")
    if existing.is_dir() and not os.access(existing, os.W_OK | os.X_OK):
        raise InputError(f"{flag} {name}: {existing} cannot be written to; name another directory")


def as_user_error(error: BaseException | None) -> IncompleteError | InputError | None:
    """Maps an OS or out-of-memory error in the cause chain to a user-facing error; returns None if there is none."""
    while error is not None:
        if is_out_of_memory(error):
            return IncompleteError(
                "out of memory; free some, or take a machine with more, and run the same command again, or start again "
                "with smaller batches; finished grades and checkpoints are kept"
            )
        number, file = _errno(error), getattr(error, "filename", None)
        where = "" if file is None else f"{file}: "
        if number in RETRYABLE:
            return IncompleteError(
                f"{where}{os.strerror(number)}; make room, or name an --output_dir on another disk, and run the same "
                "command again; finished grades and checkpoints are kept"
            )
        if number in PERMANENT:
            return InputError(f"{where}{os.strerror(number)}; name another file or directory, or change who may use it")
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return None


def is_out_of_memory(error: BaseException) -> bool:
    """Whether Python, the system or torch, on a GPU or the CPU, got less memory than it asked for."""
    if type(error).__name__ == "OutOfMemoryError":  # torch's, without importing torch
        return True
    if isinstance(error, RuntimeError):
        return _OUT_OF_MEMORY.search(str(error)) is not None
    return isinstance(error, MemoryError) or _errno(error) == errno.ENOMEM


def _errno(error: BaseException) -> int:
    """The errno of an exception, 0 where it has none."""
    if isinstance(error, OSError):
        return error.errno or 0
    match = _RUST_OS_ERROR.search(str(error))
    return int(match[1]) if match else 0
