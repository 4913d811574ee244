"""Half precision where it loses little: the encoder's weights; the head, and so the logits, stay in float32."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from eightball_ppo.errors import InputError


def last_linear(model: PreTrainedModel, flag: str) -> nn.Linear:
    """The linear layer that computes the logits; under LoRA the copy of it that trains. `flag` goes into errors.

    Raises:
        InputError: No linear layer has one output per label.
    """
    labels = model.config.num_labels
    linear = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == labels]
    if not linear:
        raise InputError(f"{flag}: {type(model).__name__} ends in no linear layer of {labels} labels")
    return linear[-1]


@torch.no_grad()
def fold_temperature(model: PreTrainedModel, temperature: float, flag: str) -> None:
    """Divides the last layer by `temperature`, in place, so that the model's softmax is the scaled one."""
    head = last_linear(model, flag)
    head.weight /= temperature
    if head.bias is not None:
        head.bias.div_(temperature)


def cast_encoder(model: PreTrainedModel, dtype: torch.dtype, flag: str) -> PreTrainedModel:
    """Casts the weights of `model` to `dtype` in place, but for its head, which computes in float32.

    The head is every module behind the encoder; if the model has no encoder under its `base_model_prefix`, the layer
    that computes the logits. `flag` goes into errors.

    Raises:
        InputError: A narrower type for a model that ends in no linear layer.
    """
    if dtype == torch.float32:
        return model
    last = last_linear(model, flag)
    children = dict(model.named_children())
    head = [module for name, module in children.items() if name != model.base_model_prefix]
    if model.base_model_prefix not in children or not any(layer is last for part in head for layer in part.modules()):
        head = [last]
    head_ids = {id(parameter) for module in head for parameter in module.parameters()}
    for parameter in model.parameters():  # no buffers: positions and frequencies are no weights
        if id(parameter) not in head_ids:
            parameter.data = parameter.data.to(dtype)
    for module in head:
        module.register_forward_pre_hook(_inputs_to_float32, with_kwargs=True)
    model.config.dtype = dtype
    return model


def _inputs_to_float32(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    # a function of the module, no closure, so that models can be copied
    return tuple(map(_to_float32, args)), {name: _to_float32(value) for name, value in kwargs.items()}


def _to_float32(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value
