"""Text to ids: which tokenizer, and one padded table of ids per question set."""

import logging
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from eightball_ppo.data import Questions
from eightball_ppo.errors import InputError
from eightball_ppo.packaged import minilm_dir

logger = logging.getLogger(__name__)

WORDPIECE = "wordpiece"
WHITESPACE = "whitespace"


@dataclass(frozen=True)
class TokenTable:
    """Token ids of N questions, padded to the longest; in `attention_mask_NT` 1 is a real token. Both int64."""

    input_ids_NT: Tensor
    attention_mask_NT: Tensor
    truncated: int = 0

    def __len__(self) -> int:
        return self.input_ids_NT.shape[0]

    def to(self, device: torch.device) -> "TokenTable":
        return TokenTable(self.input_ids_NT.to(device), self.attention_mask_NT.to(device), self.truncated)

    def rows(self, rows_B: Tensor) -> dict[str, Tensor]:
        """Model inputs of the questions `rows_B`."""
        return {"input_ids": self.input_ids_NT[rows_B], "attention_mask": self.attention_mask_NT[rows_B]}


def load_tokenizer(name: str, questions: Questions) -> PreTrainedTokenizerBase:
    """The tokenizer that `--tokenizer` names: `wordpiece` is BERT's, from the packaged MiniLM; `whitespace` gets its
    vocabulary from the words of `questions`; anything else is a path or Hub id.

    Raises:
        InputError: a path or id that holds no tokenizer, or a tokenizer without a padding token.
    """
    if name == WHITESPACE:
        return whitespace_tokenizer(questions.texts)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(minilm_dir()) if name == WORDPIECE else name)
    except (OSError, ValueError) as error:
        raise InputError(f"--tokenizer {name}: no tokenizer there ({str(error).strip().splitlines()[0]})") from None
    if tokenizer.pad_token_id is None:
        raise InputError(f"--tokenizer {name}: it has no padding token; use one that has")
    return tokenizer


def whitespace_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """One id per lower-cased word between spaces, in order of first use; an unknown word becomes `<unk>`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = dict.fromkeys(word for text in texts for word in text.lower().split())
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")


def reads_at_most(tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens after which a question is cut: the tokenizer's own limit, or 512 where it was saved without one."""
    return tokenizer.model_max_length if tokenizer.model_max_length < 1_000_000 else 512


def tokenize(questions: Questions, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenTable:
    """Token table of `questions`; longer ones are cut to `max_length` tokens, counted, and warned about once."""
    full = tokenizer(questions.texts, truncation=False, verbose=False)["input_ids"]
    truncated = sum(len(ids) > max_length for ids in full)
    if truncated:
        logger.warning(
            "%s: %d of %d questions are longer than max_length %d tokens and were cut",
            questions.source, truncated, len(questions), max_length,
        )  # fmt: skip
    encoded = tokenizer(questions.texts, truncation=True, max_length=max_length, padding=True, return_tensors="pt")
    return TokenTable(encoded["input_ids"], encoded["attention_mask"], truncated)
