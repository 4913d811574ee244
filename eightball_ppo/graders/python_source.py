"""Judges in Python files: importing the one that `--grader python:...` names, and fingerprinting what defines it."""

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

SIMPLE = (str, bytes, int, float, bool, type(None))


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


def source_identity(function: Callable[..., Any]) -> dict[str, Any]:
    """What the fingerprint of a judge holds: its name, the sha256 of the file that defines it, version and state.

    `state` is what a closure, a partial or an object keeps: simple values by their text, anything else by its type.
    A judge that depends on more than that has an attribute `version`, to be changed with it.
    """
    inner = function.func if isinstance(function, functools.partial) else inspect.unwrap(function)
    defined = inner if hasattr(inner, "__qualname__") else type(inner)
    state: dict[str, Any] = {"closure": _closure(inner), "partial": [], "attributes": {}}
    if isinstance(function, functools.partial):
        state["partial"] = [list(map(_text, function.args)), {k: _text(v) for k, v in function.keywords.items()}]
    holder = getattr(inner, "__self__", inner)
    if not inspect.isfunction(holder) and not inspect.ismodule(holder) and not inspect.isclass(holder):
        state["attributes"] = {key: _text(value) for key, value in sorted(getattr(holder, "__dict__", {}).items())}
    return {
        "function": getattr(defined, "__qualname__", type(defined).__name__),
        "source": hashlib.sha256(_source(defined)).hexdigest()[:16],
        "version": _text(getattr(function, "version", None)),
        "state": {key: value for key, value in state.items() if value},
    }


def _source(defined: Any) -> bytes:
    """The file that defines an object, the lines of its cell in a notebook, or its bytecode."""
    try:
        file = inspect.getsourcefile(defined)
        if file is not None and Path(file).is_file():
            return Path(file).read_bytes()
        return inspect.getsource(defined).encode()
    except (OSError, TypeError):
        code = getattr(defined, "__code__", None)
        return repr((code.co_code, code.co_consts, code.co_names) if code else defined).encode()


def _closure(function: Any) -> list[str]:
    values = []
    for cell in getattr(function, "__closure__", None) or ():
        try:
            values.append(_text(cell.cell_contents))
        except ValueError:  # not yet filled
            values.append("empty")
    return values + [_text(value) for value in getattr(function, "__defaults__", None) or ()]


def _text(value: Any) -> str:
    if isinstance(value, SIMPLE):
        return repr(value)
    if isinstance(value, list | tuple):
        return repr([_text(item) for item in value])
    if isinstance(value, dict):
        return repr({_text(key): _text(item) for key, item in value.items()})
    if inspect.isfunction(value):
        return repr((value.__qualname__, hashlib.sha256(_source(value)).hexdigest()[:16]))
    return f"{type(value).__module__}.{type(value).__qualname__}"
