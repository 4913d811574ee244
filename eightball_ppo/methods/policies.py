"""From the reference to a policy that can be trained: a copy, under LoRA adapters if that was asked for."""

import copy

from transformers import PreTrainedModel

from eightball_ppo.errors import InputError
from eightball_ppo.model_options import LoraOptions
from eightball_ppo.models.configuration_eightball import EightBallConfig
from eightball_ppo.models.lora import with_lora

HIGHEST_RATE = 5e-4  # of all weights of a pretrained encoder; above it, what was learned before is lost


def trainable_copy(classifier: PreTrainedModel, lora: LoraOptions) -> PreTrainedModel:
    """A copy of `classifier` whose weights train, or under LoRA adapters that do; `classifier` stays as it is."""
    policy = copy.deepcopy(classifier)
    return with_lora(policy.requires_grad_(False), lora) if lora.use_peft else policy.requires_grad_(True)


def check_rates(classifier: PreTrainedModel, lora: LoraOptions, **rates: float | None) -> None:
    """Raises InputError for learning rates (by their flag) that would wipe out a pretrained encoder.

    The default rates are made for the small classifier, or for LoRA adapters.
    """
    if lora.use_peft or isinstance(classifier.config, EightBallConfig):
        return
    for name, rate in rates.items():
        if rate is not None and rate > HIGHEST_RATE:
            raise InputError(
                f"--{name} {rate:g}: too high for all weights of a {type(classifier).__name__}; train adapters "
                f"(--use_peft), or pass at most {HIGHEST_RATE:g}, 2e-5 as a rule"
            )
