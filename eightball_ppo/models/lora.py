"""LoRA adapters on any classifier: where they go by default, how they are read past, merged and recognised."""

import contextlib
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from eightball_ppo.config.model import LoraOptions
from eightball_ppo.errors import InputError
from eightball_ppo.models.fingerprint import weights_fingerprint

# Query and value projections, as in the paper, of architectures that PEFT has no default for; of the small classifier
# every layer between embedding and head.
TARGET_MODULES: dict[str, list[str]] = {
    "eightball": ["qkv", "out", "hidden"],
    "albert": ["query", "value"],
    "camembert": ["query", "value"],
    "distilbert": ["q_lin", "v_lin"],
    "ernie": ["query", "value"],
    "modernbert": ["Wqkv"],
    "mpnet": ["q", "v"],
    "nomic_bert": ["Wqkv"],
    "xlm-roberta-xl": ["query", "value"],
}


def target_modules(model_type: str) -> list[str]:
    """The linear layers that get an adapter by default.

    Raises:
        InputError: neither PEFT nor we know the architecture.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as OF_PEFT

    targets = TARGET_MODULES.get(model_type) or OF_PEFT.get(model_type)
    if not targets or isinstance(targets, str):
        raise InputError(
            f"--use_peft: no default for models of type {model_type!r}; name their query and value layers with "
            "--lora_target_modules"
        )
    return list(targets)


def with_lora(model: PreTrainedModel, options: LoraOptions, new_modules: Sequence[str] = ()) -> PreTrainedModel:
    """`model` under LoRA adapters, in place; the head and `new_modules` (names of modules) train in full.

    The adapters start at exactly 0, so the logits are still those of `model`.

    Raises:
        InputError: an architecture without default targets, or targets that are no linear layers of this model.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    targets = options.lora_target_modules or target_modules(model.config.model_type)
    # where something is new there is no base on a disk that could be held against it
    fingerprint = None if new_modules else weights_fingerprint(model, torch.bfloat16)
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        target_modules=targets,
        modules_to_save=list(new_modules) or None,  # PEFT adds `classifier` and `score` itself
    )
    try:
        under_lora = get_peft_model(model, lora)
    except ValueError as error:
        layers = sorted({name.rpartition(".")[2] for name, own in model.named_modules() if isinstance(own, nn.Linear)})
        raise InputError(
            f"--lora_target_modules {' '.join(targets)}: {str(error).splitlines()[0][:160]}; the linear layers of "
            f"{type(model).__name__} are {', '.join(layers)}"
        ) from None
    under_lora.base_fingerprint = fingerprint  # saved beside the adapters, see `saving.check_base`
    return under_lora


def has_adapters(model: nn.Module) -> bool:
    """Whether `model` is one under LoRA adapters."""
    return hasattr(model, "peft_config")


@contextlib.contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Inside, `model` is the one that its adapters stand on; one without adapters is what it is.

    Only the layers' own switch is turned: PEFT's `disable_adapter()` also freezes and thaws every adapter weight, which
    distributed training takes for a parameter that is not used.
    """
    if not has_adapters(model):
        yield
        return
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    layers = [own for own in model.modules() if isinstance(own, BaseTunerLayer | ModulesToSaveWrapper)]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, was in zip(layers, before, strict=True):
            layer._disable_adapters = was


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its adapters merged into the weights, which takes the adapters away; without any, itself."""
    return model.merge_and_unload() if has_adapters(model) else model
