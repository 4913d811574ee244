"""A question as one token id, and the tokens behind it: a batch encodes each of its questions once.

    ids: 0 pad | 1..K the labels (actions) | K+1 eos, never an action | K+2+i question i

Letters: B rows of a batch, U distinct questions in it, N questions in all, K labels.
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
        """An id that is never sampled; TRL compares answers with it and fails on None."""
        return self.num_labels + 1

    def question_ids(self, rows_B: Tensor) -> Tensor:
        """Token ids [B] of question rows."""
        return rows_B + self.num_labels + 2

    def rows(self, input_ids: Tensor) -> Tensor:
        """Question rows [B] of TRL's `input_ids`, [B, 1] or with an answer [B, 2]; column 0 is the question."""
        return input_ids[:, 0] - (self.num_labels + 2)

    def action_ids(self, action_B: Tensor) -> Tensor:
        """Token ids [B] of label indices."""
        return action_B + 1

    def actions(self, input_ids: Tensor) -> Tensor:
        """Label indices [B] of sequences [B, 2]; the last column is the answer."""
        return input_ids[:, -1] - 1


class EncodedBatch(NamedTuple):
    """Model inputs [U, T] of the questions of a batch; row i of the batch is question `inverse_B[i]` among them.

    `inverse_B` is None where row i is question i.
    """

    inputs: dict[str, Tensor]
    inverse_B: Tensor | None


class PromptEncoder:
    """Maps TRL's `input_ids` to the tokens of the questions that they name.

    A batch at least as large as the table is encoded as the complete table, which is built once. On a CPU, a smaller
    batch that must contain repeats is reduced to its distinct questions; an accelerator would have to wait for their
    number. Policy and value model share an encoder: within an update TRL passes both the same tensor, which is encoded
    once.

    Args:
        tokens: Tokens of the N questions.
        ids: Layout of the token ids.
    """

    def __init__(self, tokens: TokenTable, ids: PromptVocabulary):
        self.tokens, self.ids = tokens, ids
        self._last: tuple[Tensor, EncodedBatch] | None = None
        self._full_table: dict[str, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def apply(self, fn: Callable[[Tensor], Tensor]) -> None:
        """Applies `fn` to the table's tensors, as `nn.Module._apply` does to a module's."""
        self.tokens = self.tokens.apply(fn)
        self._last = self._full_table = None

    def encode(self, input_ids: Tensor) -> EncodedBatch:
        """Model inputs of the questions in TRL's `input_ids`."""
        if self._last is None or self._last[0] is not input_ids:
            self._last = (input_ids, self._encode(self.ids.rows(input_ids)))
        return self._last[1]

    def _encode(self, rows_B: Tensor) -> EncodedBatch:
        if len(rows_B) >= len(self):
            if self._full_table is None:
                self._full_table = self.tokens.rows(torch.arange(len(self), device=rows_B.device))
            return EncodedBatch(self._full_table, rows_B)
        if rows_B.device.type != "cpu":
            return EncodedBatch(self.tokens.rows(rows_B), None)
        inverse_B = None
        if 2 * len(rows_B) > len(self):
            rows_B, inverse_B = rows_B.unique(return_inverse=True)
        # only on a CPU: reading the longest question's length back would stall an accelerator
        longest = int((self.tokens.start_N1[rows_B + 1] - self.tokens.start_N1[rows_B]).max())
        return EncodedBatch(self.tokens.rows(rows_B, longest), inverse_B)
