"""Faster versions of what TRL and the small classifier compute, with the same numbers.

Letters: P = 2 networks, B questions, X = P B, T tokens, S = B T, E embedding width, F = 3 E, H hidden width.
"""

import contextlib
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from eightball_ppo.models.modeling_eightball import EightBallForSequenceClassification as SmallClassifier
from eightball_ppo.trl_adapters.policy import PromptClassifier, expand_to_rows


@contextlib.contextmanager
def vectorised_log_softmax(trainer: Any) -> Iterator[None]:
    """Context in which TRL's `selective_log_softmax` has no Python loop over rows: half of an update of 1200 episodes.

    The numbers are the same bit for bit (`tests/test_trl_parity.py`). It replaces the function in the modules of TRL
    that define the trainer's class, and restores it.
    """
    modules: list[Any] = [sys.modules[base.__module__] for base in type(trainer).__mro__]
    originals = [(part, part.selective_log_softmax) for part in modules if hasattr(part, "selective_log_softmax")]

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
    """`torch.optim.AdamW(fused=True)`, bit for bit, without sorting and checking its tensors at every step.

    For networks so small that this takes longer than the kernel: without it an update takes 11 % more processor time at
    64 episodes, 4 % at 512 and nothing at 1200 (`benchmarks/speedups.py`). A parameter group must hold parameters of
    one type and device; a learning rate in a tensor is not supported.
    """

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Performs one optimizer step; `closure` is ignored."""
        for group in self.param_groups:
            parameters = [parameter for parameter in group["params"] if parameter.grad is not None]
            if any(parameter not in self.state for parameter in parameters):
                self._init_group(group, [], [], [], [], [], [])  # torch's own initial state
            states = [self.state[parameter] for parameter in parameters]
            grads, steps = [parameter.grad for parameter in parameters], [state["step"] for state in states]
            means, squares = [state["exp_avg"] for state in states], [state["exp_avg_sq"] for state in states]
            beta1, beta2 = group["betas"]
            options = {name: group[name] for name in ("lr", "weight_decay", "eps", "amsgrad", "maximize")}
            if parameters:
                torch._foreach_add_(steps, 1)
                torch._fused_adamw_(parameters, grads, means, squares, [], steps, beta1=beta1, beta2=beta2, **options)


class FusedForward:
    """One forward pass of two small classifiers, the policy and the trunk of the value model, while TRL updates.

    The networks are so small that calling them takes longer than what they compute: with two passes an update takes
    9 % more processor time at 64 episodes, 10 % at 512 and 4 % at 1200 (`benchmarks/speedups.py`). TRL calls the value
    model, and then the policy with the same tensor. The numbers are those of two passes, to rounding.

    Args:
        policy: The policy.
        value: The trunk of the value model, with the same encoder.
    """

    def __init__(self, policy: PromptClassifier, value: PromptClassifier):
        self._encoder = value.encoder
        self._models: tuple[Any, Any] = (policy.classifier, value.classifier)
        self._cache: tuple[Tensor, Tensor] | None = None

    def summary_BH(self, input_ids: Tensor) -> Tensor:
        """The value network's hidden state [B, H]; caches the policy's logits for `logits_BK`."""
        inputs, inverse_B = self._encoder.encode(input_ids)
        logits_BK, hidden_BH = fused_forward(*self._models, inputs["input_ids"], inputs["attention_mask"])
        self._cache = (input_ids, expand_to_rows(logits_BK, inverse_B))
        return expand_to_rows(hidden_BH, inverse_B)

    def logits_BK(self, input_ids: Tensor) -> Tensor | None:
        """The policy's logits [B, K] of the tensor of the last `summary_BH`, once; else None."""
        cache, self._cache = self._cache, None
        return cache[1] if cache is not None and cache[0] is input_ids else None


def fused_forward(
    policy: SmallClassifier, value: SmallClassifier, ids_BT: Tensor, mask_BT: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits [B, K] of the policy, and hidden states [B, H] of the value network, of token ids [B, T]."""
    models, (batch, tokens) = (policy, value), ids_BT.shape
    x_PSE = torch.stack([model.embedding(ids_BT).flatten(0, 1) for model in models])
    qkv_PSF = _linear(x_PSE, [model.attention.qkv for model in models])
    qkv_XTF, mask_XT = qkv_PSF.view(2 * batch, tokens, -1), mask_BT.bool().repeat(2, 1)
    pooled_PBE = policy.attention.pooled(qkv_XTF, mask_XT).view(2, batch, -1)
    out_PBE = _linear(pooled_PBE, [model.attention.out for model in models])
    hidden_PBH = _linear(out_PBE, [model.hidden for model in models]).relu()
    return policy.classifier(hidden_PBH[0]), hidden_PBH[1]


def _linear(x_PSE: Tensor, layers: list[nn.Linear]) -> Tensor:
    weight_PFE = torch.stack([layer.weight for layer in layers])
    bias_PF = torch.stack([layer.bias for layer in layers])
    return torch.baddbmm(bias_PF.unsqueeze(1), x_PSE, weight_PFE.mT)
