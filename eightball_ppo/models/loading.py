"""Load a classifier and its tokenizer from a directory or the Hub, safetensors only, and say clearly what is wrong."""

from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from eightball_ppo.data import Questions
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.attention import always_mask, needs_always_mask
from eightball_ppo.models.finetuned import format_names, load_finetuned
from eightball_ppo.models.packaged import PACKAGED_MINILM, checked_minilm_dir
from eightball_ppo.models.precision import cast_encoder
from eightball_ppo.models.safe_loading import ADAPTER_CONFIG, check_files, unloadable, warn_of_code
from eightball_ppo.models.tokenization import TokenTable, max_input_length, set_max_length, tokenize
from eightball_ppo.runtime.paths import local_path


def check_checkpoint(name: str, flag: str) -> Path | None:
    """The local directory that `name` means, or None for a Hub id.

    Raises:
        InputError: a local path that is no directory, or one without a config.json or adapter_config.json.
    """
    path = local_path(name)
    if path is not None and path.is_file():
        raise InputError(
            f"{flag} {name}: is a file; name the directory of a checkpoint, and unpack an archive yourself"
        )
    if path is not None and not path.is_dir():
        raise InputError(f"{flag} {name}: no such directory")
    if path is not None and not any((path / file).is_file() for file in ("config.json", ADAPTER_CONFIG)):
        raise InputError(f"{flag} {name}: not a checkpoint, it holds no config.json")
    return path


def load_classifier(
    name: str, flag: str, dtype: torch.dtype = torch.float32, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model in eval mode and tokenizer of a saved classifier; LoRA adapters are merged into the model they name. The
    tokenizer cuts at the latest where the model has no more positions.

    `flag` names the option in errors; `trust_remote_code`: code that comes with the model may run.

    Raises:
        InputError: no such directory, no checkpoint in it, a damaged one, one that `check_files` refuses, one without
            safetensors, adapters whose base is missing or another one, weights that are not in it, a tokenizer
            without a padding token, or no labels.
    """
    path = check_checkpoint(name, flag)
    source = name if path is None else str(path)
    if trust_remote_code:
        warn_of_code(name, flag)
    try:
        check_files(name, flag)
        model = load_finetuned(source, flag, trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except InputError:
        raise
    except Exception as error:  # every library below raises its own: OSError, ValueError, SafetensorError, KeyError ...
        raise unloadable(name, flag, "not a loadable checkpoint", error) from error
    require_padding(tokenizer, flag, name)
    try:
        label_set(model)
    except InputError as error:
        raise InputError(f"{flag} {name}: {error}") from None
    set_max_length(tokenizer, model, None)
    if needs_always_mask():
        always_mask(model)
    return cast_encoder(model, dtype, f"{flag} {name}").eval(), tokenizer


def require_padding(tokenizer: PreTrainedTokenizerBase, flag: str, name: str) -> None:
    """Raises InputError for a tokenizer without a padding token, with which no batch can be made."""
    if tokenizer.pad_token_id is None:
        raise InputError(
            f"{flag} {name}: its tokenizer has no padding token; set one (tokenizer.pad_token = ...) and save it again"
        )


def load_new_classifier(
    name: str, flag: str, labels: LabelSet, trust_remote_code: bool = False
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase, list[str]]:
    """A pretrained encoder under a head for `labels`, its tokenizer, and the names of its modules that are new.

    `minilm` is the packaged one; anything else a directory or Hub id, whose code may run with `trust_remote_code`.

    Raises:
        InputError: no loadable encoder there, not a whole one, one that `check_files` refuses, or a tokenizer without a
            padding token.
    """
    path = str(checked_minilm_dir()) if name == PACKAGED_MINILM else name
    if trust_remote_code:
        warn_of_code(name, flag)
    try:
        check_files(path, flag)
        tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code)
        model, loaded = _pretrained(path, labels, trust_remote_code)
    except InputError:
        raise
    except Exception as error:  # as above
        raise unloadable(name, flag, "no loadable encoder there", error) from error
    require_padding(tokenizer, flag, name)
    keys = [*loaded["missing_keys"], *(key for key, *_ in loaded["mismatched_keys"])]
    body, pooler = f"{model.base_model_prefix}.", f"{model.base_model_prefix}.pooler"
    of_body = [key for key in keys if key.startswith(body) and not key.startswith(f"{pooler}.")]
    if of_body:
        raise InputError(
            f"{flag} {name}: no whole encoder, it lacks {format_names(of_body)}, which would be random numbers; is its "
            f"config.json that of another model?"
        )
    return model, tokenizer, sorted({pooler if key.startswith(body) else key.split(".")[0] for key in keys})


def load_encoder(path: str, labels: LabelSet, **overrides: float) -> PreTrainedModel:
    """A pretrained encoder under a new classification head for `labels`, float32; `overrides` go into its config.

    Raises whatever transformers raises where `path` holds no such model.
    """
    return _pretrained(path, labels, trust_remote_code=False, **overrides)[0]


def _pretrained(
    path: str, labels: LabelSet, trust_remote_code: bool, **overrides: float
) -> tuple[PreTrainedModel, dict[str, Any]]:
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


def label_set(model: PreTrainedModel) -> LabelSet:
    """The labels of a loaded classifier."""
    return LabelSet.of_model(model.config.id2label)


@torch.no_grad()
def predict_logits_NK(
    model: torch.nn.Module, tokens: TokenTable, batch_size: int = 256, by_length: bool = False
) -> torch.Tensor:
    """Logits [N, K] of every question of a token table, on the CPU, in the table's order.

    `by_length`: batches of like length, so that little is spent on padding. `model` is put in eval mode and back.
    """
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    tokens = tokens.to(device)
    length_N = tokens.length_N.cpu()
    order_N = length_N.argsort(stable=True) if by_length else torch.arange(len(tokens))
    logits_NK = torch.empty(0)  # filled in place: small results kept one by one would hold the freed memory around them
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
) -> torch.Tensor:
    """Logits [N, K] of questions, in batches of like length so that little is spent on padding; in the order given.

    Questions are cut where `max_input_length` says: where the model's training cut them.
    """
    return predict_logits_NK(
        model, tokenize(questions, tokenizer, max_input_length(tokenizer)), batch_size, by_length=True
    )
