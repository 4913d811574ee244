"""LoRA adapters on any classifier: default target modules, switching them off, merging."""

import contextlib
import copy
from collections.abc import Iterator, Sequence

import torch
from torch import nn
from transformers import PreTrainedModel

from eightball_ppo.config.model import LoraOptions
from eightball_ppo.errors import InputError
from eightball_ppo.models.configuration_mean_pooled import MeanPooledConfig
from eightball_ppo.models.fingerprint import weights_fingerprint

# Query and value projections, as in the paper, of architectures that PEFT has no default for; of the small classifier
# every layer between embedding and head.
TARGET_MODULES: dict[str, list[str]] = {
    "eightball": ["qkv", "out", "hidden"],
    "distilbert": ["q_lin", "v_lin"],
    "mpnet": ["q", "v"],
    **{name: ["query", "value"] for name in ("albert", "camembert", "ernie", "xlm-roberta-xl")},
    **{name: ["Wqkv"] for name in ("modernbert", "nomic_bert")},
}


def target_modules(model_type: str) -> list[str]:
    """Names of the linear layers that get an adapter by default.

    Raises:
        InputError: Neither PEFT nor this module has a default for the architecture.
    """
    from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as PEFT_TARGET_MODULES

    targets = TARGET_MODULES.get(model_type) or PEFT_TARGET_MODULES.get(model_type)
    if not targets or isinstance(targets, str):
        raise InputError(
            f"--use_peft: no default for models of type {model_type!r}; name their query and value layers with "
            "--lora_target_modules"
        )
    return list(targets)


def with_lora(model: PreTrainedModel, options: LoraOptions, new_modules: Sequence[str] = ()) -> PreTrainedModel:
    """Puts LoRA adapters on `model`, in place; they start at exactly 0, so the logits stay the same.

    Args:
        model: The base model.
        options: Rank, scale and target modules.
        new_modules: Names of modules that train in full, beside the head.

    Raises:
        InputError: An architecture without default targets, or targets that are no linear layers of this model.
    """
    # with new modules there is no base model on a disk to check against
    fingerprint = None if new_modules else weights_fingerprint(model, torch.bfloat16)
    under_lora = _add_adapters(model, options, new_modules)
    under_lora.base_fingerprint = fingerprint  # saved beside the adapters, see `saving.check_base`
    return under_lora


def check_lora(model: PreTrainedModel, options: LoraOptions) -> None:
    """Raises InputError where `with_lora` would; `model` is neither changed nor copied, only its structure is."""
    weights = [*model.parameters(), *model.buffers()]
    shapes = {id(weight): nn.Parameter(weight.detach().to("meta"), requires_grad=False) for weight in weights}
    _add_adapters(copy.deepcopy(model, shapes), options, ())


def _add_adapters(model: PreTrainedModel, options: LoraOptions, new_modules: Sequence[str]) -> PreTrainedModel:
    from peft import LoraConfig, TaskType, get_peft_model

    config = model.config
    kind = config.encoder["model_type"] if isinstance(config, MeanPooledConfig) else config.model_type
    targets = options.lora_target_modules or target_modules(kind)
    lora = LoraConfig(
        task_type=TaskType.SEQ_CLS,
        r=options.lora_r,
        lora_alpha=options.lora_alpha,
        target_modules=targets,
        modules_to_save=list(new_modules) or None,  # PEFT adds `classifier` and `score` itself
    )
    try:
        return get_peft_model(model, lora)
    except ValueError as error:
        linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
        layers = ", ".join(sorted({name.rpartition(".")[2] for name in linear}))
        raise InputError(
            f"--lora_target_modules {' '.join(targets)}: {str(error).splitlines()[0][:160]}; the linear layers of "
            f"{type(model).__name__} are {layers}"
        ) from None


def has_adapters(model: nn.Module) -> bool:
    """Whether `model` is under LoRA adapters."""
    return hasattr(model, "peft_config")


@contextlib.contextmanager
def adapters_off(model: nn.Module) -> Iterator[None]:
    """Context in which `model` computes without its adapters, if it has any.

    Only the layers' own switch is set: PEFT's `disable_adapter()` also freezes and unfreezes every adapter weight,
    which DDP takes for a parameter that is not used.
    """
    if not has_adapters(model):
        yield
        return
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    layers = [layer for layer in model.modules() if isinstance(layer, BaseTunerLayer | ModulesToSaveWrapper)]
    before = [layer._disable_adapters for layer in layers]
    for layer in layers:
        layer._disable_adapters = True
    try:
        yield
    finally:
        for layer, disabled in zip(layers, before, strict=True):
            layer._disable_adapters = disabled


def merged(model: PreTrainedModel) -> PreTrainedModel:
    """The model with its adapters merged into the weights, which removes them; without any, the model itself."""
    return model.merge_and_unload() if has_adapters(model) else model
