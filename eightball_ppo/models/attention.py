"""Attention that never waits for the device.

By default transformers reads back from the device, in every forward pass, whether a batch is padded at all, and leaves
the mask out where it is not. On an accelerator the mask takes less time than that read, which stalls the queue.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

ALWAYS_MASKED = {"sdpa": "sdpa_always_masked", "eager": "eager_always_masked"}
EAGER_ONLY = ("mpnet",)  # model types with their own eager attention, but transformers' mask


def _sdpa_mask(**kwargs: Any) -> Tensor | None:
    return sdpa_mask(**{**kwargs, "allow_is_bidirectional_skip": False})


def _eager_mask(**kwargs: Any) -> Tensor:
    return eager_mask(**{**kwargs, "allow_is_bidirectional_skip": False})


AttentionInterface.register(ALWAYS_MASKED["sdpa"], sdpa_attention_forward)
AttentionMaskInterface.register(ALWAYS_MASKED["sdpa"], _sdpa_mask)
AttentionMaskInterface.register(ALWAYS_MASKED["eager"], _eager_mask)


def always_mask(model: PreTrainedModel) -> PreTrainedModel:
    """Has `model` mask its attention whether a batch is padded or not; its outputs stay the same.

    A model whose attention is neither transformers' `sdpa` nor one of `EAGER_ONLY` is not changed. The setting is not
    saved with the model.
    """
    name = model.config._attn_implementation
    if name == "sdpa" or (name == "eager" and model.config.model_type in EAGER_ONLY):
        model.config._attn_implementation = ALWAYS_MASKED[name]
    return model


def needs_always_mask() -> bool:
    """Whether there is a device that computes asynchronously."""
    return torch.accelerator.is_available()
