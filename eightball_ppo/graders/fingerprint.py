"""What makes two graders the same: the hash of everything that decides their grades."""

import hashlib
import json
from typing import Any

DIGITS = 16


def settings_fingerprint(settings: dict[str, Any]) -> str:
    """`<grader>:<first 16 hex digits of the sha256 of the settings>`: equal for equal settings alone."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return f"{settings['grader']}:{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}"
