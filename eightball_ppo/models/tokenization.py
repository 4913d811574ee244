"""Text to token ids: which tokenizer, and one table of ids per question set."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from eightball_ppo.config.fields import require
from eightball_ppo.data import Questions
from eightball_ppo.data.pairs import split_pair
from eightball_ppo.models.packaged import minilm_dir
from eightball_ppo.models.safe_loading import checked_loading

logger = logging.getLogger(__name__)

CHUNK = 4096  # questions tokenized at once: Python's lists of ids are much bigger than the table


@dataclass(frozen=True)
class TokenTable:
    """Token ids of N questions in one row: a long question makes no other one longer. S is the sum of their lengths.

    Args:
        ids_S: Token ids, int32; those of question i are `ids_S[start_N1[i] : start_N1[i + 1]]`.
        start_N1: Where each question starts, and the end of the last one, [N + 1].
        longest: Tokens of the longest question.
        pad_token_id: Id of the padding token.
        types_S: Token types, int8, of a tokenizer that tells the two texts of a question apart; None if all are 0.
        truncated: Number of questions that were truncated.
        features_NH: What the head of a classifier with a frozen encoder reads of each question; None if it reads ids.
    """

    ids_S: Tensor
    start_N1: Tensor
    longest: int
    pad_token_id: int = 0
    types_S: Tensor | None = None
    truncated: int = 0
    features_NH: Tensor | None = None

    @classmethod
    def of(cls, ids: Sequence[Sequence[int]], pad_token_id: int = 0) -> "TokenTable":
        """The table of questions given as lists of ids."""
        lengths = [len(row) for row in ids]
        return cls(_flat(ids, torch.int32), _starts(lengths), max(lengths), pad_token_id)

    def __len__(self) -> int:
        return self.start_N1.shape[0] - 1

    @property
    def length_N(self) -> Tensor:
        """Tokens of each question."""
        return self.start_N1.diff()

    def apply(self, fn: Callable[[Tensor], Tensor]) -> "TokenTable":
        """A table with `fn` applied to its tensors, as `nn.Module._apply` does to a module's."""
        types_S, features_NH = (None if part is None else fn(part) for part in (self.types_S, self.features_NH))
        table = replace(self, ids_S=fn(self.ids_S), start_N1=fn(self.start_N1))
        return replace(table, types_S=types_S, features_NH=features_NH)

    def to(self, device: torch.device) -> "TokenTable":
        """A table on `device`."""
        return self.apply(lambda tensor: tensor.to(device))

    def subset(self, rows: Sequence[int]) -> "TokenTable":
        """The table of the questions `rows`, in that order."""
        rows_M = torch.tensor(rows, dtype=torch.long)
        length_M = self.length_N[rows_M]
        start_M1 = _starts(length_M.tolist())
        shift_S = torch.repeat_interleave(self.start_N1[rows_M] - start_M1[:-1], length_M)
        index_S = torch.arange(len(shift_S)) + shift_S
        types_S = None if self.types_S is None else self.types_S[index_S]
        features_MH = None if self.features_NH is None else self.features_NH[rows_M]
        longest = int(length_M.max()) if rows else 0
        return replace(
            self,
            ids_S=self.ids_S[index_S],
            start_N1=start_M1,
            longest=longest,
            types_S=types_S,
            features_NH=features_MH,
        )

    def rows(self, rows_B: Tensor, width: int | None = None) -> dict[str, Tensor]:
        """Model inputs [B, width] of the questions `rows_B`, int64, padded on the right; their features, if there are.

        The default width is that of the table's longest question, so that no size is read back from the device.
        """
        if self.features_NH is not None:
            return {"features": self.features_NH[rows_B]}
        start_B = self.start_N1[rows_B]
        position_T = torch.arange(self.longest if width is None else width, device=rows_B.device)
        mask_BT = position_T < (self.start_N1[rows_B + 1] - start_B)[:, None]
        index_BT = (start_B[:, None] + position_T) * mask_BT
        inputs = {
            "input_ids": self.ids_S.take(index_BT).long().masked_fill(~mask_BT, self.pad_token_id),
            "attention_mask": mask_BT.long(),
        }
        if self.types_S is not None:
            inputs["token_type_ids"] = self.types_S.take(index_BT).long() * mask_BT
        return inputs


def _flat(rows: Sequence[Sequence[int]], dtype: torch.dtype) -> Tensor:
    return torch.tensor(list(chain.from_iterable(rows)), dtype=dtype)


def _starts(lengths: Sequence[int]) -> Tensor:
    return torch.tensor(list(accumulate(lengths, initial=0)))


def load_tokenizer(name: str, questions: Questions, trust_remote_code: bool = False) -> PreTrainedTokenizerBase:
    """The tokenizer that `--tokenizer` names.

    Args:
        name: `wordpiece` (BERT's, from the packaged MiniLM), `whitespace` (its vocabulary is the words of
            `questions`), or a path or Hub id.
        questions: The training questions.
        trust_remote_code: Whether code that comes with the tokenizer may run.

    Raises:
        InputError: A path or id that holds no tokenizer, or a tokenizer without a padding token.
    """
    if name == "whitespace":
        return whitespace_tokenizer(questions.texts)
    source = str(minilm_dir()) if name == "wordpiece" else name
    with checked_loading(name, "--tokenizer", "no tokenizer there", source, trust_remote_code):
        tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=trust_remote_code)
    require(tokenizer.pad_token_id is not None, f"--tokenizer {name}: it has no padding token; use one that has")
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
    """Tokens to which a question is truncated: the tokenizer's own limit, or 512 where it was saved without one."""
    return tokenizer.model_max_length if tokenizer.model_max_length < 1_000_000 else 512


def max_positions(model: PreTrainedModel) -> int | None:
    """Maximum tokens for which `model` has positions; None where it needs none.

    RoBERTa and its relatives, and MPNet, number positions after that of padding, so that the first ones are not used.
    """
    for name, module in model.named_modules():
        if name.endswith("position_embeddings") and isinstance(module, nn.Embedding) and module.padding_idx is not None:
            return module.num_embeddings - module.padding_idx - 1
    return getattr(model.config, "max_position_embeddings", None)


def set_max_length(tokenizer: PreTrainedTokenizerBase, model: PreTrainedModel, max_length: int | None) -> None:
    """Has `tokenizer` truncate to `max_length` tokens, also once it is saved with the policy.

    None truncates to the tokenizer's own limit, or to the positions of `model` if they are fewer.

    Raises:
        InputError: `model` has fewer positions than `max_length`.
    """
    positions = max_positions(model)
    if max_length is not None:
        fits = positions is None or max_length <= positions
        require(fits, f"--max_length {max_length}: {type(model).__name__} reads at most {positions} tokens")
        tokenizer.model_max_length = max_length
    elif positions is not None:
        tokenizer.model_max_length = min(max_input_length(tokenizer), positions)


def tokenize(questions: Questions, tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenTable:
    """`token_table` of `questions`, with a warning if some were truncated."""
    table = token_table(questions.texts, tokenizer, max_length)
    if table.truncated:
        logger.warning(
            "%s: %d of %d questions are longer than max_length %d tokens and were cut",
            questions.source, table.truncated, len(questions), max_length,
        )  # fmt: skip
    return table


def token_table(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, max_length: int) -> TokenTable:
    """The token table of `texts`, truncated to `max_length` tokens.

    A question of two texts (see `data.pairs`) is passed to the tokenizer as two, so that it can tell them apart.
    """
    ids: list[Tensor] = []
    types: list[Tensor] = []
    lengths: list[int] = []
    truncated = 0
    for start in range(0, len(texts), CHUNK):
        chunk = texts[start : start + CHUNK]
        encoded = _encode(chunk, tokenizer, truncation=False)
        too_long = sum(len(row) > max_length for row in encoded["input_ids"])
        if too_long:
            encoded = _encode(chunk, tokenizer, truncation=True, max_length=max_length)
        truncated += too_long
        lengths += [len(row) for row in encoded["input_ids"]]
        ids.append(_flat(encoded["input_ids"], torch.int32))
        if "token_type_ids" in encoded:
            types.append(_flat(encoded["token_type_ids"], torch.int8))
    types_S = torch.cat(types) if any(part.any() for part in types) else None  # all 0 are the model's default
    pad_token_id: Any = tokenizer.pad_token_id
    return TokenTable(torch.cat(ids), _starts(lengths), max(lengths), pad_token_id, types_S, truncated)


def _encode(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, **options: Any) -> dict[str, list[list[int]]]:
    first, second = zip(*map(split_pair, texts), strict=True)
    pairs = None if all(text is None for text in second) else [text or "" for text in second]
    return dict(tokenizer(list(first), pairs, return_attention_mask=False, verbose=False, **options))
