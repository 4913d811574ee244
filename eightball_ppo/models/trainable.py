"""From the reference to a policy that trains: a copy, under LoRA adapters if `use_peft` is set."""

import copy
import logging

import torch
from torch import nn
from transformers import PreTrainedModel

from eightball_ppo.config.fields import require
from eightball_ppo.config.model import LoraOptions
from eightball_ppo.models.configuration_eightball import EightBallConfig
from eightball_ppo.models.frozen import is_frozen, train_head_alone
from eightball_ppo.models.lora import with_lora
from eightball_ppo.runtime.distributed import is_main_process

logger = logging.getLogger(__name__)

MAX_ENCODER_RATE = 5e-4  # of all weights of a pretrained encoder; above it, pretraining is lost
MAX_LORA_RATE = 5e-3


def trainable_copy(classifier: PreTrainedModel, lora: LoraOptions) -> PreTrainedModel:
    """A copy of `classifier` whose weights train, or its head alone if the encoder is frozen, or LoRA adapters."""
    policy = copy.deepcopy(classifier)
    if is_frozen(policy):
        train_head_alone(policy)
        return policy
    return with_lora(policy.requires_grad_(False), lora) if lora.use_peft else policy.requires_grad_(True)


def freeze_lower_half(classifier: PreTrainedModel) -> None:
    """Keeps the embeddings and the lower half of an encoder's layers as they are, in place.

    Few texts change them for the worse, and a step takes half the time (Lee, Tang & Lin 2019, arXiv:1911.03090). An
    encoder without a list of layers is left alone.
    """
    layers = max((m for m in classifier.base_model.modules() if isinstance(m, nn.ModuleList)), key=len, default=())
    half = len(layers) // 2
    upper = {id(parameter) for layer in list(layers)[half:] for parameter in layer.parameters()} if half else set()
    for parameter in classifier.base_model.parameters():  # in the order of the layers
        if not half or id(parameter) in upper:
            return
        parameter.requires_grad_(False)


def check_rates(classifier: PreTrainedModel, config: LoraOptions) -> None:
    """Checks the learning rate of a pretrained encoder, and warns if all weights train in bfloat16.

    Raises:
        InputError: A learning rate that would destroy a pretrained encoder.
    """
    half = any(parameter.dtype == torch.bfloat16 for parameter in classifier.parameters())
    if half and not config.use_peft and is_main_process():
        logger.warning(
            "--dtype bfloat16: all weights train in it; a step that changes one by less than a 256th of it is lost; "
            "adapters (--use_peft) train in float32"
        )
    if isinstance(classifier.config, EightBallConfig) or is_frozen(classifier):
        return
    model, limit, usual = type(classifier).__name__, MAX_ENCODER_RATE, "2e-5"
    hint = f"all weights of a {model}; train adapters (--use_peft), or pass"
    if config.use_peft:
        hint, limit, usual = f"adapters on a {model}; pass", MAX_LORA_RATE, "1e-3"
    rate = getattr(config, "learning_rate", None)
    fix = f"too high for {hint} at most {limit:g}, {usual} as a rule"
    require(rate is None or rate <= limit, f"--learning_rate {rate}: {fix}")
