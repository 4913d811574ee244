"""torchrl: `ClipPPOLoss` over a `ProbabilisticActor` and a `ValueOperator`, minibatches from a replay buffer."""

import torch
from tensordict import TensorDict
from tensordict.nn import InteractionType, TensorDictModule
from torch import Tensor, nn
from torch.distributions import Categorical
from torchrl.data import LazyTensorStorage, ReplayBuffer, SamplerWithoutReplacement
from torchrl.modules import ProbabilisticActor, ValueOperator
from torchrl.objectives import ClipPPOLoss

from .networks import Policy, Value, logits_NK
from .task import BenchTask, OnUpdate, Settings


class _Column(nn.Module):
    """Values [B, 1], the shape that torchrl expects."""

    def __init__(self, value: Value):
        super().__init__()
        self.value = value

    def forward(self, ids_BT: Tensor) -> Tensor:
        return self.value(ids_BT).unsqueeze(-1)


class TorchRL:
    """One collection step, because an episode has one; everything else is torchrl's objects."""

    def __init__(self, task: BenchTask, settings: Settings, on_update: OnUpdate | None = None):
        self.task, self.settings, self.on_update = task, settings, on_update
        self.policy, self.reference, value = Policy(task), Policy(task), _Column(Value(task))
        self.actor = ProbabilisticActor(
            TensorDictModule(self.policy, in_keys=["observation"], out_keys=["logits"]),
            in_keys=["logits"],
            distribution_class=Categorical,
            return_log_prob=True,
            default_interaction_type=InteractionType.RANDOM,
        )
        self.critic = ValueOperator(value, in_keys=["observation"])
        self.loss = ClipPPOLoss(
            self.actor,
            self.critic,
            clip_epsilon=settings.cliprange,
            entropy_bonus=False,
            critic_coeff=settings.vf_coef / 2,  # its squared error is not halved
            loss_critic_type="l2",
        )
        self.buffer = ReplayBuffer(
            storage=LazyTensorStorage(settings.batch),
            sampler=SamplerWithoutReplacement(),
            batch_size=settings.batch // settings.minibatches,
        )
        self.optimizer = torch.optim.AdamW(
            [
                {"params": self.policy.parameters(), "lr": settings.learning_rate},
                {"params": value.parameters(), "lr": settings.value_learning_rate},
            ],
            betas=(0.9, settings.adam_beta2),
            weight_decay=0.0,
        )
        updates = settings.updates
        self.scheduler = torch.optim.lr_scheduler.LambdaLR(self.optimizer, lambda done: 1 - done / updates)

    @torch.no_grad()
    def _collect(self, rows_B: Tensor) -> TensorDict:
        """A batch of episodes with advantages and returns."""
        settings = self.settings
        data = TensorDict({"observation": self.task.ids_NT[rows_B]}, [settings.batch])
        self.critic(self.actor(data))
        ref_logp_B = Categorical(logits=self.reference(data["observation"])).log_prob(data["action"])
        score_B = self.task.score_NK[rows_B, data["action"]]
        reward_B1 = (score_B - settings.beta * (data["action_log_prob"] - ref_logp_B)).unsqueeze(-1)
        advantage_B1 = reward_B1 - data["state_value"]
        data["advantage"] = (advantage_B1 - advantage_B1.mean()) / (advantage_B1.std() + 1e-8)
        data["value_target"] = reward_B1
        return data

    def run(self) -> None:
        torch.manual_seed(self.settings.seed)
        for done, rows_B in enumerate(self.task.batches(self.settings), start=1):
            data = self._collect(rows_B)
            for _ in range(self.settings.epochs):
                self.buffer.extend(data)
                for _ in range(self.settings.minibatches):
                    losses = self.loss(self.buffer.sample())
                    self.optimizer.zero_grad()
                    (losses["loss_objective"] + losses["loss_critic"]).backward()
                    self.optimizer.step()
            self.scheduler.step()
            if self.on_update is not None:
                self.on_update(done * self.settings.batch, lambda: logits_NK(self.policy, self.task))
