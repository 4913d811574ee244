"""Attention that never waits for the device: by default transformers reads back whether a batch is padded at all.

It does so in every forward pass, to leave the mask out where nothing is padded. On an accelerator the mask costs less
than that read, which nothing can be asked for behind until the number is here.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import eager_mask, sdpa_mask

ALWAYS_MASKED = {"sdpa": "sdpa_always_masked", "eager": "eager_always_masked"}
MASKED_ATTENTION = ("mpnet",)  # always eager, by code of its own; the mask is transformers' all the same


def _sdpa_mask(**kwargs: Any) -> Tensor | None:
    return sdpa_mask(**{**kwargs, "allow_is_bidirectional_skip": False})


def _eager_mask(**kwargs: Any) -> Tensor:
    return eager_mask(**{**kwargs, "allow_is_bidirectional_skip": False})


AttentionInterface.register(ALWAYS_MASKED["sdpa"], sdpa_attention_forward)
AttentionMaskInterface.register(ALWAYS_MASKED["sdpa"], _sdpa_mask)
AttentionMaskInterface.register(ALWAYS_MASKED["eager"], _eager_mask)


def always_mask(model: PreTrainedModel) -> PreTrainedModel:
    """`model`, which from now on masks its attention whether a batch is padded or not: the same numbers.

    A model whose attention is neither transformers' `sdpa` nor `MASKED_ATTENTION` stays as it is. Nothing of this is
    saved with the model.
    """
    name = model.config._attn_implementation
    if name == "sdpa" or (name == "eager" and model.config.model_type in MASKED_ATTENTION):
        model.config._attn_implementation = ALWAYS_MASKED[name]
    return model


def needs_always_mask() -> bool:
    """Whether there is a device that works on while Python goes on."""
    return torch.accelerator.is_available()
