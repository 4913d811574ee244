"""What must not be written down: the user and password of an address, and the API key."""

import os
import re
from typing import Any

KEY_VARIABLES = ("EIGHTBALL_API_KEY", "OPENAI_API_KEY")
_USERINFO = re.compile(r"(?<=://)[^/@\s]+@")


def api_key() -> str | None:
    """The key of grader api: of the first of EIGHTBALL_API_KEY and OPENAI_API_KEY that is set."""
    return next((os.environ[name] for name in KEY_VARIABLES if os.environ.get(name)), None)


def redact(text: str) -> str:
    """`text` without the keys in the environment and without the userinfo of any address."""
    for name in KEY_VARIABLES:
        if key := os.environ.get(name):
            text = text.replace(key, "***")
    return _USERINFO.sub("***@", text)


def redacted(value: Any) -> Any:
    """`value`, a structure of dicts, lists and plain values, with every string in it redacted."""
    if isinstance(value, dict):
        return {key: redacted(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [redacted(item) for item in value]
    return redact(value) if isinstance(value, str) else value
