"""The classifier as TRL's group trainers (RLOO, GRPO) read it: the token ids of `prompt_ids.py` and a few more members.

These trainers pass prompts as text to a tokenizer, so a question's text is its row number; they read the model's
`training` flag; and they expect plain sequences from `generate`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.trl_adapters.policy import PolicyAdapter
from eightball_ppo.trl_adapters.prompt_ids import PromptEncoder, PromptVocabulary


class RowTokenizer(PreTrainedTokenizerBase):
    """Encodes a question's row number as its one id; answers decode to empty strings."""

    pad_token = "<pad>"  # TRL reads these; they are ids of `PromptVocabulary` and no words
    pad_token_id = property(lambda self: self.ids.pad_token_id)
    eos_token_id = property(lambda self: self.ids.eos_token_id)
    bos_token_id = None

    def __init__(self, ids: PromptVocabulary):
        super().__init__(padding_side="left")
        self.ids = ids

    def __call__(self, text: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
        """Ids [B, 1] of row numbers that are given as text."""
        rows_B = torch.tensor([int(row) for row in text])
        return {"input_ids": self.ids.question_ids(rows_B).unsqueeze(1).tolist()}

    def batch_decode(self, sequences: Any, **_: Any) -> list[str]:
        """One empty string per sequence."""
        return [""] * len(sequences)


class GroupPolicyAdapter(PolicyAdapter):
    """`PolicyAdapter` whose `temperature` and `training` flag can be set; the classifier stays in eval mode.

    `temperature` must be the trainer's, which divides the logits of policy and reference by it.
    """

    def __init__(self, classifier: PreTrainedModel, encoder: PromptEncoder, adapters: bool = True):
        super().__init__(classifier, encoder, adapters)
        self.warnings_issued: dict[str, bool] = {}  # transformers writes into it

    def train(self, mode: bool = True) -> "GroupPolicyAdapter":
        """Sets this module's own flag; the classifier stays in eval mode."""
        super().train(mode)
        self.training = mode
        return self

    def add_model_tags(self, tags: Any) -> None:
        """Ignores TRL's tags: our model card has its own."""

    def generate(self, input_ids: Tensor, **_: Any) -> Tensor:  # type: ignore[override]
        """Samples one answer per question; returns sequences [B, 2]."""
        logits_BK1 = self.forward(input_ids).logits[:, 0] / self.temperature
        return torch.cat([input_ids, torch.multinomial(logits_BK1.softmax(-1), num_samples=1)], dim=1)
