"""Encoders of the architectures that users bring, a few thousand weights each, with tokenizers of their kind."""

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoConfig,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)

from eightball_ppo.models.packaged import minilm_dir

SIZES: dict[str, dict[str, Any]] = {
    "bert": {},
    "roberta": {"pad_token_id": 1, "type_vocab_size": 1},
    "distilbert": {"dim": 32, "hidden_dim": 64, "n_layers": 2, "n_heads": 2},
    "modernbert": {"pad_token_id": 0, "cls_token_id": 101, "sep_token_id": 102, "global_attn_every_n_layers": 2},
    "deberta-v2": {"relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 8},
    "mpnet": {"pad_token_id": 1},
    "electra": {"embedding_size": 16},
    "albert": {"embedding_size": 16, "hidden_size": 32},
}
KINDS = tuple(SIZES)
NO_TOKEN_TYPES = ("roberta", "distilbert", "modernbert", "mpnet")


def tokenizer(kind: str) -> PreTrainedTokenizerBase:
    """RoBERTa's kind; else the packaged WordPiece, with or without token types, and the kind's padding id."""
    if kind == "roberta":
        return byte_level()
    packaged = AutoTokenizer.from_pretrained(str(minilm_dir()))
    if kind not in NO_TOKEN_TYPES:
        return packaged
    names = {name: packaged.special_tokens_map[name] for name in ("unk_token", "cls_token", "sep_token", "mask_token")}
    pad = packaged.convert_ids_to_tokens(SIZES[kind].get("pad_token_id", 0))
    return PreTrainedTokenizerFast(
        tokenizer_object=packaged.backend_tokenizer,
        pad_token=pad,
        model_max_length=64,
        model_input_names=["input_ids", "attention_mask"],
        **names,
    )


def byte_level() -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer: a space is a part of the word after it, and no text is unknown."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    special = {"cls_token": "<s>", "pad_token": "<pad>", "sep_token": "</s>", "unk_token": "<unk>"}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=[*special.values()], initial_alphabet=alphabet)
    backend.train_from_iterator(["Will it rain in Rome tomorrow?", "Is this the game of the year?"], trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), add_prefix_space=False)
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=64, model_input_names=inputs, **special)


def save(kind: str, directory: Path, labels: tuple[str, ...] = ("Yes", "No", "Maybe"), seed: int = 0) -> Path:
    """A randomly initialised classifier of `kind` with its tokenizer, in `directory`."""
    saved = tokenizer(kind)
    sizes = {
        "vocab_size": len(saved),
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 66,
        **SIZES[kind],
    }
    names = {"id2label": dict(enumerate(labels)), "label2id": {name: i for i, name in enumerate(labels)}}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(AutoConfig.for_model(kind, **sizes, **names))
    model.save_pretrained(directory)
    saved.save_pretrained(directory)
    return directory
