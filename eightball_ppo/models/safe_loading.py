"""Checks before a model or tokenizer is loaded: no pickles, no files from elsewhere, no adapters other than LoRA.

Code that comes with a model (`auto_map` in its configs) is run by transformers, and only with --trust_remote_code.
"""

import contextlib
import functools
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from eightball_ppo.config.fields import require
from eightball_ppo.errors import InputError
from eightball_ppo.runtime.moved_runs import locate
from eightball_ppo.runtime.paths import ADAPTER_CONFIG, ADAPTER_WEIGHTS, local_path, resolves_to, stays_inside

logger = logging.getLogger(__name__)

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


@contextlib.contextmanager
def checked_loading(
    name: str, flag: str, failure: str, source: str | None = None, trust_remote_code: bool = False
) -> Iterator[None]:
    """Context in which libraries load `name`: checks its files first, and turns any error into one line.

    Args:
        name: Directory or Hub id, as the user wrote it.
        flag: The option that named it.
        failure: What the message says if a library raises, such as "not a loadable checkpoint".
        source: The directory that `name` stands for, if it is another.
        trust_remote_code: Whether code that comes with the model may run, which is logged.

    Raises:
        InputError: As `check_files`, or anything that a library raised.
    """
    if trust_remote_code:
        warn_of_code(name, flag)
    try:
        check_files(source or name, flag)
        yield
    except InputError:
        raise
    except Exception as error:  # every library raises its own: OSError, ValueError, SafetensorError, KeyError ...
        raise unloadable(name, flag, failure, error) from error


def check_files(name: str, flag: str, parents: tuple[str, ...] = ()) -> None:
    """Checks the files of the directory or Hub id `name`, and of the base of adapters, before anything is loaded.

    A directory or file that is missing is left to the library that loads it.

    Args:
        name: Directory or Hub id.
        flag: The option that named it.
        parents: Adapters that led to `name` as their base.

    Raises:
        InputError: Nothing but pickles, a link that leads out of the directory, shards or tokenizer files that lie
            elsewhere by their name, adapters that are no LoRA, are pickled, or have themselves as their base.
    """
    path, where = local_path(name), f"{flag} {name}"
    source = name if path is None else str(path)
    if path is not None:
        if not path.is_dir():
            return
        _check_directory(path, where)
    config = _json(source, "config.json", where)
    for key, file in (("transformers_weights", "model.safetensors"), ("configuration_files", "config.json")):
        named = f"{config.get(key)!r:.80}"
        only = f"{where}: config.json names {named} ({key}), to be read for {file}; only that is read"
        require(key not in config, only)
    shards = dict(_json(source, "model.safetensors.index.json", where).get("weight_map") or {}).values()
    tokenizers = _json(source, "tokenizer_config.json", where).get("fast_tokenizer_files") or []
    for file in map(str, (*shards, *tokenizers)):
        beside = Path(file).name == file and (file not in shards or file.endswith(".safetensors"))
        require(beside, f"{where}: names {file!r} as one of its files; only files beside it are read")
    adapters = _json(source, ADAPTER_CONFIG, where)
    if not adapters:
        return
    plain_lora = adapters.get("peft_type") == "LORA" and not adapters.get("megatron_config")
    require(plain_lora, f"{where}: adapters of type {adapters.get('peft_type')}; only plain LoRA is loaded")
    has_weights = _file(source, ADAPTER_WEIGHTS) is not None
    require(has_weights, f"{where}: holds adapters but no {ADAPTER_WEIGHTS}; only safetensors are loaded")
    base = adapters.get("base_model_name_or_path")
    if not isinstance(base, str):
        raise InputError(f"{where}: its adapters do not name their base model ({ADAPTER_CONFIG})")
    base = locate(base, Path(source))  # as it is loaded
    require(base not in (*parents, name), f"{where}: its adapters have themselves as their base model")
    check_files(base, flag, (*parents, name))


def unloadable(name: str, flag: str, failure: str, error: Exception) -> InputError:
    """The one line for an error that a library raised while it loaded `name`."""
    if "trust_remote_code" in str(error):
        return InputError(
            f"{flag} {name}: needs Python code that came with it (auto_map), which is not run; read that code, and "
            "pass --trust_remote_code if you want it to run here"
        )
    looked = "" if local_path(name) else "no such directory here, and from the Hub: "
    return InputError(f"{flag} {name}: {looked}{failure} ({first_line(error)})")


def first_line(error: Exception) -> str:
    """The first line of an exception's text, at most 200 characters; its type's name where it has none."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


@functools.cache
def warn_of_code(name: str, flag: str) -> None:
    """Warns once that code which came with `name` may run."""
    logger.warning("%s %s: --trust_remote_code is on; Python code that came with it may run here", flag, name)


def _check_directory(directory: Path, where: str) -> None:
    files = sorted(directory.iterdir())
    pickles = [file.name for file in files if file.suffix in PICKLES]
    if pickles and not any(directory.glob("*.safetensors")):
        raise InputError(f"{where}: holds {pickles[0]}, a pickle, which can run code; only safetensors are loaded")
    for file in sorted([*files, *directory.glob("additional_chat_templates/*")]):  # all that is read
        target = f"{file.relative_to(directory)} leads to {resolves_to(file)}"
        require(stays_inside(file, directory), f"{where}: {target}, outside the directory; copy it there")


def _file(source: str, name: str) -> str | None:
    """The path of a file of a directory or Hub id; None if it does not exist or the Hub cannot be reached."""
    kinds = ("gated_repo", "missing_entries", "connection_errors")
    return cached_file(source, name, **{f"_raise_exceptions_for_{kind}": False for kind in kinds})


def _json(source: str, name: str, where: str) -> dict[str, Any]:
    """The content of a JSON file of a directory or Hub id; empty if there is no such file."""
    file = _file(source, name)
    if file is None:
        return {}
    try:
        content = json.loads(Path(file).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{where}: {name} is damaged ({first_line(error)})") from None
    if not isinstance(content, dict):
        raise InputError(f"{where}: {name} is damaged (no JSON object)")
    return content
