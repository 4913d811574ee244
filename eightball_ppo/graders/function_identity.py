"""What a judge that is a Python function is, for its fingerprint: where it stands, and what it keeps."""

import functools
import hashlib
import inspect
import json
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from types import CodeType
from typing import Any

SIMPLE = (str, bytes, int, float, bool, type(None))
MAX_DEPTH = 6  # of objects in objects


def source_identity(function: Callable[..., Any]) -> dict[str, Any]:
    """What the fingerprint of a judge holds: its name, the sha256 of the file that defines it, version and state.

    `state` is a hash of where the function stands in its file and of what its closure, defaults, decorators, arguments
    of a partial, or its object keep: numbers, texts, arrays, functions, and lists or objects of these by their content,
    anything else by its type. A judge that depends on more than that has an attribute `version`, to be changed with it.
    """
    inner = function.func if isinstance(function, functools.partial) else inspect.unwrap(function)
    defined = inner if hasattr(inner, "__qualname__") else type(inner)
    return {
        "function": getattr(defined, "__qualname__", type(defined).__name__),
        "source": _digest(_source(defined)),
        "version": repr(getattr(function, "version", None)),
        "state": _digest(json.dumps(_describe(function, MAX_DEPTH, {})).encode()),  # hashed: it may hold a key
    }


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def _source(defined: Any) -> bytes:
    """The file that defines an object, the lines of its cell in a notebook, or its bytecode."""
    try:
        file = inspect.getsourcefile(defined)
        if file is not None and Path(file).is_file():
            return Path(file).read_bytes()
        return inspect.getsource(defined).encode()
    except (OSError, TypeError):
        return repr(_code(getattr(defined, "__code__", None))).encode()


def _code(code: Any) -> Any:
    """What a code object computes, without the addresses that its `repr` has."""
    if isinstance(code, CodeType):
        return code.co_code.hex(), code.co_names, [_code(constant) for constant in code.co_consts]
    return repr(code) if isinstance(code, SIMPLE) else str(type(code))


def _describe(value: Any, depth: int, seen: dict[int, Any]) -> Any:
    """A value as JSON: its content where that is known, else its type.

    Args:
        value: Anything.
        depth: How many objects deep to look.
        seen: What was described before, by its id; it is described once.
    """
    kind = f"{type(value).__module__}.{type(value).__qualname__}"
    inner = functools.partial(_describe, depth=depth - 1, seen=seen)
    if isinstance(value, SIMPLE):
        return repr(value)
    if depth == 0 or inspect.ismodule(value) or id(value) in seen:
        return kind
    seen[id(value)] = value  # which keeps it, so that no other object gets its id
    if isinstance(value, list | tuple):
        return [kind, *map(inner, value)]
    if isinstance(value, set | frozenset):
        return [kind, *sorted(map(inner, value), key=repr)]
    if isinstance(value, dict):
        return [kind, *([inner(key), inner(item)] for key, item in value.items())]
    if isinstance(value, functools.partial):
        return [kind, *map(inner, (value.func, value.args, value.keywords))]
    if inspect.ismethod(value):
        return [kind, inner(value.__func__), inner(value.__self__)]
    if inspect.isfunction(value):
        return [kind, *_place(value), *map(inner, _kept(value))]
    if isinstance(value, type):
        return [value.__qualname__, _digest(_source(value))]
    if hasattr(value, "dtype"):
        return [kind, _digest(_array(value))]
    return [kind, _digest(_source(type(value))), *([name, inner(item)] for name, item in sorted(_state(value).items()))]


def _place(function: Any) -> list[Any]:
    """Where a function stands: two of one name in a file, or two lambdas in a line, are two judges."""
    code = function.__code__
    columns = [start or 0 for _, _, start, _ in code.co_positions()]
    return [function.__qualname__, _digest(_source(function)), code.co_firstlineno, max(columns, default=0)]


def _kept(function: Any) -> list[Any]:
    """What a function keeps beside its code."""
    cells = []
    for cell in function.__closure__ or ():
        with suppress(ValueError):  # not yet filled
            cells.append(cell.cell_contents)
    return [cells, function.__defaults__, function.__kwdefaults__, getattr(function, "__wrapped__", None)]


def _state(value: Any) -> dict[str, Any]:
    """The attributes of an object, in slots or not."""
    slots = (name for base in type(value).__mro__ for name in getattr(base, "__slots__", ()))
    found = {name: getattr(value, name) for name in slots if not name.startswith("__") and hasattr(value, name)}
    return {**found, **getattr(value, "__dict__", {})}


def _array(value: Any) -> bytes:
    """The content of an array of numpy, torch or pandas."""
    with suppress(Exception):  # of another library's type that only looks like an array
        value = value.detach().cpu() if hasattr(value, "detach") else value
        array = value.to_numpy() if hasattr(value, "to_numpy") else value.numpy() if hasattr(value, "numpy") else value
        return f"{array.shape} {array.dtype}".encode() + array.tobytes()
    return str(type(value)).encode()
