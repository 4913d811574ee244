"""The fingerprint of a grader: a hash of every setting that changes its grades."""

import hashlib
import json
from typing import Any


def settings_fingerprint(settings: dict[str, Any]) -> str:
    """`<settings["grader"]>:<first 16 hex digits of the SHA-256 of the settings as JSON>`."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return f"{settings['grader']}:{hashlib.sha256(text.encode()).hexdigest()[:16]}"
