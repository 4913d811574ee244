"""Write a policy to a directory: a full model, or LoRA adapters that name the model they stand on."""

import json
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.errors import InputError
from eightball_ppo.models.fingerprint import weights_fingerprint
from eightball_ppo.models.lora import has_adapters, merged
from eightball_ppo.runtime.paths import ADAPTER

BASE = "base.json"  # beside adapters: the fingerprint of the weights that they were trained on


def save_policy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path, merge: bool = False
) -> None:
    """Write `model` and `tokenizer` to `directory`, which is made.

    A model under LoRA adapters is saved as adapters and head alone, or, with `merge`, as the full model with the
    adapters in `directory/adapter`; merging takes the adapters off `model`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if has_adapters(model) and not merge:
        save_adapter(model, directory)
    else:
        if has_adapters(model):
            save_adapter(model, directory / ADAPTER)
        merged(model).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def save_adapter(model: PreTrainedModel, directory: Path, base: str | None = None) -> None:
    """The adapters and the head alone; `base` is the name that their base is recorded under, by default its own."""
    if base is not None:
        model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(directory, save_embedding_layers=False)  # "auto" would ask the Hub about the encoder
    (directory / "README.md").unlink(missing_ok=True)  # PEFT's empty card; ours says it all
    if model.base_fingerprint is not None:
        record = {"fingerprint": model.base_fingerprint}
        (directory / BASE).write_text(json.dumps(record) + "\n", encoding="utf-8")


def base_fingerprint(model: PreTrainedModel) -> str:
    """What adapters remember of their base; the same whether it is loaded as float32 or as bfloat16."""
    return weights_fingerprint(model, torch.bfloat16)


def check_base(model: PreTrainedModel, directory: Path, flag: str) -> None:
    """Raises InputError unless `model` holds the weights that the adapters in `directory` were trained on.

    Adapters that were trained elsewhere, or under a new head, do not say, and are believed.
    """
    record = directory / BASE
    if not record.is_file():
        return
    expected = json.loads(record.read_text(encoding="utf-8")).get("fingerprint")
    if expected != base_fingerprint(model):
        raise InputError(
            f"{flag} {directory}: its adapters were trained on other weights than those of {model.name_or_path} now; "
            "give it the base it had, or train again with --merge_adapter"
        )
