"""Text to ids: which tokenizer, and one padded table of ids per question set."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from eightball_ppo.data import Questions
from eightball_ppo.data.pairs import split_pair
from eightball_ppo.errors import InputError
from eightball_ppo.models.packaged import minilm_dir
from eightball_ppo.models.safe_loading import check_files, unloadable, warn_of_code

logger = logging.getLogger(__name__)

WORDPIECE = "wordpiece"
WHITESPACE = "whitespace"
CHUNK = 4096  # questions tokenized at once: python's lists of ids are much bigger than the table


@dataclass(frozen=True)
class TokenTable:
    """Token ids of N questions, one behind the other: a long question makes no other one longer.

    Letters: S tokens of all questions together. `ids_S` (int32) and, for a tokenizer that tells two texts of one
    question apart, `types_S` (int8; None where all are 0); question i stands at `start_N1[i]` to `start_N1[i + 1]`.
    """

    ids_S: Tensor
    start_N1: Tensor
    longest: int
    pad_token_id: int = 0
    types_S: Tensor | None = None
    truncated: int = 0

    @classmethod
    def of(
        cls,
        ids: Sequence[Sequence[int]],
        pad_token_id: int = 0,
        types: Sequence[Sequence[int]] | None = None,
        truncated: int = 0,
    ) -> "TokenTable":
        """The table of questions given as lists of ids, and of token types."""
        length_N = torch.tensor([len(own) for own in ids])
        start_N1 = torch.cat([torch.zeros(1, dtype=torch.long), length_N.cumsum(0)])
        ids_S = torch.tensor([token for own in ids for token in own], dtype=torch.int32)
        types_S = None if types is None else torch.tensor([kind for own in types for kind in own], dtype=torch.int8)
        return cls(ids_S, start_N1, int(length_N.max()), pad_token_id, types_S, truncated)

    @classmethod
    def joined(cls, parts: Sequence["TokenTable"]) -> "TokenTable":
        """One table of the questions of all `parts`, which share a tokenizer."""
        starts, before = [torch.zeros(1, dtype=torch.long)], 0
        for part in parts:
            starts.append(part.start_N1[1:] + before)
            before += len(part.ids_S)
        types = [part.types_S for part in parts]
        if any(own is not None for own in types):
            zeros = [torch.zeros_like(part.ids_S, dtype=torch.int8) for part in parts]
            types = [zero if own is None else own for own, zero in zip(types, zeros, strict=True)]
        return cls(
            torch.cat([part.ids_S for part in parts]),
            torch.cat(starts),
            max(part.longest for part in parts),
            parts[0].pad_token_id,
            None if types[0] is None else torch.cat([own for own in types if own is not None]),
            sum(part.truncated for part in parts),
        )

    def __len__(self) -> int:
        return self.start_N1.shape[0] - 1

    @property
    def length_N(self) -> Tensor:
        """Tokens of each question."""
        return self.start_N1.diff()

    def apply(self, fn: Callable[[Tensor], Tensor]) -> "TokenTable":
        """The table with `fn` applied to its tensors, as `nn.Module` moves its own."""
        types_S = None if self.types_S is None else fn(self.types_S)
        return replace(self, ids_S=fn(self.ids_S), start_N1=fn(self.start_N1), types_S=types_S)

    def to(self, device: torch.device) -> "TokenTable":
        return self.apply(lambda tensor: tensor.to(device))

    def rows(self, rows_B: Tensor, width: int | None = None) -> dict[str, Tensor]:
        """Model inputs [B, width] of the questions `rows_B`, int64, padded on the right; by default to the longest of
        the whole table, so that no size has to be read back from the device."""
        start_B = self.start_N1[rows_B]
        position_T = torch.arange(self.longest if width is None else width, device=rows_B.device)
        mask_BT = position_T < (self.start_N1[rows_B + 1] - start_B)[:, None]
        place_BT = (start_B[:, None] + position_T) * mask_BT
        inputs = {
            "input_ids": self.ids_S.take(place_BT).long().masked_fill(~mask_BT, self.pad_token_id),
            "attention_mask": mask_BT.long(),
        }
        if self.types_S is not None:
            inputs["token_type_ids"] = self.types_S.take(place_BT).long() * mask_BT
        return inputs


def load_tokenizer(name: str, questions: Questions, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer that `--tokenizer` names: `wordpiece` is BERT's, from the packaged MiniLM; `whitespace` gets its
    vocabulary from the words of `questions`; anything else is a path or Hub id, whose code may run with
    `trust_remote_code`.

    Raises:
        InputError: a path or id that holds no tokenizer, or a tokenizer without a padding token.
    """
    if name == WHITESPACE:
        return whitespace_tokenizer(questions.texts)
    if trust_remote_code:
        warn_of_code(name, "--tokenizer")
    source = str(minilm_dir()) if name == WORDPIECE else name
    try:
        check_files(source, "--tokenizer")
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    except InputError:
        raise
    except Exception as error:  # of files that hold anything: OSError, ValueError, TypeError, Rust's own ...
        raise unloadable(name, "--tokenizer", "no tokenizer there", error) from None
    if tokenizer.pad_token_id is None:
        raise InputError(f"--tokenizer {name}: it has no padding token; use one that has")
    return tokenizer


def whitespace_tokenizer(texts: Sequence[str]) -> PreTrainedTokenizerFast:
    """One id per lower-cased word between spaces, in order of first use; an unknown word becomes `<unk>`."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers

    words = dict.fromkeys(word for text in texts for word in text.lower().split())
    vocabulary = {word: i for i, word in enumerate(["<pad>", "<unk>", *words])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", unk_token="<unk>")


def max_input_length(tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens after which a question is cut: the tokenizer's own limit, or 512 where it was saved without one."""
    return tokenizer.model_max_length if tokenizer.model_max_length < 1_000_000 else 512


def max_positions(model: PreTrainedModel) -> int | None:
    """Most tokens that `model` has positions for; None where it needs none.

    RoBERTa and its kin, and MPNet, count positions from behind that of padding, so that the first ones are never used.
    """
    for name, own in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(own, nn.Embedding) and own.padding_idx is not None:
            return own.num_embeddings - own.padding_idx - 1
    return getattr(model.config, "max_position_embeddings", None)


def set_max_length(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, max_length: int | None) -> None:
    """Let `tokenizer` cut at `max_length` tokens, also for whoever loads it beside the policy; None leaves it as it is.

    Raises:
        InputError: `model` has no positions for so many.
    """
    longest = max_positions(model)
    if max_length is not None:
        if longest is not None and max_length > longest:
            raise InputError(f"--max_length {max_length}: {type(model).__name__} reads at most {longest} tokens")
        tokenizer.model_max_length = max_length
    elif longest is not None:
        tokenizer.model_max_length = min(max_input_length(tokenizer), longest)


def tokenize(questions: Questions, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenTable:
    """Token table of `questions`; longer ones are cut to `max_length` tokens, counted, and warned about once.

    See `token_table`.
    """
    table = token_table(questions.texts, tokenizer, max_length)
    if table.truncated:
        logger.warning(
            "%s: %d of %d questions are longer than max_length %d tokens and were cut",
            questions.source, table.truncated, len(questions), max_length,
        )  # fmt: skip
    return table


def token_table(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenTable:
    """Token table of `texts`, cut to `max_length` tokens.

    A question of two texts (see `data.pairs`) is given to the tokenizer as two, so that it can tell them apart.
    """
    parts = [_tokenize(texts[i : i + CHUNK], tokenizer, max_length) for i in range(0, len(texts), CHUNK)]
    return TokenTable.joined(parts)


def _tokenize(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenTable:
    encoded = _encode(texts, tokenizer)
    ids, types = encoded["input_ids"], encoded.get("token_type_ids")
    long = [row for row, own in enumerate(ids) if len(own) > max_length]
    if long:
        cut = _encode([texts[row] for row in long], tokenizer, truncation=True, max_length=max_length)
        for position, row in enumerate(long):
            ids[row] = cut["input_ids"][position]
            if types is not None:
                types[row] = cut["token_type_ids"][position]
    if types is not None and not any(any(own) for own in types):
        types = None  # the same to a model, and less to carry
    pad_token_id = tokenizer.pad_token_id
    assert isinstance(pad_token_id, int)
    return TokenTable.of(ids, pad_token_id, types, len(long))


def _encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, **cut: Any) -> dict[str, list[list[int]]]:
    first, second = zip(*map(split_pair, texts), strict=True)
    pairs = None if all(text is None for text in second) else [text or "" for text in second]
    encoded = tokenizer(list(first), pairs, return_attention_mask=False, verbose=False, **{"truncation": False, **cut})
    return dict(encoded)
