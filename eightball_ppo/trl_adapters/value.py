"""The value model as TRL reads it: a trunk that summarises the question, a head, and nothing that reads the answer.

Letters: B rows of a batch, N questions, K labels, H hidden width.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from eightball_ppo.functional.objective import objective_N
from eightball_ppo.models.lora import adapters_off
from eightball_ppo.trl_adapters.policy import AlwaysEval, PolicyAdapter, PromptClassifier, TrunkOutput, freeze_unused
from eightball_ppo.trl_adapters.prompt_ids import PromptEncoder

SUMMARY_BATCH = 256  # questions


def at_both_positions(values_BH: Tensor) -> TrunkOutput:
    """Values [B, H] of questions as hidden states [B, 2, H]: the same in front of the answer and behind it."""
    return TrunkOutput((values_BH.unsqueeze(1).expand(-1, 2, -1),))


class ValueTrunk(AlwaysEval, nn.Module):
    """A classifier whose last hidden state at the first position summarises the question.

    Parameters that the summary does not use (the classification head) are frozen by `freeze_unused`.

    Args:
        classifier: The classifier, all of whose weights train.
        encoder: Maps `input_ids` to the questions' tokens.
    """

    def __init__(self, classifier: PreTrainedModel, encoder: PromptEncoder):
        super().__init__()
        self.backbone = PromptClassifier(classifier, encoder)
        device = next(classifier.parameters()).device
        row_11 = torch.zeros(1, 1, dtype=torch.long, device=device)
        summary_1H = self.backbone.summary_BH(encoder.ids.question_ids(row_11))
        self.width = summary_1H.shape[-1]
        freeze_unused(classifier, summary_1H)
        self.fused_forward: Callable[[Tensor], Tensor] | None = None  # the summary by a pass that the policy shares
        self.eval()

    def forward(self, input_ids: Tensor, **_: Any) -> TrunkOutput:
        """Hidden state [B, 2, H], the same at both positions."""
        if self.fused_forward is not None and torch.is_grad_enabled():
            return at_both_positions(self.fused_forward(input_ids))
        return at_both_positions(self.backbone.summary_BH(input_ids))


class SharedTrunk(nn.Module):
    """The trunk of a value model that trains a head alone: the summaries by the reference.

    Under LoRA the reference is the policy's model without its adapters. The trunk has no weights and nothing in it
    learns, so all questions are summarised once, at the first call.
    """

    def __init__(self, backbone: PromptClassifier):
        super().__init__()
        self._backbone = (backbone,)  # in a tuple: no submodule, or its weights would count as the value model's
        self._summary_NH: Tensor | None = None
        self.width = self._summaries(1).shape[-1]

    @torch.no_grad()
    def _summaries(self, count: int) -> Tensor:
        (backbone,) = self._backbone
        device = next(backbone.classifier.parameters()).device
        ids_N1 = backbone.encoder.ids.question_ids(torch.arange(count, device=device)).unsqueeze(1)
        with adapters_off(backbone.classifier):
            return torch.cat([backbone.summary_BH(ids_B1) for ids_B1 in ids_N1.split(SUMMARY_BATCH)])

    def forward(self, input_ids: Tensor, **_: Any) -> TrunkOutput:
        """Hidden state [B, 2, H], the same at both positions."""
        encoder = self._backbone[0].encoder
        if self._summary_NH is None:
            self._summary_NH = self._summaries(len(encoder))
        return at_both_positions(self._summary_NH[encoder.ids.rows(input_ids)])


class ExactValueBaseline(nn.Module):
    """What a value model would have to learn, as a sum over all labels: no weights, no error.

        V(q) = sum_a pi(a|q) (score(q, a) - beta log(pi(a|q) / ref(a|q)))

    It is the value of the policy that sampled the answers: computed when TRL asks without gradients, and returned
    unchanged while TRL updates.

    Args:
        policy, reference: The two policies of the formula.
        score_NK: Scores of all labels of all questions, [N, K].
        beta: KL coefficient, in units of the score per nat.
    """

    width = 1

    def __init__(self, policy: PolicyAdapter, reference: PolicyAdapter, score_NK: Tensor, beta: float):
        super().__init__()
        self._policies = (policy, reference)  # in a tuple: no submodules
        self._score_NK, self._value_N = score_NK, torch.zeros(len(score_NK), dtype=score_NK.dtype)
        self._beta = beta

    def _apply(self, fn: Any, recurse: bool = True) -> "ExactValueBaseline":
        self._score_NK, self._value_N = fn(self._score_NK), fn(self._value_N)  # no buffers, as in `PromptClassifier`
        return super()._apply(fn, recurse)

    def forward(self, input_ids: Tensor, **_: Any) -> TrunkOutput:
        """Values [B, 2, 1], the same at both positions."""
        rows_B = self._policies[0].ids.rows(input_ids)
        if not torch.is_grad_enabled():
            logp_BK, ref_logp_BK = (policy(input_ids).logits[:, 0, 1:].log_softmax(-1) for policy in self._policies)
            self._value_N[rows_B] = objective_N(logp_BK, ref_logp_BK, self._score_NK[rows_B], self._beta)
        return at_both_positions(self._value_N[rows_B][:, None])


class ValueAdapter(AlwaysEval, nn.Module):
    """The value model: a trunk and a linear `score`. It does not read the answer, or it would absorb the advantage."""

    base_model_prefix = "trunk"
    score: Any  # the identity for the exact baseline, whose trunk returns values

    def __init__(self, trunk: ValueTrunk | SharedTrunk | ExactValueBaseline):
        super().__init__()
        self.trunk = trunk
        self.score = nn.Identity()
        if not isinstance(trunk, ExactValueBaseline):
            self.score = nn.Linear(trunk.width, 1)
            nn.init.zeros_(self.score.weight)
            nn.init.zeros_(self.score.bias)
