"""A classifier as TRL's PPO reads it: a language model with one-token prompts and one-token answers.

TRL's loop moves integer sequences. For a one-step decision the prompt need not be its words: it is ONE id that names
the question's row, and the answer is one more id, always the last column.

    0 pad | 1..K the labels (actions) | K+1 eos, never an action | K+2+i question i

So nothing is padded, and the logits have one column for each id from 0 to K. The classifier reads the question's own
tokens from a table; the grader read its text when the table of scores was made: any tokenizer, any grader.
Policy, reference and reward adapter are here, the value adapter in `trl_adapters/value.py`. All of them tell row and
action apart by position, and only the reward adapter reads the action; the value adapter must not.

Letters: B rows of a batch, U distinct questions among them, N questions in all, K labels, H hidden width. A name that
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
    """What TRL reads of a policy's forward pass: logits [B, 2, K+1]."""

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
        """Puts the module in eval mode, whatever `mode` is."""
        return super().train(False)  # type: ignore[misc]


class PromptClassifier(nn.Module):
    """A classifier that takes TRL's `input_ids` and computes each question that they name once.

    Args:
        classifier: Any classifier of token ids.
        encoder: Maps `input_ids` to the questions' tokens; shared by policy, reference and value model.
    """

    def __init__(self, classifier: PreTrainedModel, encoder: PromptEncoder):
        super().__init__()
        self.classifier, self.encoder = classifier, encoder

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "PromptClassifier":
        # The table moves along with `.to(device)`. It is no buffer: DDP would broadcast it at every forward pass.
        self.encoder.apply(fn)
        return super()._apply(fn, recurse)

    def logits_BK(self, input_ids: Tensor) -> Tensor:
        """The classifier's logits [B, K], at least float32."""
        inputs, inverse_B = self.encoder.encode(input_ids)
        logits_UK, *_ = self.classifier(**inputs, return_dict=False)
        return expand_to_rows(logits_UK, inverse_B)

    def summary_BH(self, input_ids: Tensor) -> Tensor:
        """The classifier's last hidden state at the first position [B, H], at least float32."""
        inputs, inverse_B = self.encoder.encode(input_ids)
        _, hidden_states, *_ = self.classifier(**inputs, output_hidden_states=True, return_dict=False)
        return expand_to_rows(hidden_states[-1][:, 0], inverse_B)


def expand_to_rows(values_U: Tensor, inverse_B: Tensor | None) -> Tensor:
    """Expands values of the distinct questions, shape [U, ...], to the rows of the batch, shape [B, ...].

    Half precision becomes float32, in which log-probabilities and values are computed.
    """
    wide_U = values_U.float() if values_U.dtype in (torch.bfloat16, torch.float16) else values_U
    return wide_U if inverse_B is None else wide_U.index_select(0, inverse_B)


class PolicyAdapter(AlwaysEval, nn.Module):
    """The policy (or, without gradients, the reference): the classifier's logits in columns 1..K.

    Temperature, dropout and padding play no part in PPO: what is trained is exactly the softmax of the saved logits.

    Args:
        classifier: The classifier that is trained.
        encoder: Maps `input_ids` to the questions' tokens.
        adapters: False switches LoRA adapters off: the reference of a policy under LoRA is the policy without them.
    """

    base_model_prefix = "backbone"
    is_gradient_checkpointing = False
    temperature = 1.0

    def __init__(self, classifier: PreTrainedModel, encoder: PromptEncoder, adapters: bool = True):
        super().__init__()
        self.backbone = PromptClassifier(classifier, encoder)
        self.adapters = adapters
        self.cached_logits: Callable[[Tensor], Tensor | None] | None = None  # from the value model's forward pass
        self.config = classifier.config
        self.generation_config = GenerationConfig()
        self.eval()

    @property
    def ids(self) -> PromptVocabulary:
        """Layout of the token ids."""
        return self.backbone.encoder.ids

    def forward(self, input_ids: Tensor, **_: Any) -> PolicyOutput:
        """Logits [B, 2, K+1]; TRL reads position 0, in front of the answer, and divides it in place."""
        logits_BK = None if self.cached_logits is None else self.cached_logits(input_ids)
        if logits_BK is None:
            with nullcontext() if self.adapters else adapters_off(self.backbone.classifier):
                logits_BK = self.backbone.logits_BK(input_ids)
        return PolicyOutput(nn.functional.pad(logits_BK.unsqueeze(1), (1, 0, 0, 1), value=MASKED_LOGIT))

    def generate(self, input_ids: Tensor, **_: Any) -> GenerateOutput:
        """Samples one answer per question.

        The logits are divided as TRL divides its own afterwards, so that the first ratio is 1 but for rounding.
        """
        logits_BK1 = self.forward(input_ids).logits[:, 0] / (1.0 + TRL_TEMPERATURE_SHIFT)
        answer_B1 = torch.multinomial(logits_BK1.softmax(-1), num_samples=1)
        return GenerateOutput(torch.cat([input_ids, answer_B1], dim=1), (logits_BK1,))

    @torch.no_grad()
    def logp_B(self, rows_B: Tensor, actions_B: Tensor) -> Tensor:
        """Log-probabilities [B] of answers at the present temperature, in nats."""
        device = next(self.parameters()).device
        logits_BK1 = self.forward(self.ids.question_ids(rows_B.to(device)).unsqueeze(1)).logits[:, 0]
        logp_BK1 = (logits_BK1 / self.temperature).log_softmax(-1)
        return logp_BK1.gather(1, self.ids.action_ids(actions_B.to(device)).unsqueeze(1)).squeeze(1)


class ReferenceAdapter(PolicyAdapter):
    """The frozen reference: a policy without adapters whose logits are computed once per question and cached."""

    def __init__(self, classifier: PreTrainedModel, encoder: PromptEncoder):
        super().__init__(classifier, encoder, adapters=False)
        self.cached_N: Tensor | None = None
        self.logits_NK1: Tensor | None = None

    @torch.no_grad()
    def forward(self, input_ids: Tensor, **_: Any) -> PolicyOutput:
        """Logits [B, 2, K+1], a new tensor at every call: TRL divides it in place."""
        rows_B = self.ids.rows(input_ids)
        if self.cached_N is None or self.logits_NK1 is None:
            example, size = super().forward(input_ids[:1]).logits, len(self.backbone.encoder)
            self.cached_N = torch.zeros(size, dtype=torch.bool, device=rows_B.device)
            self.logits_NK1 = example.new_empty(size, example.shape[-1])
        new_B = rows_B[~self.cached_N[rows_B]]
        if len(new_B):
            self.logits_NK1[new_B] = super().forward(self.ids.question_ids(new_B).unsqueeze(1)).logits[:, 0]
            self.cached_N[new_B] = True
        return PolicyOutput(nn.functional.pad(self.logits_NK1[rows_B].unsqueeze(1), (0, 0, 0, 1), value=MASKED_LOGIT))


def freeze_unused(classifier: nn.Module, output: Tensor) -> None:
    """Freezes the parameters that `output` does not depend on: under DDP, one without a gradient stops training."""
    parameters = [parameter for parameter in classifier.parameters() if parameter.requires_grad]
    gradients = torch.autograd.grad(output.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


Scores = Callable[[Tensor, Tensor], Tensor]
"""(question rows [B], labels [B]) -> scores [B]: the grader, as far as a trainer is concerned."""


class ScoreLookup(nn.Module):
    """Trunk of the reward model: the scores of the sampled answers as hidden states of width 1."""

    def __init__(self, scores: Scores, ids: PromptVocabulary):
        super().__init__()
        self.scores, self.ids = scores, ids

    def forward(self, input_ids: Tensor, **_: Any) -> TrunkOutput:
        """Scores [B, 2, 1] of sequences [B, 2], the same at both positions."""
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
