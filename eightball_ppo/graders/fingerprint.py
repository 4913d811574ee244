"""What makes two graders the same: the hash of their weights, and of everything else that decides their grades."""

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel  # heavy, and no business of a grader over HTTP

DIGITS = 16


def weights_fingerprint(model: "PreTrainedModel") -> str:
    """First 16 hex digits of the sha256 over all weights, names included."""
    import torch

    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:DIGITS]


def settings_fingerprint(settings: dict[str, Any]) -> str:
    """`<grader>:<first 16 hex digits of the sha256 of the settings>`: equal for equal settings alone."""
    text = json.dumps(settings, sort_keys=True, ensure_ascii=False)
    return f"{settings['grader']}:{hashlib.sha256(text.encode()).hexdigest()[:DIGITS]}"
