"""The small classifier twice, as policy and as trunk of the value model, in one pass: networks so small that calling
them takes longer than what they compute.

Letters: P = 2 networks, B questions, X = P B, T tokens, S = B T, E embedding width, F = 3 E, H hidden width.
"""

from typing import cast

import torch
from torch import Tensor, nn

from eightball_ppo.adapters import PolicyAdapter, RowClassifier, placed
from eightball_ppo.models.modeling_eightball import EightBallForSequenceClassification as SmallClassifier


class SideBySide:
    """Both networks at once, while TRL updates: it asks the value model, and then the policy about the same tensor.

    The numbers are those of the networks one by one, to rounding. Neither is changed; what they share is the reader.
    """

    def __init__(self, policy: RowClassifier, value: RowClassifier):
        self._reader = value.reader
        self._pair = cast(SmallClassifier, policy.classifier), cast(SmallClassifier, value.classifier)
        self._kept: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def fits(policy: PolicyAdapter, value: RowClassifier) -> bool:
        """Whether both are the small classifier itself, and not under adapters or of somebody else's making."""
        pair = (policy.by_row.classifier, value.classifier)
        return all(type(own) is SmallClassifier for own in pair)

    def summary_BH(self, input_ids: Tensor) -> Tensor:
        """The value network's hidden state; keeps the policy's logits for `logits_BK`."""
        inputs, place_B = self._reader.read(input_ids)
        logits_BK, hidden_BH = both(*self._pair, inputs["input_ids"], inputs["attention_mask"])
        self._kept = (input_ids, placed(logits_BK, place_B))
        return placed(hidden_BH, place_B)

    def logits_BK(self, input_ids: Tensor) -> Tensor | None:
        """The policy's logits of a batch whose summary was asked just before, once; else None."""
        kept, self._kept = self._kept, None
        return kept[1] if kept is not None and kept[0] is input_ids else None


def both(policy: SmallClassifier, value: SmallClassifier, ids_BT: Tensor, mask_BT: Tensor) -> tuple[Tensor, Tensor]:
    """(logits [B, K] of the policy, hidden states [B, H] of the value network)"""
    pair = (policy, value)
    batch, tokens = ids_BT.shape
    x_PSE = torch.stack([own.embedding(ids_BT).flatten(0, 1) for own in pair])
    qkv_PSF = _linear(x_PSE, [own.attention.qkv for own in pair])
    qkv_XTF, mask_XT = qkv_PSF.view(2 * batch, tokens, -1), mask_BT.bool().repeat(2, 1)
    pooled_PBE = policy.attention.pooled(qkv_XTF, mask_XT).view(2, batch, -1)
    out_PBE = _linear(pooled_PBE, [own.attention.out for own in pair])
    hidden_PBH = _linear(out_PBE, [own.hidden for own in pair]).relu()
    return policy.classifier(hidden_PBH[0]), hidden_PBH[1]


def _linear(x_PSE: Tensor, layers: list[nn.Linear]) -> Tensor:
    """Each layer on its own part of `x_PSE`."""
    weight_PFE, bias_PF = torch.stack([own.weight for own in layers]), torch.stack([own.bias for own in layers])
    return torch.baddbmm(bias_PF.unsqueeze(1), x_PSE, weight_PFE.mT)
