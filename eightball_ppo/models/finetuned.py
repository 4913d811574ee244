"""Loads complete classifiers: every weight comes from the checkpoint or its adapters, and none is random."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from eightball_ppo.config.fields import require
from eightball_ppo.models.saving import check_base
from eightball_ppo.runtime.moved_runs import locate
from eightball_ppo.runtime.paths import local_path

MAX_NAMES = 2  # weights that a message names


def load_finetuned(source: str, flag: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """The classifier in `source`, float32; LoRA adapters are merged into their base model.

    Args:
        source: Directory or Hub id.
        flag: The option that named it, for messages.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        InputError: `source` lacks weights, or its adapters do not fit their base model.
        Exception: Whatever transformers and PEFT raise.
    """
    model, missing = _load(source, flag, trust_remote_code)
    require(
        not missing,
        f"{flag} {source}: not a fine-tuned classifier: {format_names(missing)} is missing and would be random; "
        f"train it first (eightball sft or eightball reward with --model_name_or_path {source})",
    )
    return model


def _load(source: str, flag: str, trust_remote_code: bool) -> tuple[PreTrainedModel, list[str]]:
    """(model, names of the weights that `source` lacks and that are random)."""
    if find_adapter_config_file(source) is not None:
        return _load_adapters(source, flag, trust_remote_code), []
    model, info = AutoModelForSequenceClassification.from_pretrained(
        source, use_safetensors=True, dtype=torch.float32, output_loading_info=True, trust_remote_code=trust_remote_code
    )
    return model, sorted(info["missing_keys"])


def _load_adapters(source: str, flag: str, trust_remote_code: bool) -> PreTrainedModel:
    """The base model of the adapters in `source`, with them merged into it."""
    from peft import PeftConfig, PeftModel
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    base = locate(str(PeftConfig.from_pretrained(source).base_model_name_or_path), Path(source))
    path, where = local_path(base), f"{flag} {source}"
    exists = path is None or path.is_dir()
    require(
        exists, f"{where}: its adapters need {base}, which is not here; copy it here, or train with --merge_adapter"
    )
    model, missing = _load(base if path is None else str(path), flag, trust_remote_code)
    if not missing:  # else its head comes with the adapters, and was random when they were trained
        check_base(model, Path(source), flag)
    weights: dict[str, Any] = load_peft_weights(source, device="cpu")
    lacking = [name for name in missing if f"base_model.model.{name}" not in weights]
    require(not lacking, f"{where}: neither its adapters nor their base {base} hold {format_names(lacking)}")
    under_adapters = PeftModel.from_pretrained(model, source)
    unused = set_peft_model_state_dict(under_adapters, weights).unexpected_keys
    fit = f"{where}: its adapters do not fit {base}, which has no {format_names(unused)}; give it the base it had"
    require(not unused, fit)
    model = under_adapters.merge_and_unload()
    model.name_or_path = model.config._name_or_path = source  # adapters on top of it will name it as their base
    return model


def format_names(names: Iterable[str]) -> str:
    """The first of `names`, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
