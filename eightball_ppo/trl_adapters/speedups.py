"""Faster versions of what TRL, torch and the classifier do, with the same numbers.

Letters: P = 2 networks, B questions, X = P B, T tokens, S = B T, E embedding width, F = 3 E, H hidden width.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any, cast

import torch
from torch import Tensor, nn

from eightball_ppo.models.modeling_eightball import EightBallForSequenceClassification as SmallClassifier
from eightball_ppo.trl_adapters.policy import PolicyAdapter, PromptClassifier, expand_to_rows


@contextlib.contextmanager
def vectorised_log_softmax(trainer: Any) -> Iterator[None]:
    """TRL's `selective_log_softmax` without its Python loop over rows, which costs half of an update of 1200 episodes.

    The same numbers bit for bit (`tests/test_trl_parity.py`). It takes the function's place in the modules of TRL that
    define the trainer's class, and TRL's own is back afterwards.
    """
    modules = [sys.modules[own.__module__] for own in type(trainer).__mro__]
    originals: list[tuple[Any, Any]] = [
        (module, module.selective_log_softmax) for module in modules if hasattr(module, "selective_log_softmax")
    ]

    def selective_log_softmax(logits: Tensor, index: Tensor) -> Tensor:
        return logits.gather(-1, index.unsqueeze(-1)).squeeze(-1) - torch.logsumexp(logits, dim=-1)

    for module, _ in originals:
        module.selective_log_softmax = selective_log_softmax
    try:
        yield
    finally:
        for module, original in originals:
            module.selective_log_softmax = original


class QuickAdamW(torch.optim.AdamW):
    """AdamW for networks so small that the bookkeeping around its kernel takes longer than the kernel:
    `torch.optim.AdamW(fused=True)`, bit for bit, without sorting and checking its tensors anew at every step.

    A parameter group holds parameters of one type and device. State and `state_dict()` are those of `AdamW`; without
    `amsgrad`, `maximize` and a learning rate in a tensor, which nobody here asks for.
    """

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], weight_decay: float):
        super().__init__(groups, betas=betas, weight_decay=weight_decay, fused=True)
        for group in self.param_groups:
            if len({(own.dtype, own.device) for own in group["params"]}) > 1:
                raise ValueError("a parameter group holds several types or devices")

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            parameters = [own for own in group["params"] if own.grad is not None]
            if not parameters:
                continue
            states = [self.state[own] or self._started(own) for own in parameters]
            steps = [own["step"] for own in states]
            torch._foreach_add_(steps, 1)
            torch._fused_adamw_(
                parameters,
                [own.grad for own in parameters],
                [own["exp_avg"] for own in states],
                [own["exp_avg_sq"] for own in states],
                [],
                steps,
                lr=group["lr"],
                beta1=group["betas"][0],
                beta2=group["betas"][1],
                weight_decay=group["weight_decay"],
                eps=group["eps"],
                amsgrad=False,
                maximize=False,
            )

    def _started(self, parameter: Tensor) -> dict[str, Tensor]:
        state = self.state[parameter]
        state["step"] = torch.zeros((), dtype=torch.float32, device=parameter.device)
        state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        return state


class SideBySide:
    """The small classifier twice, as policy and as trunk of the value model, in one pass: networks so small that
    calling them takes longer than what they compute.

    Both networks at once, while TRL updates: it asks the value model, and then the policy about the same tensor.

    The numbers are those of the networks one by one, to rounding. Neither is changed; what they share is the reader.
    """

    def __init__(self, policy: PromptClassifier, value: PromptClassifier):
        self._reader = value.reader
        self._pair = cast(SmallClassifier, policy.classifier), cast(SmallClassifier, value.classifier)
        self._kept: tuple[Tensor, Tensor] | None = None

    @staticmethod
    def fits(policy: PolicyAdapter, value: PromptClassifier) -> bool:
        """Whether both are the small classifier itself, and not under adapters or of somebody else's making."""
        pair = (policy.by_row.classifier, value.classifier)
        return all(type(own) is SmallClassifier for own in pair)

    def summary_BH(self, input_ids: Tensor) -> Tensor:
        """The value network's hidden state; keeps the policy's logits for `logits_BK`."""
        inputs, inverse_B = self._reader.read(input_ids)
        logits_BK, hidden_BH = both(*self._pair, inputs["input_ids"], inputs["attention_mask"])
        self._kept = (input_ids, expand_to_rows(logits_BK, inverse_B))
        return expand_to_rows(hidden_BH, inverse_B)

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
