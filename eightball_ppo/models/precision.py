"""Half precision where it costs little: the weights of an encoder in it; its head, and so the logits, in float32."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from eightball_ppo.errors import InputError


def last_linear(model: PreTrainedModel, flag: str) -> nn.Linear:
    """The linear layer that the logits come from; under LoRA the copy of it that trains. `flag` goes into errors.

    Raises:
        InputError: there is none of that size.
    """
    wide = model.config.num_labels
    linear = [own for own in model.modules() if isinstance(own, nn.Linear) and own.out_features == wide]
    if not linear:
        raise InputError(f"{flag}: {type(model).__name__} ends in no linear layer of {wide} labels")
    return linear[-1]


def cast_encoder(model: PreTrainedModel, dtype: torch.dtype, flag: str) -> PreTrainedModel:
    """`model` with its weights in `dtype`, in place, but for its head: that computes in float32, whatever it is given.

    The head is all that stands behind the encoder; of a model that has no encoder under a name of its own, the layer
    that the logits come from. `flag` goes into errors.

    Raises:
        InputError: a narrower type for a model that ends in no linear layer.
    """
    if dtype == torch.float32:
        return model
    last = last_linear(model, flag)
    parts = dict(model.named_children())
    head = [own for name, own in parts.items() if name != model.base_model_prefix]
    if model.base_model_prefix not in parts or not any(layer is last for own in head for layer in own.modules()):
        head = [last]
    kept = {id(parameter) for own in head for parameter in own.parameters()}
    for parameter in model.parameters():  # no buffers: positions and frequencies are no weights
        if id(parameter) not in kept:
            parameter.data = parameter.data.to(dtype)
    for own in head:
        own.register_forward_pre_hook(_widened, with_kwargs=True)
    model.config.dtype = dtype
    return model


def _widened(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """What a head is given, in float32. A function of the module's own level, so that models can be copied."""
    return tuple(_wide(own) for own in args), {name: _wide(own) for name, own in kwargs.items()}


def _wide(own: Any) -> Any:
    return own.float() if isinstance(own, Tensor) and own.is_floating_point() else own
