"""A classifier as TRL's PPO sees it: a language model with one-token questions and one-token answers.

TRL's loop moves integer sequences. For a one-step decision the question need not be its words: it travels as ONE id
that names its row, and the answer is one more id, always the last column.

    0 pad | 1..K the labels (actions) | K+1 eos, never an action | K+2+i question i

So nothing is padded, and the logits have one column for each id from 0 to K. The classifier reads the question's own
tokens from a table; the grader read its text when the table of scores was made: any tokenizer, any grader.
Policy, reference and reward adapter are here, the value adapter in `trl_adapters/value.py`. All of them tell row and
action apart by position, and only the reward adapter reads the action; the value adapter must not.

Letters: B rows of a batch, U different questions among them, N questions in all, K labels, H hidden width. A name that
ends in `K1` has K+1 columns, for the ids 0 to K; in `answer_B1` the last axis is 1, the answer's id.
"""

from collections.abc import Callable
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedModel

from eightball_ppo.functional.ppo_losses import TRL_TEMPERATURE_SHIFT
from eightball_ppo.models.lora import adapters_off
from eightball_ppo.trl_adapters.prompt_ids import PromptEncoder, PromptVocabulary

MASKED_LOGIT = -1e4  # logit of the pad column: probability exactly 0 in float32, finite so that 0 * log 0 stays 0


class PolicyOutput(NamedTuple):
    """What TRL reads of a policy's forward pass: [B, 2, K+1]."""

    logits: Tensor


class TrunkOutput(NamedTuple):
    """What TRL reads of the trunk of a value or reward model: one layer, [B, 2, H]."""

    hidden_states: tuple[Tensor]


class GenerateOutput(NamedTuple):
    """What TRL reads of `generate`: questions with their answers [B, 2], and one tensor of logits [B, K+1]."""

    sequences: Tensor
    scores: tuple[Tensor]


class AlwaysEval:
    """Stays in eval mode: TRL puts everything in train mode and only switches off `nn.Dropout`, not every dropout."""

    def train(self, mode: bool = True):
        return super().train(False)  # type: ignore[misc]


class PromptClassifier(nn.Module):
    """A classifier that is given TRL's `input_ids` and reads the tokens of the questions they name, each one once."""

    def __init__(self, classifier: PreTrainedModel, reader: PromptEncoder):
        super().__init__()
        self.classifier = classifier
        self.reader = reader

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PromptClassifier":
        # The table moves along with `.to(device)`. It is no buffer: DDP would broadcast it at every forward pass.
        self.reader.apply(fn)
        return super()._apply(fn, recurse)

    def logits_BK(self, input_ids: Tensor) -> Tensor:
        """The classifier's logits, float32 at least."""
        inputs, inverse_B = self.reader.read(input_ids)
        logits_UK, *_ = self.classifier(**inputs, return_dict=False)
        return expand_to_rows(logits_UK, inverse_B)

    def summary_BH(self, input_ids: Tensor) -> Tensor:
        """The classifier's last hidden state at the first position, float32 at least."""
        inputs, inverse_B = self.reader.read(input_ids)
        _, hidden_states, *_ = self.classifier(**inputs, output_hidden_states=True, return_dict=False)
        return expand_to_rows(hidden_states[-1][:, 0], inverse_B)


def expand_to_rows(own: Tensor, inverse_B: Tensor | None) -> Tensor:
    """What was computed of each question, for every row that asks it.

    float32 of what is narrower: log-probabilities and values are never computed in half precision.
    """
    wide = own.float() if own.dtype in (torch.bfloat16, torch.float16) else own
    return wide if inverse_B is None else wide.index_select(0, inverse_B)


class PolicyAdapter(AlwaysEval, nn.Module):
    """The policy (or, with gradients off, the reference): logits of the classifier in columns 1..K.

    Temperature, dropout and padding play no part: what is trained is exactly the softmax of the saved logits.
    `adapters=False` reads past LoRA adapters: the reference of a policy under LoRA is the policy without them.
    """

    base_model_prefix = "by_row"
    is_gradient_checkpointing = False

    def __init__(self, classifier: PreTrainedModel, reader: PromptEncoder, adapters: bool = True):
        super().__init__()
        self.by_row = PromptClassifier(classifier, reader)
        self.adapters = adapters
        self.at_hand: Callable[[Tensor], Tensor | None] | None = None  # logits that the value model's pass has made
        self.config = classifier.config
        self.generation_config = GenerationConfig()
        self.eval()

    def forward(self, input_ids: Tensor, **_: Any) -> PolicyOutput:
        """Logits [B, 2, K+1]; TRL reads position 0, in front of the answer, and divides it in place."""
        logits_BK = None if self.at_hand is None else self.at_hand(input_ids)
        if logits_BK is None:
            with nullcontext() if self.adapters else adapters_off(self.by_row.classifier):
                logits_BK = self.by_row.logits_BK(input_ids)
        return PolicyOutput(nn.functional.pad(logits_BK.unsqueeze(1), (1, 0, 0, 1), value=MASKED_LOGIT))

    def generate(self, input_ids: Tensor, **_: Any) -> GenerateOutput:
        """Sample one answer a question.

        The logits are divided as TRL divides its own afterwards, so that the first ratio is 1 but for rounding.
        """
        logits_BK1 = self.forward(input_ids).logits[:, 0] / (1.0 + TRL_TEMPERATURE_SHIFT)
        answer_B1 = torch.multinomial(logits_BK1.softmax(-1), num_samples=1)
        return GenerateOutput(torch.cat([input_ids, answer_B1], dim=1), (logits_BK1,))


class ReferenceAdapter(PolicyAdapter):
    """The frozen reference: a policy whose logits are computed once per question and kept.

    `adapters=False`, so that a model under LoRA can be policy and reference at once.
    """

    def __init__(self, classifier: PreTrainedModel, reader: PromptEncoder):
        super().__init__(classifier, reader, adapters=False)
        self.known_N: Tensor | None = None
        self.logits_NK1: Tensor | None = None

    @torch.no_grad()
    def forward(self, input_ids: Tensor, **_: Any) -> PolicyOutput:
        """Logits [B, 2, K+1], a fresh tensor every time: TRL divides it in place."""
        reader = self.by_row.reader
        rows_B = reader.ids.rows(input_ids)
        if self.known_N is None or self.logits_NK1 is None:
            example = super().forward(input_ids[:1]).logits
            self.known_N = torch.zeros(len(reader), dtype=torch.bool, device=rows_B.device)
            self.logits_NK1 = example.new_empty(len(reader), example.shape[-1])
        new_B = rows_B[~self.known_N[rows_B]]
        if len(new_B):
            self.logits_NK1[new_B] = super().forward(reader.ids.question_ids(new_B).unsqueeze(1)).logits[:, 0]
            self.known_N[new_B] = True
        return PolicyOutput(nn.functional.pad(self.logits_NK1[rows_B].unsqueeze(1), (0, 0, 0, 1), value=MASKED_LOGIT))


def freeze_unused(classifier: nn.Module, output: Tensor) -> None:
    """Freeze the parameters that `output` does not depend on: under several processes a parameter without a gradient
    stops the training."""
    parameters = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


Scores = Callable[[Tensor, Tensor], Tensor]
"""(question rows [B], labels [B]) -> scores [B]: the grader, as far as a trainer is concerned."""


class ScoreLookup(nn.Module):
    """Scores of the sampled answers."""

    def __init__(self, scores: Scores, ids: PromptVocabulary):
        super().__init__()
        self.ids = ids
        self.scores = scores

    def forward(self, input_ids: Tensor, **_: Any) -> TrunkOutput:
        score_B = self.scores(self.ids.rows(input_ids), self.ids.actions(input_ids))
        return TrunkOutput((score_B[:, None, None].expand(-1, input_ids.shape[1], 1),))


class RewardAdapter(AlwaysEval, nn.Module):
    """The reward model: the grader's score of the sampled answer."""

    base_model_prefix = "lookup"

    def __init__(self, scores: Scores, ids: PromptVocabulary):
        super().__init__()
        self.lookup = ScoreLookup(scores, ids)
        self.score = nn.Identity()
        self.eval()
