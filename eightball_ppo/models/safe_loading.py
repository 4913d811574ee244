"""What is refused before a model or tokenizer is loaded: pickles, files that lie elsewhere, adapters of another kind.

Code that travels with a model (`auto_map` in its configs) is run by transformers, and only with --trust_remote_code.
"""

import functools
import json
import logging
from pathlib import Path
from typing import Any

from transformers.utils import cached_file

from eightball_ppo.errors import InputError
from eightball_ppo.runtime.paths import local_path, resolves_to, stays_inside

logger = logging.getLogger(__name__)

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_WEIGHTS = "adapter_model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
INDEX = "model.safetensors.index.json"


def check_files(name: str, flag: str, seen: tuple[str, ...] = ()) -> None:
    """Look at the files of the directory or Hub id `name` before anything in them is loaded.

    What adapters stand on is looked at, too. A directory or file that is missing is left to whoever loads it.

    Raises:
        InputError: nothing but pickles, a link that leads out of the directory, shards or tokenizer files that lie
            elsewhere by their name, adapters that are no LoRA, are pickled, or stand on themselves.
    """
    path = local_path(name)
    source = name if path is None else str(path)
    if path is not None:
        if not path.is_dir():
            return
        _check_directory(path, f"{flag} {name}")
    config = _json(source, "config.json", f"{flag} {name}")
    for key, instead in (("transformers_weights", "model.safetensors"), ("configuration_files", "config.json")):
        if key in config:
            raise InputError(
                f"{flag} {name}: config.json names {config[key]!r:.80} ({key}), to be read for {instead}; only "
                "that is read"
            )
    shards = dict(_json(source, INDEX, f"{flag} {name}").get("weight_map") or {}).values()
    tokenizers = _json(source, "tokenizer_config.json", f"{flag} {name}").get("fast_tokenizer_files") or []
    for file in map(str, (*shards, *tokenizers)):
        if Path(file).name != file or (file in shards and not file.endswith(".safetensors")):
            raise InputError(f"{flag} {name}: names {file!r} as one of its files; only files beside it are read")
    adapters = _json(source, ADAPTER_CONFIG, f"{flag} {name}")
    if not adapters:
        return
    if adapters.get("peft_type") != "LORA" or adapters.get("megatron_config"):
        raise InputError(f"{flag} {name}: adapters of type {adapters.get('peft_type')}; only plain LoRA is loaded")
    if _file(source, ADAPTER_WEIGHTS) is None:
        raise InputError(f"{flag} {name}: holds adapters but no {ADAPTER_WEIGHTS}; only safetensors are loaded")
    base = adapters.get("base_model_name_or_path")
    if not isinstance(base, str):
        raise InputError(f"{flag} {name}: its adapters do not say what they stand on ({ADAPTER_CONFIG})")
    if base in (*seen, name):
        raise InputError(f"{flag} {name}: its adapters stand on themselves")
    check_files(base, flag, (*seen, name))


def unloadable(name: str, flag: str, what: str, error: Exception) -> InputError:
    """The one line for what a library raised when it was to load `name`."""
    text = str(error).strip()
    if "trust_remote_code" in text:
        return InputError(
            f"{flag} {name}: needs Python code that came with it (auto_map), which is not run; read that code, and "
            "pass --trust_remote_code if you want it to run here"
        )
    return InputError(f"{flag} {name}: {what} ({first_line(error)})")


def first_line(error: Exception) -> str:
    """The first line of an exception's text, at most 200 characters; its type's name where it has none."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


@functools.cache
def warn_of_code(name: str, flag: str) -> None:
    """Say once on stderr that code which came with `name` may run."""
    logger.warning("%s %s: --trust_remote_code is on; Python code that came with it may run here", flag, name)


def _check_directory(directory: Path, where: str) -> None:
    pickles = [file.name for file in sorted(directory.iterdir()) if file.suffix in PICKLES]
    if pickles and not any(directory.glob("*.safetensors")):
        raise InputError(f"{where}: holds {pickles[0]}, a pickle, which can run code; only safetensors are loaded")
    for file in sorted([*directory.iterdir(), *directory.glob("additional_chat_templates/*")]):  # all that is read
        if not stays_inside(file, directory):
            raise InputError(
                f"{where}: {file.relative_to(directory)} leads to {resolves_to(file)}, outside the directory; copy it "
                "there"
            )


def _file(source: str, name: str) -> str | None:
    """The path of a file of a directory or Hub id; None where there is none, or nobody to ask."""
    return cached_file(
        source,
        name,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )


def _json(source: str, name: str, where: str) -> dict[str, Any]:
    """What a JSON file of a directory or Hub id says; nothing where there is no such file."""
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
