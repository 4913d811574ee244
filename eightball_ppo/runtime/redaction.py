"""What must not be written down: the user and password of an address, and the API key."""

import os
import re
from pathlib import Path
from typing import Any

from eightball_ppo.errors import InputError

KEY_VARIABLES = ("EIGHTBALL_API_KEY", "OPENAI_API_KEY")
TOKEN_VARIABLES = ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "WANDB_API_KEY")
MIN_SECRET_LENGTH = 8  # characters; a shorter key is a placeholder, and would be found in every other word
_USERINFO = re.compile(r"(?<=://)[^/\s]*@")


def api_key() -> str | None:
    """The key of grader api: of the first of EIGHTBALL_API_KEY and OPENAI_API_KEY that is set.

    Raises:
        InputError: it has characters that no HTTP header can carry.
    """
    for name in KEY_VARIABLES:
        if key := os.environ.get(name, "").strip():
            if not key.isascii() or not key.isprintable():
                raise InputError(f"{name}: holds characters that no key has; set it anew")
            return key
    return None


def redact(text: str) -> str:
    """`text` without the keys and tokens in the environment and without the userinfo of any address."""
    for name in (*KEY_VARIABLES, *TOKEN_VARIABLES):
        key = os.environ.get(name, "").strip()
        if len(key) >= MIN_SECRET_LENGTH:
            text = text.replace(key, "***")
    return _USERINFO.sub("***@", text)


def portable_text(text: str) -> str:
    """`text` with paths in the working directory made relative to it, and those in the home directory begun by `~`."""
    for directory, stands_for in ((Path.cwd(), ""), (Path.home(), "~/")):
        if len(directory.parts) > 1:
            text = text.replace(f"{directory}/", stands_for)
    return text


def portable(value: Any) -> Any:
    """`value` without what only this machine has: `portable_text`, and of other absolute paths the last part alone."""
    if isinstance(value, dict):
        return {key: portable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [portable(item) for item in value]
    if not isinstance(value, str):
        return value
    value = portable_text(value)
    return Path(value).name if value.startswith("/") else value


def redacted(value: Any) -> Any:
    """`value`, a structure of dicts, lists and plain values, with every string in it redacted."""
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return redact(value) if isinstance(value, str) else value
