"""The models of a PPO and the callbacks around its trainer: metrics, completions, guards, checkpoints."""

from typing import Any

from transformers import TrainerCallback

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.methods.task import Task, record_rollouts
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.checkpoint import CheckpointCallback, CheckpointWriter
from eightball_ppo.training.early_stop import ForecastCallback, PlateauCallback, early_stop_states
from eightball_ppo.training.grad_norm import GradNormCallback
from eightball_ppo.training.guards import EarlyStopCallback, KLGuardCallback
from eightball_ppo.training.resume import ResumeContext
from eightball_ppo.training.state import PerRankState
from eightball_ppo.training.supervised import MetricsCallback
from eightball_ppo.trl_adapters.batch_sizes import updates_between_metrics
from eightball_ppo.trl_adapters.build import build_models, build_policies
from eightball_ppo.trl_adapters.trainer_state import ReferenceCacheState, TrainerStateRestore


class PPOTraining:
    """The models of one PPO, with scores that a `RolloutRecorder` wraps, and the callbacks for its trainer.

    Args:
        task: The task.
        batch: Episodes per update and process.
        updates: Number of updates.
        run: Gets metrics, completions and checkpoints.

    Attributes:
        models: Policy, reference, value model and reward model for `build_trainer`.
        classifier: The classifier inside the policy.
        callbacks: For the trainer: metrics, gradient norm, KL guard, early stop, forecast.
        early_stop: Ends the training, and knows why.
    """

    def __init__(self, task: Task[PPOConfig], batch: int, updates: int, run: Run):
        self.config = config = task.config
        self.task, self.run = task, run
        policy, reference = build_policies(task.classifier, task.tokens["train"], config)
        self._scores = record_rollouts(task, policy, reference, lambda: config.beta, updates, run)
        self.models = build_models(policy, reference, task.train_scores, self._scores, config)
        self.classifier = policy.backbone.classifier
        self._grad_norm = GradNormCallback(config.max_grad_norm, self._scores.fault)
        num_measured = len(task.tokens["train"] if task.metric_subset is None else task.metric_subset.tokens)
        every = updates_between_metrics(config, batch, len(task.questions["train"]), num_measured)
        if config.stop_kl is not None or config.max_kl is not None:
            every = 1  # the guards need the metrics of every update
        metrics = MetricsCallback(
            run, "ppo", lambda: task.exact_metrics(self.classifier), every, self._extra_metrics, task.unit
        )
        self._guard = KLGuardCallback(config, run, self.classifier, task.tokenizer, metrics, self._scores)
        plateau = PlateauCallback(config)
        self.early_stop = EarlyStopCallback(self._guard, plateau)
        self.callbacks: list[TrainerCallback] = [metrics, self._grad_norm, self._guard, plateau, ForecastCallback()]
        self._trainer: Any = None

    def _extra_metrics(self) -> dict[str, Any]:
        # TRL's `eps` is wrong after a resumption or a change of the clock
        episodes_per_second = int(self._trainer.state.episode / self.run.seconds)
        return {"grad_norm": self._grad_norm.mean(), "eps": episodes_per_second}

    def enable_checkpoints(self, trainer: Any, resume: ResumeContext) -> None:
        """Makes `trainer` write checkpoints, and start at the resume point."""
        self._trainer = trainer
        resume = resume.with_states(
            ("guard", self._guard),
            ("reference", PerRankState(ReferenceCacheState(self.models.reference))),
            ("scores", PerRankState(self._scores)),
            *early_stop_states(self.early_stop.plateau),
        )
        writer = CheckpointWriter(self.config, self.run, self.classifier, self.task.tokenizer, resume)
        trainer.add_callback(CheckpointCallback(writer, trainer, ("trainer", TrainerStateRestore(trainer))))
        trainer.add_callback(self.early_stop)
