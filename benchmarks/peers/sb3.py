"""stable-baselines3's PPO on the same networks: one step of as many environments as the batch has episodes."""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor, nn

from .networks import Policy, Trunk, Value, logits_NK
from .task import FIRST_WORD, LABELS, LONGEST, WORDS, BenchTask, OnUpdate, Settings


class _Questions(VecEnv):
    """Every environment shows one question and ends after the answer."""

    def __init__(self, task: BenchTask, settings: Settings):
        vocabulary = FIRST_WORD + WORDS
        super().__init__(
            settings.batch,
            spaces.Box(0, vocabulary - 1, (LONGEST,), dtype=np.int64),
            spaces.Discrete(len(LABELS)),
        )
        self.rows = task.batches(settings)
        self.ids_NT, self.score_NK = task.ids_NT.numpy(), task.score_NK.numpy()
        self.done_B, self.infos = np.ones(settings.batch, dtype=bool), [{} for _ in range(settings.batch)]
        self.row_B = np.zeros(settings.batch, dtype=np.int64)

    def reset(self) -> np.ndarray:
        self.row_B = next(self.rows).numpy()
        return self.ids_NT[self.row_B]

    def step_async(self, actions: np.ndarray) -> None:
        self.actions = actions

    def step_wait(self) -> Any:
        reward_B = self.score_NK[self.row_B, self.actions]
        following = next(self.rows, None)
        if following is not None:  # the last step is followed by none
            self.row_B = following.numpy()
        return self.ids_NT[self.row_B], reward_B, self.done_B, self.infos

    def close(self) -> None:
        pass

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        return [None] * self.num_envs

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        raise NotImplementedError

    def env_method(self, method_name: str, *args: Any, indices: Any = None, **kwargs: Any) -> list[Any]:
        raise NotImplementedError

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        return [False] * self.num_envs


class _Ids(BaseFeaturesExtractor):
    """Token ids, which stable-baselines3 converts to floats."""

    def __init__(self, observation_space: spaces.Box):
        super().__init__(observation_space, LONGEST)

    def forward(self, observations: Tensor) -> Tensor:
        return observations.long()


class _Latents(nn.Module):
    """The two trunks in the interface that stable-baselines3 expects below its heads."""

    def __init__(self, task: BenchTask):
        super().__init__()
        self.latent_dim_pi = self.latent_dim_vf = task.classifier().config.hidden_size
        self.actor, self.critic = Trunk(task.classifier()), Trunk(task.classifier())

    def forward(self, ids_BT: Tensor) -> tuple[Tensor, Tensor]:
        return self.actor(ids_BT), self.critic(ids_BT)

    def forward_actor(self, ids_BT: Tensor) -> Tensor:
        return self.actor(ids_BT)

    def forward_critic(self, ids_BT: Tensor) -> Tensor:
        return self.critic(ids_BT)


class _ActorCritic(ActorCriticPolicy):
    """The task's networks, from its start weights; observations are token ids."""

    def __init__(self, *args: Any, task: BenchTask, **kwargs: Any):
        self.task = task
        super().__init__(*args, ortho_init=False, features_extractor_class=_Ids, **kwargs)
        self.action_net.load_state_dict(Policy(task).head.state_dict())
        self.value_net.load_state_dict(Value(task).head.state_dict())

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = _Latents(self.task)

    def logits(self, ids_BT: Tensor) -> Tensor:
        return self.action_net(self.mlp_extractor.forward_actor(ids_BT))


class _PriceOfKL(BaseCallback):
    """Subtracts the KL penalty from the reward at the end of a rollout."""

    def __init__(self, task: BenchTask, settings: Settings, on_update: OnUpdate | None):
        super().__init__()
        self.task, self.settings, self.on_update = task, settings, on_update
        self.reference = Policy(task)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        with torch.no_grad():
            logits_BK = self.reference(torch.from_numpy(buffer.observations[0]).long())
            action_B = torch.from_numpy(buffer.actions[0, :, 0]).long()
            ref_logp_B = torch.distributions.Categorical(logits=logits_BK).log_prob(action_B).numpy()
        buffer.rewards -= self.settings.beta * (buffer.log_probs - ref_logp_B)
        buffer.compute_returns_and_advantage(self.locals["values"], self.locals["dones"])

    def _on_rollout_start(self) -> None:
        if self.num_timesteps > 0:
            self._updated()

    def _on_training_end(self) -> None:
        self._updated()

    def _updated(self) -> None:
        if self.on_update is not None:
            self.on_update(self.num_timesteps, lambda: logits_NK(self.model.policy.logits, self.task))


class _PPO(PPO):
    """PPO with a separate learning rate for the critic, the optimizer's second group."""

    critic_rate = 1.0  # in units of the actor's

    def _update_learning_rate(self, optimizers: Any) -> None:
        super()._update_learning_rate(optimizers)
        optimizers.param_groups[1]["lr"] *= self.critic_rate


class StableBaselines:
    """PPO with `n_steps=1`; advantages are whitened over a minibatch, as it does."""

    def __init__(self, task: BenchTask, settings: Settings, on_update: OnUpdate | None = None):
        self.settings = settings
        self.model = _PPO(
            _ActorCritic,
            _Questions(task, settings),
            learning_rate=lambda remaining: settings.learning_rate * remaining,
            n_steps=1,
            batch_size=settings.batch // settings.minibatches,
            n_epochs=settings.epochs,
            clip_range=settings.cliprange,
            clip_range_vf=None,
            ent_coef=0.0,
            vf_coef=settings.vf_coef / 2,  # it omits the factor 0.5 of the squared error
            max_grad_norm=float("inf"),
            policy_kwargs={"task": task},
            seed=None,
            device="cpu",
        )
        policy = self.model.policy
        critic = [*policy.mlp_extractor.critic.parameters(), *policy.value_net.parameters()]
        actor = [*policy.mlp_extractor.actor.parameters(), *policy.action_net.parameters()]
        self.model.critic_rate = settings.value_learning_rate / settings.learning_rate
        policy.optimizer = torch.optim.AdamW(
            [{"params": actor}, {"params": critic}], betas=(0.9, settings.adam_beta2), weight_decay=0.0
        )
        self.callback = _PriceOfKL(task, settings, on_update)

    def run(self) -> None:
        torch.manual_seed(self.settings.seed)
        np.random.seed(self.settings.seed)  # of its minibatches
        self.model.learn(self.settings.updates * self.settings.batch, self.callback)
