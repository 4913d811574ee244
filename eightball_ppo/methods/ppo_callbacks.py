"""The models of a PPO and the callbacks around its trainer: metrics, completions, guards, checkpoints."""

from typing import Any

from transformers import TrainerCallback

from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.methods.task import Task
from eightball_ppo.runtime.distributed import rank
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.checkpoint import Checkpoints, Keeper
from eightball_ppo.training.grad_norm import GradientWatch
from eightball_ppo.training.guards import Ending, Guards
from eightball_ppo.training.resume import Keeping, Late, TrainerProgress
from eightball_ppo.training.scores import compose_scores
from eightball_ppo.training.state import OfEveryRank, OptimizerState, Randomness, SchedulerState, Weights
from eightball_ppo.training.supervised import MetricsCallback
from eightball_ppo.trl_adapters.batch_sizes import updates_between_measurements
from eightball_ppo.trl_adapters.build import build_models, build_policies


class PPOTraining:
    """The models of one PPO, which get their scores through the wrappers of `compose_scores`, and `callbacks` for the
    trainer to come: metrics, guards, checkpoints."""

    def __init__(self, task: Task[PPOConfig], batch: int, updates: int, run: Run):
        self.config = config = task.config
        self.task, self.run = task, run
        policy, reference = build_policies(task.classifier, task.tokens["train"], config)
        recorder, self._parts = compose_scores(
            config,
            task.train_scores,
            policy,
            reference,
            lambda: (1.0, config.kl_coef),
            task.questions["train"].texts,
            task.labels.names,
            updates,
            run,
        )
        self.models = build_models(policy, reference, task.train_scores, recorder, config)
        self.classifier = policy.by_row.classifier
        self._parts["reference"] = OfEveryRank(reference, rank())
        self._gradients = GradientWatch(config.max_grad_norm, recorder.fault)
        num_measured = len(task.tokens["train"] if task.metric_subset is None else task.metric_subset.tokens)
        every = updates_between_measurements(config, batch, len(task.questions["train"]), num_measured)
        if config.target_kl is not None or config.max_kl is not None:
            every = 1  # the guards look at every update
        metrics = MetricsCallback(run, "ppo", lambda: task.exact_metrics(self.classifier), every, self._beside)
        guards = Guards(config, run, self.classifier, task.tokenizer, metrics, recorder)
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
            "randomness": randomness,
        }
        keeper = Keeper(self.config, self.run, self.classifier, self.task.tokenizer, keeping.origin, self._parts)
        callbacks = trainer.callback_handler.callbacks
        callbacks.insert(0, progress)
        callbacks.remove(self._ending)
        callbacks += [Checkpoints(keeper), randomness, self._ending]
        if keeping.resumed is not None:
            keeping.resumed.restore(self._parts)
