"""The classifier as TRL's group trainers (RLOO, GRPO) see it: the ids of `adapters.py`, and what else they ask for.

They hand prompts as text to a tokenizer, so a question's text is its row number; they read `training` off the model to
know whether they train; and they want plain sequences from `generate`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from eightball_ppo.trl_adapters.policy import PolicyAdapter
from eightball_ppo.trl_adapters.prompt_ids import PromptEncoder, PromptVocabulary


class RowTokenizer(PreTrainedTokenizerBase):
    """Reads a question's row number as its one id; answers have no text."""

    pad_token = "<pad>"  # TRL reads these; they are numbers of `PromptVocabulary` and no words
    pad_token_id = property(lambda self: self.ids.pad_token_id)
    eos_token_id = property(lambda self: self.ids.eos_token_id)
    bos_token_id = None

    def __init__(self, ids: PromptVocabulary):
        super().__init__(padding_side="left")
        self.ids = ids

    def __call__(self, text: Sequence[str], **_: Any) -> dict[str, list[list[int]]]:
        rows_B = torch.tensor([int(row) for row in text])
        return {"input_ids": self.ids.question_ids(rows_B).unsqueeze(1).tolist()}

    def batch_decode(self, sequences: Any, **_: Any) -> list[str]:
        return [""] * len(sequences)


class GroupPolicyAdapter(PolicyAdapter):
    """`PolicyAdapter` with a temperature, whose own `training` flag can be set; the classifier stays in eval mode.

    `temperature` must be the trainer's, which divides the logits of policy and reference by it.
    """

    def __init__(self, classifier: PreTrainedModel, reader: PromptEncoder, adapters: bool = True):
        super().__init__(classifier, reader, adapters)
        self.temperature = 1.0
        self.warnings_issued: dict[str, bool] = {}  # transformers writes into it

    def train(self, mode: bool = True) -> "GroupPolicyAdapter":
        super().train(mode)
        self.training = mode
        return self

    def add_model_tags(self, tags: Any) -> None:
        """TRL's tags go on our own model card."""

    def generate(self, input_ids: Tensor, **_: Any) -> Tensor:  # type: ignore[override]
        """One sampled answer a question: [B, 2]."""
        logits_BK1 = self.forward(input_ids).logits[:, 0] / self.temperature
        return torch.cat([input_ids, torch.multinomial(logits_BK1.softmax(-1), num_samples=1)], dim=1)

    @torch.no_grad()
    def logp_B(self, rows_B: Tensor, actions_B: Tensor) -> Tensor:
        """Log-probabilities of answers at the present temperature."""
        device = next(self.parameters()).device
        logits_BK1 = self.forward(self.ids.question_ids(rows_B.to(device)).unsqueeze(1)).logits[:, 0]
        logp_BK1 = (logits_BK1 / self.temperature).log_softmax(-1)
        return logp_BK1.gather(1, self.ids.action_ids(actions_B.to(device)).unsqueeze(1)).squeeze(1)

    @property
    def ids(self) -> PromptVocabulary:
        return self.by_row.reader.ids
