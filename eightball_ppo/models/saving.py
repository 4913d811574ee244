"""Saves a policy to a directory: a full model, or LoRA adapters that name their base model."""

import json
from pathlib import Path

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.config.fields import require
from eightball_ppo.models.fingerprint import weights_fingerprint
from eightball_ppo.models.lora import has_adapters, merged
from eightball_ppo.runtime.paths import ADAPTER, ADAPTER_BASE


def save_policy(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, directory: Path, merge: bool = False
) -> None:
    """Writes `model` and `tokenizer` to `directory`, which is created.

    Args:
        model: A classifier; under LoRA its adapters and head alone are written.
        tokenizer: Its tokenizer.
        directory: Where to write.
        merge: Whether to write a full model with the adapters merged (which takes them off `model`), and the adapters
            to `directory/adapter`.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if has_adapters(model):
        save_adapter(model, directory / ADAPTER if merge else directory)
    if merge or not has_adapters(model):
        merged(model).save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def save_adapter(model: PreTrainedModel, directory: Path, base: str | None = None) -> None:
    """Writes adapters and head alone; `base` replaces the name of the base model in their config."""
    if base is not None:
        model.peft_config["default"].base_model_name_or_path = base
    model.save_pretrained(directory, save_embedding_layers=False)  # "auto" would ask the Hub about the encoder
    (directory / "README.md").unlink(missing_ok=True)  # PEFT's empty card; our card replaces it
    if model.base_fingerprint is not None:
        record = {"fingerprint": model.base_fingerprint}
        (directory / ADAPTER_BASE).write_text(json.dumps(record) + "\n", encoding="utf-8")


def check_base(model: PreTrainedModel, directory: Path, flag: str) -> None:
    """Checks that `model` holds the weights that the adapters in `directory` were trained on.

    Adapters without a record (trained elsewhere, or under a new head) are not checked. The fingerprint is that of the
    weights in bfloat16, the same whether the base is loaded as float32 or as bfloat16.

    Raises:
        InputError: The weights differ.
    """
    record = directory / ADAPTER_BASE
    if not record.is_file():
        return
    expected = json.loads(record.read_text(encoding="utf-8")).get("fingerprint")
    require(
        expected == weights_fingerprint(model, torch.bfloat16),
        f"{flag} {directory}: its adapters were trained on other weights than those of {model.name_or_path} now; "
        "give it the base it had, or train again with --merge_adapter",
    )
