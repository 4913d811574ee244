"""Loads a classifier and its tokenizer from a directory or the Hub, safetensors only, with clear messages."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from eightball_ppo.config.fields import require
from eightball_ppo.data import Questions
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.attention import always_mask, needs_always_mask
from eightball_ppo.models.configuration_mean_pooled import MeanPooledConfig
from eightball_ppo.models.finetuned import format_names, load_finetuned
from eightball_ppo.models.frozen import freeze_encoder, is_frozen
from eightball_ppo.models.modeling_mean_pooled import MeanPooledForSequenceClassification
from eightball_ppo.models.packaged import PACKAGED_MINILM, checked_minilm_dir
from eightball_ppo.models.precision import cast_encoder
from eightball_ppo.models.safe_loading import checked_loading
from eightball_ppo.models.tokenization import TokenTable, max_input_length, set_max_length, tokenize
from eightball_ppo.runtime.paths import ADAPTER_CONFIG, local_path


def check_checkpoint(name: str, flag: str) -> Path | None:
    """The local directory that `name` means, or None for a Hub id.

    Raises:
        InputError: A local path that is no directory, or one without a config.json or adapter_config.json.
    """
    path, where = local_path(name), f"{flag} {name}"
    if path is None:
        return None
    unpack = f"{where}: is a file; name the directory of a checkpoint, and unpack an archive yourself"
    require(not path.is_file(), unpack)
    require(path.is_dir(), f"{where}: no such directory")
    configured = any((path / file).is_file() for file in ("config.json", ADAPTER_CONFIG))
    require(configured, f"{where}: not a checkpoint, it holds no config.json")
    return path


def load_classifier(
    name: str, flag: str, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A saved classifier in eval mode, and its tokenizer; LoRA adapters are merged into their base model.

    The tokenizer truncates at the latest where the model has no more positions.

    Args:
        name: Directory or Hub id.
        flag: The option that named it, for messages.
        dtype: Type of the encoder's weights; the head stays in float32.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        InputError: No such directory, no checkpoint in it, a damaged one, one that `check_files` refuses, one without
            safetensors, adapters whose base model is missing or another one, missing weights, a tokenizer without a
            padding token, or no labels.
    """
    path = check_checkpoint(name, flag)
    source = name if path is None else str(path)
    with checked_loading(name, flag, "not a loadable checkpoint", trust_remote_code=trust_remote_code):
        model = load_finetuned(source, flag, trust_remote_code)
        tokenizer = _tokenizer(source, name, flag, trust_remote_code)
    try:
        label_set(model)
    except InputError as error:
        raise InputError(f"{flag} {name}: {error}") from None
    set_max_length(tokenizer, model, None)
    if needs_always_mask():
        always_mask(model)
    return cast_encoder(model, dtype, f"{flag} {name}").eval(), tokenizer


def load_tokenizer(name: str, flag: str, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint.

    Args:
        name: Directory or Hub id.
        flag: The option or argument that named it, for messages.
        trust_remote_code: Whether code that comes with it may run.

    Raises:
        InputError: No such directory, no tokenizer in it, or one without a padding token.
    """
    path = check_checkpoint(name, flag)
    with checked_loading(name, flag, "holds no loadable tokenizer", trust_remote_code=trust_remote_code):
        return _tokenizer(name if path is None else str(path), name, flag, trust_remote_code)


def _tokenizer(source: str, name: str, flag: str, trust_remote_code: bool) -> PreTrainedTokenizerBase:
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    fix = f"{flag} {name}: its tokenizer has no padding token; set one (tokenizer.pad_token = ...) and save it again"
    require(tokenizer.pad_token_id is not None, fix)
    return tokenizer


def load_new_classifier(
    name: str, flag: str, labels: LabelSet, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[str]]:
    """A pretrained encoder under a head for `labels`, its tokenizer, and the names of its modules that are new.

    Args:
        name: `minilm` (the packaged one), or a directory or Hub id.
        flag: The option that named it, for messages.
        labels: The labels of the head.
        trust_remote_code: Whether code that comes with the model may run.

    Raises:
        InputError: No loadable encoder, one that lacks weights or that `check_files` refuses, or a tokenizer without a
            padding token.
    """
    path = str(checked_minilm_dir()) if name == PACKAGED_MINILM else name
    with checked_loading(name, flag, "no loadable encoder there", path, trust_remote_code):
        tokenizer = _tokenizer(path, name, flag, trust_remote_code)
        model, info = load_encoder(path, labels, trust_remote_code)
    keys = [*info["missing_keys"], *(key for key, *_ in info["mismatched_keys"])]
    body, pooler = f"{model.base_model_prefix}.", f"{model.base_model_prefix}.pooler"
    of_body = [key for key in keys if key.startswith(body) and not key.startswith(f"{pooler}.")]
    _check_complete(of_body, f"{flag} {name}")
    return model, tokenizer, sorted({pooler if key.startswith(body) else key.split(".")[0] for key in keys})


def _check_complete(missing: list[str], where: str) -> None:
    """Raises InputError if weights of an encoder are missing."""
    lacks = f"{where}: no complete encoder, it lacks {format_names(missing)}, which would be random numbers"
    require(not missing, f"{lacks}; is its config.json that of another model?")


def load_encoder(
    path: str, labels: LabelSet, trust_remote_code: bool = False, **overrides: float
) -> tuple[PreTrainedModel, dict[str, Any]]:
    """A pretrained encoder under a new classification head, float32, and transformers' loading info.

    Args:
        path: Directory or Hub id.
        labels: The labels of the head.
        trust_remote_code: Whether code that comes with the model may run.
        **overrides: Values that replace those of the model's config.

    Raises:
        Exception: Whatever transformers raises where `path` holds no such model.
    """
    return AutoModelForSequenceClassification.from_pretrained(
        path,
        num_labels=len(labels),
        id2label=labels.id2label,
        label2id=labels.label2id,
        use_safetensors=True,
        trust_remote_code=trust_remote_code,
        ignore_mismatched_sizes=True,  # a head of another size is replaced, too
        dtype=torch.float32,
        output_loading_info=True,
        **overrides,
    )


def new_frozen_classifier(
    name: str, flag: str, labels: LabelSet, head_hidden_size: int, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A pretrained encoder as a fixed reader under a new head, and its tokenizer.

    Args:
        name: `minilm` (the packaged one), or a directory or Hub id.
        flag: The option that named it, for messages.
        labels: The labels of the head.
        head_hidden_size: Width of the head's hidden layer; 0: a linear head.
        trust_remote_code: Whether code that comes with the tokenizer may run.

    Raises:
        InputError: No loadable encoder, or a tokenizer without a padding token.
    """
    path = str(checked_minilm_dir()) if name == PACKAGED_MINILM else name
    with checked_loading(name, flag, "no loadable encoder there", path, trust_remote_code):
        tokenizer = _tokenizer(path, name, flag, trust_remote_code)
        # the code of one that brings its own could not be saved with the policy
        encoder, info = AutoModel.from_pretrained(
            path, use_safetensors=True, trust_remote_code=False, dtype=torch.float32, output_loading_info=True
        )
    _check_complete([key for key in info["missing_keys"] if not key.startswith("pooler.")], f"{flag} {name}")
    settings = {key: value for key, value in encoder.config.to_dict().items() if key != "_name_or_path"}
    names: dict[str, Any] = {"id2label": labels.id2label, "label2id": labels.label2id}
    config = MeanPooledConfig(settings, head_hidden_size, True, pad_token_id=tokenizer.pad_token_id, **names)
    model = MeanPooledForSequenceClassification(config)
    model.encoder.load_state_dict(encoder.state_dict())
    return freeze_encoder(model.eval()), tokenizer


def label_set(model: PreTrainedModel) -> LabelSet:
    """The labels of a loaded classifier."""
    return LabelSet.of_model(model.config.id2label)


@torch.no_grad()
def predict_logits_NK(model: nn.Module, tokens: TokenTable, batch_size: int = 256, by_length: bool = False) -> Tensor:
    """Logits of every question of a token table, [N, K], on the CPU, in the table's order.

    Args:
        model: A classifier; put in eval mode, and back.
        tokens: Tokens of the N questions.
        batch_size: Questions per forward pass.
        by_length: Whether to batch questions of similar length, which wastes less compute on padding.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    tokens = (tokens if is_frozen(model) else replace(tokens, features_NH=None)).to(device)
    length_N = tokens.length_N.cpu()
    order_N = length_N.argsort(stable=True) if by_length else torch.arange(len(tokens))
    logits_NK = torch.empty(0)  # filled in place: a list of small results would pin the freed memory between them
    for rows_B in order_N.split(batch_size):
        width = int(length_N[rows_B].max()) if by_length else None
        logits_BK = model(**tokens.rows(rows_B.to(device), width)).logits.float().cpu()
        if not len(logits_NK):
            logits_NK = torch.empty(len(tokens), logits_BK.shape[1])
        logits_NK[rows_B] = logits_BK
    model.train(was_training)
    return logits_NK


def text_logits_NK(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Questions, batch_size: int = 16
) -> Tensor:
    """Logits of questions, [N, K], truncated as in the model's training, in batches of similar length."""
    tokens = tokenize(questions, tokenizer, max_input_length(tokenizer))
    return predict_logits_NK(model, tokens, batch_size, by_length=True)
