"""A classifier as TRL's PPO sees it: a language model with one-token questions and one-token answers.

TRL's loop moves integer sequences. For a one-step decision the question need not be its words: it travels as ONE id
that names its row, and the answer is one more id, always the last column.

    0 pad | 1..K the labels (actions) | K+1 eos, never an action | K+2+i question i

So nothing is padded, the logits are K+1 wide, the classifier reads the question's own tokens from a table, and the
reward comes from the question's text: any tokenizer, any grader. Letters: B rows of a batch, K labels, H hidden width.
The three adapters tell row and action apart by position, and nothing but the reward reads the action.
"""

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput, CausalLMOutput
from transformers.utils import ModelOutput

from eightball_ppo.models.lora import adapters_off
from eightball_ppo.ppo_math import TRL_TEMPERATURE_SHIFT
from eightball_ppo.tokenization import TokenTable

SUMMARISED_AT_ONCE = 256  # questions
WIDTH_STEP = 16  # of batches of tokens: few widths, so that the same question nearly always meets the same padding
NEVER = -1e4  # logit of the pad column: probability exactly 0 in float32, finite so that 0 * log 0 stays 0


@dataclass(frozen=True)
class SequenceIds:
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


class _StaysInEval:
    """Stays in eval mode: TRL puts everything in train mode and only switches off `nn.Dropout`, not every dropout."""

    def train(self, mode: bool = True):
        return super().train(False)  # type: ignore[misc]


class RowClassifier(nn.Module):
    """A classifier that is given TRL's `input_ids` and reads the tokens of the questions they name."""

    def __init__(self, classifier: PreTrainedModel, tokens: TokenTable, ids: SequenceIds):
        super().__init__()
        self.classifier = classifier
        self.tokens = tokens
        self.ids = ids

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "RowClassifier":
        # The table moves along with `.to(device)`. It is no buffer: DDP would broadcast it at every forward pass.
        self.tokens = self.tokens.apply(fn)
        return super()._apply(fn, recurse)

    def forward(self, input_ids: Tensor, **kwargs: Any) -> ModelOutput:
        rows_B = self.ids.rows(input_ids)
        return self.classifier(**self.tokens.rows(rows_B, self._width(rows_B)), **kwargs)

    def _width(self, rows_B: Tensor) -> int | None:
        """Tokens that the batch is padded to: its own longest question, rounded up, but never more than the table's.

        None, the table's longest, on an accelerator: it would have to wait for the number.
        """
        if rows_B.device.type != "cpu":
            return None
        longest = int((self.tokens.start_N1[rows_B + 1] - self.tokens.start_N1[rows_B]).max())
        return min(self.tokens.longest, -(-longest // WIDTH_STEP) * WIDTH_STEP)


class PolicyAdapter(_StaysInEval, nn.Module):
    """The policy (or, with gradients off, the reference): logits of the classifier in columns 1..K.

    Temperature, dropout and padding play no part: what is trained is exactly the softmax of the saved logits.
    `adapters=False` reads past LoRA adapters: the reference of a policy under LoRA is the policy without them.
    """

    base_model_prefix = "by_row"
    is_gradient_checkpointing = False

    def __init__(self, classifier: PreTrainedModel, tokens: TokenTable, ids: SequenceIds, adapters: bool = True):
        super().__init__()
        self.by_row = RowClassifier(classifier, tokens, ids)
        self.adapters = adapters
        self.config = classifier.config
        self.generation_config = GenerationConfig()
        self.eval()

    def forward(self, input_ids: Tensor, **_: Any) -> CausalLMOutput:
        """Logits [B, 2, K+1]; TRL reads position 0, in front of the answer, and divides it in place."""
        with nullcontext() if self.adapters else adapters_off(self.by_row.classifier):
            logits_BK = self.by_row(input_ids).logits
        return CausalLMOutput(logits=nn.functional.pad(_wide(logits_BK).unsqueeze(1), (1, 0, 0, 1), value=NEVER))

    def generate(self, input_ids: Tensor, **_: Any) -> ModelOutput:
        """Sample one answer a question: `sequences` [B, 2], and `scores`, one tensor of logits [B, K+1].

        The logits are divided as TRL divides its own afterwards, so that the first ratio is 1 to the last bit.
        """
        logits_BK1 = self.forward(input_ids).logits[:, 0] / (1.0 + TRL_TEMPERATURE_SHIFT)
        answer_B1 = torch.multinomial(logits_BK1.softmax(-1), num_samples=1)
        return ModelOutput(sequences=torch.cat([input_ids, answer_B1], dim=1), scores=(logits_BK1,))


class ValueTrunk(_StaysInEval, nn.Module):
    """A classifier used for its summary of the question: its last hidden state at the first position.

    Parameters that the summary does not use (the classification head) are frozen, as `freeze_unused` says.
    """

    def __init__(self, classifier: PreTrainedModel, tokens: TokenTable, ids: SequenceIds):
        super().__init__()
        self.by_row = RowClassifier(classifier, tokens, ids)
        device = next(classifier.parameters()).device
        summary_1H = self.summary_BH(ids.question_ids(torch.zeros(1, 1, dtype=torch.long, device=device)))
        self.width = summary_1H.shape[-1]
        freeze_unused(classifier, summary_1H)
        self.eval()

    def summary_BH(self, input_ids: Tensor) -> Tensor:
        return _wide(self.by_row(input_ids, output_hidden_states=True).hidden_states[-1][:, 0])

    def forward(self, input_ids: Tensor, **_: Any) -> BaseModelOutput:
        """Hidden state [B, 2, H], the same at both positions."""
        return BaseModelOutput(hidden_states=(self.summary_BH(input_ids).unsqueeze(1).expand(-1, 2, -1),))


class SharedTrunk(nn.Module):
    """The trunk of a value model beside a policy under LoRA: the summaries of the policy's own model, adapters off.

    It has no weights of its own, and nothing in it learns; so every question is summarised once, at the first call.
    """

    def __init__(self, by_row: RowClassifier):
        super().__init__()
        self._policy = (by_row,)  # in a tuple: no submodule, or its weights would count as the value model's
        self._summary_NH: Tensor | None = None
        self.width = self._summaries(1).shape[-1]

    @torch.no_grad()
    def _summaries(self, count: int) -> Tensor:
        (by_row,) = self._policy
        device = next(by_row.classifier.parameters()).device
        ids_N1 = by_row.ids.question_ids(torch.arange(count, device=device)).unsqueeze(1)
        with adapters_off(by_row.classifier):
            outputs = (by_row(own, output_hidden_states=True) for own in ids_N1.split(SUMMARISED_AT_ONCE))
            return torch.cat([_wide(output.hidden_states[-1][:, 0]) for output in outputs])

    def forward(self, input_ids: Tensor, **_: Any) -> BaseModelOutput:
        """Hidden state [B, 2, H], the same at both positions."""
        (by_row,) = self._policy
        if self._summary_NH is None:
            self._summary_NH = self._summaries(len(by_row.tokens))
        summary_BH = self._summary_NH[by_row.ids.rows(input_ids)]
        return BaseModelOutput(hidden_states=(summary_BH.unsqueeze(1).expand(-1, 2, -1),))


class ValueAdapter(_StaysInEval, nn.Module):
    """The value model: a trunk and a linear `score`. Blind to the answer: else it eats the advantage."""

    base_model_prefix = "trunk"

    def __init__(self, trunk: ValueTrunk | SharedTrunk):
        super().__init__()
        self.trunk = trunk
        self.score = nn.Linear(trunk.width, 1)
        nn.init.zeros_(self.score.weight)
        nn.init.zeros_(self.score.bias)


def freeze_unused(classifier: nn.Module, output: Tensor) -> None:
    """Freeze the parameters that `output` does not depend on: under several processes a parameter without a gradient
    stops the training."""
    parameters = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def _wide(tensor: Tensor) -> Tensor:
    """float32 of what is narrower: log-probabilities and values are never computed in half precision."""
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


Scores = Callable[[Tensor, Tensor], Tensor]
"""(question rows [B], labels [B]) -> scores [B]: the grader, as far as a trainer is concerned."""


class _GradeLookup(nn.Module):
    """Scores of the sampled answers."""

    def __init__(self, scores: Scores, ids: SequenceIds):
        super().__init__()
        self.ids = ids
        self.scores = scores

    def forward(self, input_ids: Tensor, **_: Any) -> BaseModelOutput:
        score_B = self.scores(self.ids.rows(input_ids), self.ids.actions(input_ids))
        return BaseModelOutput(hidden_states=(score_B[:, None, None].expand(-1, input_ids.shape[1], 1),))


class RewardAdapter(_StaysInEval, nn.Module):
    """The reward model: the grader's score of the sampled answer."""

    base_model_prefix = "lookup"

    def __init__(self, scores: Scores, ids: SequenceIds):
        super().__init__()
        self.lookup = _GradeLookup(scores, ids)
        self.score = nn.Identity()
        self.eval()


@dataclass(frozen=True)
class TRLModels:
    """What `PPOTrainer` is built from."""

    ids: SequenceIds
    policy: PolicyAdapter
    reference: PolicyAdapter
    value: ValueAdapter
    reward: RewardAdapter
