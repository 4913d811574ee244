"""Whole classifiers: every weight comes from the checkpoint, or from the adapters in it, and none is drawn anew."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, PreTrainedModel
from transformers.utils.peft_utils import find_adapter_config_file

from eightball_ppo.errors import InputError
from eightball_ppo.models.saving import check_base
from eightball_ppo.runtime.paths import local_path

MAX_NAMES = 2  # weights that a message names


def load_finetuned(source: str, flag: str, trust_remote_code: bool = False) -> PreTrainedModel:
    """The classifier in `source`, float32; LoRA adapters are merged into the model they name.

    `flag` names the option in errors; `trust_remote_code`: code that comes with the model may run. Whatever
    transformers and PEFT raise is passed on.

    Raises:
        InputError: weights that `source` has not, or adapters that do not fit on their base.
    """
    model, missing = _load(source, flag, trust_remote_code)
    if missing:
        raise InputError(
            f"{flag} {source}: not a fine-tuned classifier: {format_names(missing)} is missing and would be random; "
            f"train it first (eightball sft or eightball reward with --model_name_or_path {source})"
        )
    return model


def _load(source: str, flag: str, trust_remote_code: bool) -> tuple[PreTrainedModel, list[str]]:
    """(model, names of the weights that are not in `source` and were drawn at random)"""
    if find_adapter_config_file(source) is not None:
        return _load_adapters(source, flag, trust_remote_code), []
    model, loaded = AutoModelForSequenceClassification.from_pretrained(
        source,
        use_safetensors=True,
        dtype=torch.float32,
        output_loading_info=True,
        trust_remote_code=trust_remote_code,
    )
    return model, sorted(loaded["missing_keys"])


def _load_adapters(source: str, flag: str, trust_remote_code: bool) -> PreTrainedModel:
    """The model that the adapters in `source` stand on, with them merged into it.

    Raises:
        InputError: the base is not there, is not the one they were trained on, or they do not fit on it.
    """
    from peft import PeftConfig, PeftModel
    from peft.utils import load_peft_weights, set_peft_model_state_dict

    base = PeftConfig.from_pretrained(source).base_model_name_or_path
    path = local_path(base)
    if path is not None and not path.is_dir():
        raise InputError(
            f"{flag} {source}: its adapters need {base}, which is not here; copy it here, or train with --merge_adapter"
        )
    model, missing = _load(str(base if path is None else path), flag, trust_remote_code)
    if not missing:  # else its head comes with the adapters, and was random when they were trained
        check_base(model, Path(source), flag)
    weights: dict[str, Any] = load_peft_weights(source, device="cpu")
    lacking = [name for name in missing if f"base_model.model.{name}" not in weights]
    if lacking:
        raise InputError(f"{flag} {source}: neither its adapters nor their base {base} hold {format_names(lacking)}")
    under_adapters = PeftModel.from_pretrained(model, source)
    unused = set_peft_model_state_dict(under_adapters, weights).unexpected_keys
    if unused:
        raise InputError(
            f"{flag} {source}: its adapters do not fit {base}, which has no {format_names(unused)}; give it the "
            "base it had"
        )
    model = under_adapters.merge_and_unload()
    model.name_or_path = model.config._name_or_path = source  # adapters on top of it will name it as their base
    return model


def format_names(names: Iterable[str]) -> str:
    """The first of `names`, and how many more there are."""
    names = sorted(names)
    return ", ".join(names[:MAX_NAMES]) + (f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else "")
