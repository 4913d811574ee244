"""What must not be written down: the user and password of an address, and the API key."""

import os
import re
from typing import Any

from eightball_ppo.errors import InputError

KEY_VARIABLES = ("EIGHTBALL_API_KEY", "OPENAI_API_KEY")
SHORTEST_SECRET = 8  # characters; a shorter key is a placeholder, and would be found in every other word
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
    """`text` without the keys in the environment and without the userinfo of any address."""
    for name in KEY_VARIABLES:
        key = os.environ.get(name, "").strip()
        if len(key) >= SHORTEST_SECRET:
            text = text.replace(key, "***")
    return _USERINFO.sub("***@", text)


def redacted(value: Any) -> Any:
    """`value`, a structure of dicts, lists and plain values, with every string in it redacted."""
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return redact(value) if isinstance(value, str) else value
