"""What must not be written down: user and password in an address, API keys, and paths of this machine."""

import os
import re
from pathlib import Path
from typing import Any

from eightball_ppo.errors import InputError
from eightball_ppo.runtime.atomic_io import map_leaves

KEY_VARIABLES = ("EIGHTBALL_API_KEY", "OPENAI_API_KEY")
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
MIN_SECRET_LENGTH = 8  # characters; a shorter key is a placeholder, and would be found in many words
_USERINFO = re.compile(r"(?<=://)[^/\s]*@")


def api_key() -> str | None:
    """The key of grader api: the first of EIGHTBALL_API_KEY and OPENAI_API_KEY that is set.

    Raises:
        InputError: It has characters that no HTTP header can carry.
    """
    for name in KEY_VARIABLES:
        if key := os.environ.get(name, "").strip():
            if not key.isascii() or not key.isprintable():
                raise InputError(f"{name}: holds characters that no key has; set it again")
            return key
    return None


def printable(text: str) -> str:
    """`text` with a space for every character that a terminal may take as a command, such as an escape code."""
    return "".join(character if character.isprintable() or character == "\n" else " " for character in text)


def redact(text: str) -> str:
    """`text` without the keys and tokens in the environment and without the userinfo of any address."""
    for name in (*KEY_VARIABLES, *TOKEN_VARIABLES):
        key = os.environ.get(name, "").strip()
        if len(key) >= MIN_SECRET_LENGTH:
            text = text.replace(key, "***")
    return _USERINFO.sub("***@", text)


def redacted(value: Any) -> Any:
    """`value`, a structure of dicts, lists and plain values, with every string in it redacted."""
    return map_leaves(value, lambda leaf: redact(leaf) if isinstance(leaf, str) else leaf)


def portable_text(text: str) -> str:
    """`text` with paths in the working directory made relative to it, and those in the home directory begun by `~`."""
    for directory, prefix in ((Path.cwd(), ""), (Path.home(), "~/")):
        if len(directory.parts) > 1:
            text = text.replace(f"{directory}/", prefix)
    return text


def portable(value: Any) -> Any:
    """`value` with `portable_text` applied to every string, and only the name of any other absolute path."""

    def portable_leaf(leaf: Any) -> Any:
        if not isinstance(leaf, str):
            return leaf
        text = portable_text(leaf)
        return Path(text).name if text.startswith("/") else text

    return map_leaves(value, portable_leaf)
