"""A plain PyTorch loop without optimisations, as an engineer who knows PPO writes it in an afternoon."""

import torch
from torch import nn
from torch.distributions import Categorical

from .networks import Policy, Value, logits_NK
from .task import BenchTask, OnUpdate, Settings


class Bare:
    """Policy, reference and value network run on every question of every batch."""

    def __init__(self, task: BenchTask, settings: Settings, on_update: OnUpdate | None = None):
        self.task, self.settings, self.on_update = task, settings, on_update
        self.policy, self.reference, self.value = Policy(task), Policy(task), Value(task)
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self.policy.parameters(), "lr": settings.learning_rate},
                {"params": self.value.parameters(), "lr": settings.value_learning_rate},
            ],
            betas=(0.9, settings.adam_beta2),
            weight_decay=0.0,
        )
        updates = settings.updates
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda done: 1 - done / updates)

    def run(self) -> None:
        torch.manual_seed(self.settings.seed)
        for done, rows_B in enumerate(self.task.batches(self.settings), start=1):
            self._update(self.task.ids_NT[rows_B], self.task.score_NK[rows_B])
            self.scheduler.step()
            if self.on_update is not None:
                self.on_update(done * self.settings.batch, lambda: logits_NK(self.policy, self.task))

    def _update(self, ids_BT: torch.Tensor, score_BK: torch.Tensor) -> None:
        settings = self.settings
        with torch.no_grad():
            answers = Categorical(logits=self.policy(ids_BT))
            action_B = answers.sample()
            logp_B = answers.log_prob(action_B)
            ref_logp_B = Categorical(logits=self.reference(ids_BT)).log_prob(action_B)
            reward_B = score_BK.gather(1, action_B[:, None]).squeeze(1) - settings.beta * (logp_B - ref_logp_B)
            advantage_B = reward_B - self.value(ids_BT)
            advantage_B = (advantage_B - advantage_B.mean()) / (advantage_B.std() + 1e-8)
        for _ in range(settings.epochs):
            for at in torch.randperm(settings.batch).chunk(settings.minibatches):
                new_logp_B = Categorical(logits=self.policy(ids_BT[at])).log_prob(action_B[at])
                ratio_B = torch.exp(new_logp_B - logp_B[at])
                clipped_B = ratio_B.clamp(1 - settings.cliprange, 1 + settings.cliprange)
                policy_loss = -torch.min(ratio_B * advantage_B[at], clipped_B * advantage_B[at]).mean()
                value_loss = 0.5 * nn.functional.mse_loss(self.value(ids_BT[at]), reward_B[at])
                self.optimizer.zero_grad()
                (policy_loss + settings.vf_coef * value_loss).backward()
                self.optimizer.step()
