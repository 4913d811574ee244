"""Load a classifier and its tokenizer from a directory or the Hub, safetensors only, and say clearly what is wrong."""

from pathlib import Path

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
from eightball_ppo.locations import local_path
from eightball_ppo.tokenization import TokenTable, reads_at_most, tokenize


def check_checkpoint(name: str, flag: str) -> Path | None:
    """The local directory that `name` means, or None for a Hub id.

    Raises:
        InputError: a local path that is no directory, or one without a config.json.
    """
    path = local_path(name)
    if path is not None and not path.is_dir():
        raise InputError(f"{flag} {name}: no such directory")
    if path is not None and not (path / "config.json").is_file():
        raise InputError(f"{flag} {name}: not a checkpoint, it holds no config.json")
    return path


def load_classifier(name: str, flag: str) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Model in eval mode (float32) and tokenizer of a saved classifier. `flag` names the option in errors.

    Raises:
        InputError: no such directory, no checkpoint in it, a damaged one, or one without safetensors.
    """
    path = check_checkpoint(name, flag)
    source = name if path is None else str(path)
    try:
        model = AutoModelForSequenceClassification.from_pretrained(source, use_safetensors=True, dtype=torch.float32)
        tokenizer = AutoTokenizer.from_pretrained(source)
    except Exception as error:  # every library below raises its own: OSError, ValueError, SafetensorError, KeyError ...
        raise InputError(f"{flag} {name}: not a loadable checkpoint ({first_line(error)})") from error
    return model.eval(), tokenizer


def load_encoder(path: str, labels: LabelSet, **overrides: float) -> PreTrainedModel:
    """A pretrained encoder under a new classification head for `labels`, float32; `overrides` go into its config.

    Raises whatever transformers raises where `path` holds no such model.
    """
    return AutoModelForSequenceClassification.from_pretrained(
        path,
        num_labels=len(labels),
        id2label=labels.id2label,
        label2id=labels.label2id,
        use_safetensors=True,
        ignore_mismatched_sizes=True,  # a head of another size is replaced, too
        dtype=torch.float32,
        **overrides,
    )


def first_line(error: Exception) -> str:
    """The first line of an exception's text, at most 200 characters; its type's name where it has none."""
    text = str(error).strip()
    return text.splitlines()[0][:200] if text else type(error).__name__


def label_set(model: PreTrainedModel) -> LabelSet:
    """The labels of a loaded classifier."""
    return LabelSet.of_model(model.config.id2label)


@torch.no_grad()
def table_logits_NK(model: torch.nn.Module, tokens: TokenTable, batch_size: int = 256) -> torch.Tensor:
    """Logits [N, K] of every question of a token table, on the CPU; `model` is put in eval mode for it and back."""
    was_training = model.training
    model.eval()
    device = next(model.parameters()).device
    tokens = tokens.to(device)
    rows_N = torch.arange(len(tokens), device=device)
    logits = [model(**tokens.rows(rows_B)).logits for rows_B in rows_N.split(batch_size)]
    model.train(was_training)
    return torch.cat(logits).float().cpu()


def text_logits_NK(
    model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, questions: Questions, batch_size: int = 64
) -> torch.Tensor:
    """Logits [N, K] of questions, in batches of like length so that little is spent on padding; in the order given.

    Questions are cut where `reads_at_most` says: where the model's training cut them.
    """
    table = tokenize(questions, tokenizer, reads_at_most(tokenizer))
    length_N = table.attention_mask_NT.sum(1)
    order_N = length_N.argsort(stable=True)
    parts = []
    for rows_B in order_N.split(batch_size):
        longest = int(length_N[rows_B].max())
        batch = TokenTable(table.input_ids_NT[rows_B, :longest], table.attention_mask_NT[rows_B, :longest])
        parts.append(table_logits_NK(model, batch))
    return torch.cat(parts)[order_N.argsort()]
