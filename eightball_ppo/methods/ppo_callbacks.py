"""What stands around a PPO while it learns: metrics, a look at its answers, guards, checkpoints."""

from typing import Any

from transformers import TrainerCallback

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.graders.budgeted_scores import Till
from eightball_ppo.methods.task import Task
from eightball_ppo.runtime.distributed import rank
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.checkpoint import Checkpoints, Keeper
from eightball_ppo.training.completions import WatchedScores
from eightball_ppo.training.grad_norm import GradientWatch
from eightball_ppo.training.guards import Ending, Guards, LastBatch
from eightball_ppo.training.resume import Keeping, Late, TrainerProgress
from eightball_ppo.training.state import OfEveryRank, OptimizerState, Part, Randomness, SchedulerState, Weights
from eightball_ppo.training.supervised import MetricsCallback
from eightball_ppo.trl_adapters.batch_sizes import updates_between_measurements
from eightball_ppo.trl_adapters.build import TRLModels


class WatchedTraining:
    """Puts a memory, and with `--log_completions` a window, in front of the till of `models`; `callbacks` are for the
    trainer to come."""

    def __init__(self, config: PPOConfig, task: Task, models: TRLModels, batch: int, updates: int, run: Run):
        self.config, self.task, self.run = config, task, run
        self.classifier = models.policy.by_row.classifier
        self._parts: dict[str, Part] = {"reference": OfEveryRank(models.reference, rank())}
        questions, labels = task.questions["train"].texts, task.labels.names
        if config.log_completions:
            window = WatchedScores(
                config,
                task.lessons,
                models.policy,
                models.reference,
                lambda: (1.0, config.kl_coef),
                questions,
                labels,
                updates,
                run.path,
            )
            models.reward.lookup.scores = window
            self._parts["completions"] = window

        last = LastBatch(models.reward.lookup.scores, models.policy.by_row, questions, labels, run)
        models.reward.lookup.scores = last
        self._gradients = GradientWatch(config.max_grad_norm, last.fault)
        num_measured = len(task.tokens["train"] if task.watched is None else task.watched.tokens)
        every = updates_between_measurements(config, batch, len(task.questions["train"]), num_measured)
        if config.target_kl is not None or config.max_kl is not None:
            every = 1  # the guards look at every update
        metrics = MetricsCallback(run, "ppo", lambda: task.exact_metrics(self.classifier), every, self._beside)
        guards = Guards(config, run, self.classifier, task.tokenizer, metrics, last)
        self._parts["guards"], self._ending = guards, Ending(guards)
        self.callbacks: list[TrainerCallback] = [metrics, self._gradients, guards, self._ending]
        self._trainer: Any = None

    def _beside(self) -> dict[str, Any]:
        pace = int(self._trainer.state.episode / self.run.seconds)  # TRL's is off after a resumption or a clock's jump
        return {"grad_norm": self._gradients.mean(), "eps": pace}

    def keep_checkpoints(self, trainer: Any, keeping: Keeping) -> None:
        """Have `trainer` write checkpoints, and put it back to where it was if it is gone on with."""
        self._trainer = trainer
        progress, own = TrainerProgress(trainer), rank()
        randomness = Late(OfEveryRank(Randomness(), own))
        self._parts |= {
            **keeping.parts,
            "trainer": progress,
            "weights": Weights(trainer.accelerator.unwrap_model(trainer.model)),
            "optimizer": OptimizerState(trainer.optimizer),
            "scheduler": SchedulerState(trainer.lr_scheduler),
            "till": OfEveryRank(Till(self.task.lessons), own),
            "randomness": randomness,
        }
        keeper = Keeper(self.config, self.run, self.classifier, self.task.tokenizer, keeping.origin, self._parts)
        callbacks = trainer.callback_handler.callbacks
        callbacks.insert(0, progress)
        callbacks.remove(self._ending)
        callbacks += [Checkpoints(keeper), randomness, self._ending]
        if keeping.resumed is not None:
            keeping.resumed.restore(self._parts)
