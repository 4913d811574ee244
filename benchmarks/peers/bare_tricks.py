"""The bare loop with all of our optimisations: the speed of PyTorch on this task without a trainer.

The reference is computed once; policy and value trunk are one joint pass of batched products; a batch with repeated
questions computes each one once and gathers; attention is pooled and has its keys first; no distribution objects; the
weights are two flat tensors under `QuickAdamW`; objects that exist when training starts are frozen for the
garbage collector.
"""

import gc

import torch
from torch import Tensor, nn

from eightball_ppo.models.modeling_eightball import EightBallForSequenceClassification
from eightball_ppo.trl_adapters.speedups import QuickAdamW

from .task import LABELS, PAD, BenchTask, OnUpdate, Settings

POLICY, VALUE = 0, 1


class Joint:
    """Policy and value network of the same trunk, stacked along the dimension 2. The weights are two flat tensors."""

    def __init__(self, start: EightBallForSequenceClassification):
        sizes, weights = start.config, start.state_dict()
        self.heads = sizes.num_attention_heads
        self.head_width = sizes.embedding_size // self.heads
        self.names = [name for name in weights if not name.startswith("classifier")]
        self.shapes = [weights[name].shape for name in self.names]
        trunk = [weights[name].flatten() for name in self.names]
        self.trunk_size = sum(len(part) for part in trunk)
        self.hidden, self.labels = sizes.hidden_size, len(LABELS)
        policy_P = torch.cat([*trunk, weights["classifier.weight"].flatten(), weights["classifier.bias"]])
        value_P = torch.cat([*trunk, torch.zeros(self.hidden + 1)])
        self.policy_P, self.value_P = policy_P.requires_grad_(), value_P.requires_grad_()

    def trunk(self, mask_BT: Tensor, ids_BT: Tensor) -> Tensor:
        """Hidden states [2, B, H]."""
        both_2P = torch.stack([self.policy_P[: self.trunk_size], self.value_P[: self.trunk_size]])
        parts = both_2P.split([shape.numel() for shape in self.shapes], dim=1)
        weights = {name: part.view(2, *shape) for name, part, shape in zip(self.names, parts, self.shapes, strict=True)}
        embedding_2VE = weights["embedding.weight"]
        vocabulary, width = embedding_2VE.shape[1:]
        batch, tokens = ids_BT.shape
        both_2BT = torch.stack([ids_BT, ids_BT + vocabulary])
        x_2SE = nn.functional.embedding(both_2BT, embedding_2VE.reshape(-1, width)).view(2, -1, width)
        qkv_2SF = torch.baddbmm(weights["attention.qkv.bias"].unsqueeze(1), x_2SE, weights["attention.qkv.weight"].mT)
        qkv = qkv_2SF.view(2, batch, tokens, 3, self.heads * self.head_width).movedim(3, 0)
        by_head = qkv.unflatten(-1, (self.heads, self.head_width)).permute(0, 1, 4, 2, 3, 5)
        q_XTd, k_XTd, v_XTd = by_head.reshape(3, -1, tokens, self.head_width).unbind(0)  # X: network, head, question
        repeats = 2 * self.heads
        real_BT = mask_BT.float()
        never_XT1 = ((real_BT - 1) * -torch.finfo(torch.float32).min).repeat(repeats, 1).unsqueeze(-1)
        query_XT1 = (real_BT / real_BT.sum(-1, keepdim=True)).repeat(repeats, 1).unsqueeze(-1)
        score_XTT = torch.baddbmm(never_XT1, k_XTd, q_XTd.mT, alpha=self.head_width**-0.5)  # keys first
        context_Xd1 = v_XTd.mT @ (score_XTT.softmax(1) @ query_XT1)
        context_2BE = context_Xd1.view(2, self.heads, batch, self.head_width).transpose(1, 2).reshape(2, batch, width)
        out_2BE = torch.baddbmm(
            weights["attention.out.bias"].unsqueeze(1), context_2BE, weights["attention.out.weight"].mT
        )
        return torch.baddbmm(weights["hidden.bias"].unsqueeze(1), out_2BE, weights["hidden.weight"].mT).relu()

    def __call__(self, mask_BT: Tensor, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        """(logits [B, K], values [B])."""
        hidden_2BH = self.trunk(mask_BT, ids_BT)
        weight_K, bias_K = self.policy_P[self.trunk_size :].split([self.labels * self.hidden, self.labels])
        weight_1, bias_1 = self.value_P[self.trunk_size :].split([self.hidden, 1])
        logits_BK = torch.addmm(bias_K, hidden_2BH[POLICY], weight_K.view(self.labels, self.hidden).T)
        return logits_BK, hidden_2BH[VALUE] @ weight_1 + bias_1


class BareTricks:
    """See the module."""

    def __init__(self, task: BenchTask, settings: Settings, on_update: OnUpdate | None = None):
        self.task, self.settings, self.on_update = task, settings, on_update
        self.joint = Joint(task.classifier())
        self.mask_NT = task.ids_NT != PAD
        self.optimizer = QuickAdamW(
            [
                {"params": [self.joint.policy_P], "lr": settings.learning_rate},
                {"params": [self.joint.value_P], "lr": settings.value_learning_rate},
            ],
            betas=(0.9, settings.adam_beta2),
            weight_decay=0.0,
            fused=True,
        )
        with torch.no_grad():
            self.ref_logp_NK = self._networks(torch.arange(len(task)))[0].log_softmax(-1)

    def _networks(self, rows_B: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K] and values [B] of the questions `rows_B`."""
        if len(rows_B) >= len(self.task):
            inverse_B, mask_UT, ids_UT = rows_B, self.mask_NT, self.task.ids_NT
        else:
            inverse_B = None
            if 2 * len(rows_B) > len(self.task):
                rows_B, inverse_B = rows_B.unique(return_inverse=True)
            mask_UT, ids_UT = self.mask_NT[rows_B], self.task.ids_NT[rows_B]
        logits_UK, value_U = self.joint(mask_UT, ids_UT)
        if inverse_B is None:
            return logits_UK, value_U
        return logits_UK.index_select(0, inverse_B), value_U.index_select(0, inverse_B)

    def run(self) -> None:
        torch.manual_seed(self.settings.seed)
        gc.collect()
        gc.freeze()
        try:
            rates = [group["lr"] for group in self.optimizer.param_groups]
            for done, rows_B in enumerate(self.task.batches(self.settings)):
                for group, rate in zip(self.optimizer.param_groups, rates, strict=True):
                    group["lr"] = rate * (1 - done / self.settings.updates)
                self._update(rows_B)
                if self.on_update is not None:
                    self.on_update((done + 1) * self.settings.batch, self.logits_NK)
        finally:
            gc.unfreeze()

    @torch.no_grad()
    def logits_NK(self) -> Tensor:
        """Logits of all questions."""
        return self._networks(torch.arange(len(self.task)))[0]

    def _update(self, rows_B: Tensor) -> None:
        settings = self.settings
        with torch.no_grad():
            logits_BK, value_B = self._networks(rows_B)
            logp_BK = logits_BK.log_softmax(-1)
            action_B1 = torch.multinomial(logp_BK.exp(), 1)
            logp_B = logp_BK.gather(1, action_B1).squeeze(1)
            cell_B = (rows_B, action_B1.squeeze(1))
            reward_B = self.task.score_NK[cell_B] - settings.beta * (logp_B - self.ref_logp_NK[cell_B])
            advantage_B = reward_B - value_B
            advantage_B = (advantage_B - advantage_B.mean()) / (advantage_B.std() + 1e-8)
        for _ in range(settings.epochs):
            for at in torch.randperm(settings.batch).chunk(settings.minibatches):
                new_logits_BK, new_value_B = self._networks(rows_B[at])
                new_logp_B = new_logits_BK.gather(1, action_B1[at]).squeeze(1) - new_logits_BK.logsumexp(-1)
                ratio_B = torch.exp(new_logp_B - logp_B[at])
                own_B = advantage_B[at]
                clipped_B = ratio_B.clamp(1 - settings.cliprange, 1 + settings.cliprange)
                policy_loss = -torch.min(ratio_B * own_B, clipped_B * own_B).mean()
                value_loss = 0.5 * (new_value_B - reward_B[at]).square().mean()
                self.optimizer.zero_grad()
                (policy_loss + settings.vf_coef * value_loss).backward()
                self.optimizer.step()
