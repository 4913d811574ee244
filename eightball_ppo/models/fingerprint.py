"""A hash of a model's weights."""

import hashlib

import torch
from transformers import PreTrainedModel


def weights_fingerprint(model: PreTrainedModel, dtype: torch.dtype | None = None) -> str:
    """First 16 hex digits of the sha256 over all weights and their names; rounds them to `dtype` first, if given."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        content = tensor.detach().cpu()
        if dtype is not None and content.is_floating_point():
            content = content.to(dtype)
        digest.update(content.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
