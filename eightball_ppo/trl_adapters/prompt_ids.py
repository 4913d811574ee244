"""A question as one id, and the tokens behind it: each question is read, and put through a network, once a batch.

    ids: 0 pad | 1..K the labels (actions) | K+1 eos, never an action | K+2+i question i

Letters: B rows of a batch, U different questions in it, N questions in all, K labels.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eightball_ppo.models.tokenization import TokenTable


@dataclass(frozen=True)
class PromptVocabulary:
    """The id layout above; also stands in for a tokenizer, of which TRL reads `pad_token_id` and `eos_token_id`."""

    num_labels: int
    pad_token_id: int = 0

    @property
    def eos_token_id(self) -> int:
        """Never sampled; TRL compares answers with it and fails on None."""
        return self.num_labels + 1

    def question_ids(self, rows_B: Tensor) -> Tensor:
        return rows_B + self.num_labels + 2

    def rows(self, input_ids: Tensor) -> Tensor:
        """Question rows of TRL's `input_ids` ([B, 1] before the answer, [B, 2] after it); the question stands first."""
        return input_ids[:, 0] - (self.num_labels + 2)

    def action_ids(self, action_B: Tensor) -> Tensor:
        return action_B + 1

    def actions(self, input_ids: Tensor) -> Tensor:
        """Label indices of [B, 2] sequences; the answer stands last."""
        return input_ids[:, -1] - 1


class EncodedBatch(NamedTuple):
    """A batch as a classifier takes it: inputs [U, T] of its questions, and where among them each row's stands.

    `inverse_B` is None where row i is question i.
    """

    inputs: dict[str, Tensor]
    inverse_B: Tensor | None


class PromptEncoder:
    """Reads the questions that TRL's `input_ids` name out of a token table.

    A batch as large as the table is read as the whole table, which is made once; on CPU, a smaller one that must hold
    repeats as its different questions. An accelerator would have to wait for their number. Policy and value model share
    a reader: within an update TRL shows both the same tensor, and the second finds it read.
    """

    def __init__(self, tokens: TokenTable, ids: PromptVocabulary):
        self.tokens, self.ids = tokens, ids
        self._last: tuple[Tensor, EncodedBatch] | None = None
        self._whole: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Move the table, as `nn.Module` moves its own tensors."""
        self.tokens = self.tokens.apply(fn)
        self._last = self._whole = None

    def read(self, input_ids: Tensor) -> EncodedBatch:
        if self._last is None or self._last[0] is not input_ids:
            self._last = (input_ids, self._read(self.ids.rows(input_ids)))
        return self._last[1]

    def _read(self, rows_B: Tensor) -> EncodedBatch:
        if len(rows_B) >= len(self):
            if self._whole is None:
                self._whole = self.tokens.rows(torch.arange(len(self), device=rows_B.device))
            return EncodedBatch(self._whole, rows_B)
        if rows_B.device.type != "cpu":
            return EncodedBatch(self.tokens.rows(rows_B), None)
        inverse_B = None
        if 2 * len(rows_B) > len(self):
            rows_B, inverse_B = rows_B.unique(return_inverse=True)
        return EncodedBatch(self.tokens.rows(rows_B, self._width(rows_B)), inverse_B)

    def _width(self, rows_B: Tensor) -> int:
        """Tokens of the longest question of a batch, to which it is padded on a CPU; a card is not waited for."""
        return int((self.tokens.start_N1[rows_B + 1] - self.tokens.start_N1[rows_B]).max())
