"""The value model as TRL sees it: a trunk that summarises the question, a head, and nothing that reads the answer.

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


class ValueTrunk(AlwaysEval, nn.Module):
    """A classifier used for its summary of the question: its last hidden state at the first position.

    Parameters that the summary does not use (the classification head) are frozen, as `freeze_unused` says.
    """

    def __init__(self, classifier: PreTrainedModel, reader: PromptEncoder):
        super().__init__()
        self.by_row = PromptClassifier(classifier, reader)
        device = next(classifier.parameters()).device
        summary_1H = self.by_row.summary_BH(reader.ids.question_ids(torch.zeros(1, 1, dtype=torch.long, device=device)))
        self.width = summary_1H.shape[-1]
        freeze_unused(classifier, summary_1H)
        self.beside: Callable[[Tensor], Tensor] | None = None  # the same summary from a pass that the policy shares
        self.eval()

    def forward(self, input_ids: Tensor, **_: Any) -> TrunkOutput:
        """Hidden state [B, 2, H], the same at both positions."""
        summarise = self.by_row.summary_BH if self.beside is None or not torch.is_grad_enabled() else self.beside
        summary_BH = summarise(input_ids)
        return TrunkOutput((summary_BH.unsqueeze(1).expand(-1, 2, -1),))


class SharedTrunk(nn.Module):
    """The trunk of a value model beside a policy under LoRA: the summaries of the policy's own model, adapters off.

    It has no weights of its own, and nothing in it learns; so every question is summarised once, at the first call.
    """

    def __init__(self, by_row: PromptClassifier):
        super().__init__()
        self._policy = (by_row,)  # in a tuple: no submodule, or its weights would count as the value model's
        self._summary_NH: Tensor | None = None
        self.width = self._summaries(1).shape[-1]

    @torch.no_grad()
    def _summaries(self, count: int) -> Tensor:
        (by_row,) = self._policy
        device = next(by_row.classifier.parameters()).device
        ids_N1 = by_row.reader.ids.question_ids(torch.arange(count, device=device)).unsqueeze(1)
        with adapters_off(by_row.classifier):
            return torch.cat([by_row.summary_BH(own) for own in ids_N1.split(SUMMARY_BATCH)])

    def forward(self, input_ids: Tensor, **_: Any) -> TrunkOutput:
        """Hidden state [B, 2, H], the same at both positions."""
        (by_row,) = self._policy
        if self._summary_NH is None:
            self._summary_NH = self._summaries(len(by_row.reader))
        summary_BH = self._summary_NH[by_row.reader.ids.rows(input_ids)]
        return TrunkOutput((summary_BH.unsqueeze(1).expand(-1, 2, -1),))


class ExactValueBaseline(nn.Module):
    """What a value model would have to learn, as a sum over all labels: no weights, no error; for whole grade tables.

        V(q) = sum_a pi(a|q) (score(q, a) - beta log(pi(a|q) / ref(a|q)))

    It is the value of the policy that has just drawn the answers: taken when TRL asks with gradients off, and given
    again, unchanged, while TRL updates. `score_NK` are the scores of all labels of all questions.
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
        policy, reference = self._policies
        rows_B = policy.by_row.reader.ids.rows(input_ids)
        if not torch.is_grad_enabled():
            logp_BK, ref_logp_BK = (own(input_ids).logits[:, 0, 1:].log_softmax(-1) for own in (policy, reference))
            self._value_N[rows_B] = objective_N(logp_BK, ref_logp_BK, self._score_NK[rows_B], self._beta)
        return TrunkOutput((self._value_N[rows_B][:, None, None].expand(-1, 2, -1),))


class ValueAdapter(AlwaysEval, nn.Module):
    """The value model: a trunk and a linear `score`. Blind to the answer: else it eats the advantage."""

    base_model_prefix = "trunk"
    score: Any  # of the exact baseline's trunk, which gives values itself: nothing to do

    def __init__(self, trunk: ValueTrunk | SharedTrunk | ExactValueBaseline):
        super().__init__()
        self.trunk = trunk
        self.score = nn.Identity()
        if not isinstance(trunk, ExactValueBaseline):
            self.score = nn.Linear(trunk.width, 1)
            nn.init.zeros_(self.score.weight)
            nn.init.zeros_(self.score.bias)
