"""Judges in Python files: importing the one that `--grader python:...` names."""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from eightball_ppo.errors import InputError


def load_function(argument: str) -> Callable[..., Any]:
    """Imports the judge of `--grader python:ARGUMENT`; that runs the code of its module.

    Args:
        argument: `FILE.py:NAME` or `package.module:NAME`.

    Raises:
        InputError: No such file, module or name, an error on import, or an object that cannot be called.
    """
    place, _, name = argument.rpartition(":")
    where = f"--grader python:{argument}"
    module = _load_file(Path(place).expanduser(), where) if place.endswith(".py") else _load_module(place, where)
    try:
        found = functools.reduce(getattr, name.split("."), module)
    except AttributeError:
        functions = [key for key, value in vars(module).items() if inspect.isfunction(value) and key[0] != "_"]
        raise InputError(f"{where}: {place} has no {name!r}; its functions: {', '.join(functions) or 'none'}") from None
    if not callable(found):
        raise InputError(f"{where}: {name} is no function but of type {type(found).__name__}; name a function")
    return found


def _load_file(file: Path, where: str) -> ModuleType:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise InputError(f"{where}: {file}: {error.strerror or error}; name a Python file") from None
    name = f"{file.stem}_{hashlib.sha256(str(file.resolve()).encode() + content).hexdigest()[:12]}"
    if name not in sys.modules:  # once for each content: two stages of a process share what the module loads
        spec = importlib.util.spec_from_file_location(name, file.resolve())
        assert spec is not None and spec.loader is not None
        sys.modules[name] = module = importlib.util.module_from_spec(spec)
        try:
            with _importing(file.parent, where):
                spec.loader.exec_module(module)
        except InputError:
            del sys.modules[name]
            raise
    return sys.modules[name]


def _load_module(name: str, where: str) -> ModuleType:
    with _importing(Path.cwd(), where):
        return importlib.import_module(name)


@contextmanager
def _importing(directory: Path, where: str) -> Iterator[None]:
    """Puts `directory` in front of the search path; turns whatever the code raises into an InputError."""
    sys.path.insert(0, str(directory.resolve()))
    try:
        yield
    except (Exception, SystemExit) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{where}: cannot be imported ({type(error).__name__}: {reason[:200]})") from None
    finally:
        sys.path.remove(str(directory.resolve()))
