"""From the reference to a policy that can be trained: a copy, under LoRA adapters if that was asked for."""

import copy
import logging

import torch
from transformers import PreTrainedModel

from eightball_ppo.config.model import LoraOptions
from eightball_ppo.errors import InputError
from eightball_ppo.models.configuration_eightball import EightBallConfig
from eightball_ppo.models.lora import with_lora
from eightball_ppo.runtime.distributed import is_main_process

logger = logging.getLogger(__name__)

HIGHEST_RATE = 5e-4  # of all weights of a pretrained encoder; above it, what was learned before is lost
HIGHEST_LORA_RATE = 5e-3  # of adapters on one


def trainable_copy(classifier: PreTrainedModel, lora: LoraOptions) -> PreTrainedModel:
    """A copy of `classifier` whose weights train, or under LoRA adapters that do; `classifier` stays as it is."""
    policy = copy.deepcopy(classifier)
    return with_lora(policy.requires_grad_(False), lora) if lora.use_peft else policy.requires_grad_(True)


def check_rates(classifier: PreTrainedModel, config: LoraOptions) -> None:
    """Raises InputError for learning rates that would wipe out a pretrained encoder.

    The default rates of most stages are made for the small classifier. Warns where all weights train in bfloat16.
    """
    if (
        not config.use_peft
        and is_main_process()
        and any(own.dtype == torch.bfloat16 for own in classifier.parameters())
    ):
        logger.warning(
            "--dtype bfloat16: all weights train in it; a step that changes one by less than a 256th of it is lost; "
            "adapters (--use_peft) train in float32"
        )
    if isinstance(classifier.config, EightBallConfig):
        return
    model = type(classifier).__name__
    for name in ("learning_rate", "value_learning_rate"):
        rate = getattr(config, name, None)
        if rate is None:
            continue
        if config.use_peft and rate > HIGHEST_LORA_RATE:
            raise InputError(
                f"--{name} {rate:g}: too high for adapters on a {model}; pass at most {HIGHEST_LORA_RATE:g}, 1e-3 as a "
                "rule"
            )
        if not config.use_peft and rate > HIGHEST_RATE:
            raise InputError(
                f"--{name} {rate:g}: too high for all weights of a {model}; train adapters (--use_peft), or pass at "
                f"most {HIGHEST_RATE:g}, 2e-5 as a rule"
            )
