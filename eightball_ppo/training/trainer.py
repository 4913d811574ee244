"""transformers' Trainer, and TRL's that stand on it, with checkpoints of ours: atomic, without pickles, exact.

transformers writes its own with `torch.save` into their final place, and puts neither the running mean of the loss nor
the order of later epochs back. Of its resumption we use what counts steps and skips batches.
"""

import json
import time
from collections import deque
from typing import Any

from torch.utils.data import Sampler
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from eightball_ppo.runtime.distributed import rank
from eightball_ppo.training.checkpoint import TRAINING, Keeper
from eightball_ppo.training.resume import Resumption
from eightball_ppo.training.state import (
    OfEveryRank,
    OptimizerState,
    Part,
    Randomness,
    ScalerState,
    SchedulerState,
    State,
    Weights,
)


class RunningLoss:
    """What transformers' loop carries from step to step outside its state: the loss since the last row, and in all."""

    def __init__(self, trainer: "ExactTrainer"):
        self.trainer: Any = trainer

    def state(self) -> State:
        trainer = self.trainer
        return {
            "since": trainer._tr_loss.detach(),
            "total": trainer._total_loss_scalar,
            "logged": trainer._globalstep_last_logged,
            "seconds": time.monotonic() - trainer.began,
        }

    def restore(self, state: State) -> None:
        trainer = self.trainer
        trainer._tr_loss = state["since"].to(trainer.args.device)
        trainer._total_loss_scalar, trainer._globalstep_last_logged = state["total"], state["logged"]
        trainer._initial_global_step = 0  # means are over all steps, also those before
        trainer.began -= state["seconds"]


class _Flow(TrainerCallback):
    """Has the loop save where the keeper wants it, after the row of the step is logged."""

    def __init__(self, trainer: "ExactTrainer"):
        self.trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.trainer.began = time.monotonic()
        self.trainer.put_back("loss", self.trainer.loss)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        update, rest = divmod(state.global_step, self.trainer.steps_per_update)
        if rest == 0 and self.trainer.keeper is not None and self.trainer.keeper.due(update):
            control.should_save = True


class ExactTrainer(Trainer):
    """A Trainer that `keeping` makes write our checkpoints, and go on from one."""

    keeper: Keeper | None = None
    resumed: Resumption | None = None
    steps_per_update = 1
    one_generator = False  # TRL's sampler draws the order of every pass from one generator, and has no `set_epoch`
    order: Sampler[int] | None = None  # in which the rows come, a function of the epoch; None: transformers'
    began = 0.0
    last_inputs: Any = None

    def keep(self, keeper: Keeper, resumed: Resumption | None) -> None:
        """Have `keeper` write checkpoints of this training and of its own parts, and begin at `resumed`."""
        self.keeper, self.resumed, self._more = keeper, resumed, dict(keeper.parts)
        self.loss = OfEveryRank(RunningLoss(self), rank())
        self.add_callback(_Flow(self))
        keeper.more_files = lambda directory: self.state.save_to_json(str(directory / TRAINER_STATE_NAME))
        for name, part in self._more.items():
            self.put_back(name, part)

    def put_back(self, name: str, part: Part) -> None:
        """Restore a part, if the training is gone on with."""
        if self.resumed is not None:
            self.resumed.restore({name: part})

    def begin(self) -> None:
        """`train()`, from the checkpoint if there is one."""
        self.train(resume_from_checkpoint=None if self.resumed is None else str(self.resumed.path / TRAINING))

    def _run_epoch(self, *, epoch: int, train_dataloader: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps:  # stopped in its last step, and a step comes before a look
            self.control.should_training_stop = True
            return
        part = train_dataloader
        while part is not None:  # where batches are skipped, transformers misses the sampler of several processes
            sampler: Any = getattr(part, "sampler", None)
            if hasattr(sampler, "set_epoch"):
                sampler.set_epoch(epoch)
            part = getattr(part, "batch_sampler", None)
        super()._run_epoch(epoch=epoch, train_dataloader=train_dataloader, **kwargs)

    def training_step(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        self.last_inputs = inputs
        return super().training_step(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if self.resumed is not None and "train_runtime" in logs:
            seconds = time.monotonic() - self.began
            for name in ("train_samples_per_second", "train_steps_per_second"):
                logs[name] = round(logs[name] * logs["train_runtime"] / seconds, 3)
            logs["train_runtime"] = round(seconds, 4)
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        assert self.keeper is not None
        self.store_flos()
        randomness = OfEveryRank(Randomness(), rank())
        self.keeper.parts = {
            "weights": Weights(self.model),
            **self._optimization(),
            "randomness": randomness,
            "loss": self.loss,
            **self._more,
        }
        self.keeper.keep(self.state.global_step // self.steps_per_update, self.state.max_steps // self.steps_per_update)

    def _optimization(self) -> dict[str, Part]:
        parts: dict[str, Part] = {
            "optimizer": OptimizerState(self.optimizer),
            "scheduler": SchedulerState(self.lr_scheduler),
        }
        if self.accelerator.scaler is not None:
            parts["scaler"] = ScalerState(self.accelerator.scaler)
        return parts

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        self.put_back("weights", Weights(self.model))

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        for name, part in self._optimization().items():
            self.put_back(name, part)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        self.put_back("randomness", OfEveryRank(Randomness(), rank()))

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        sampler: Any = super()._get_train_sampler(*args, **kwargs) if self.order is None else self.order
        if self.resumed is not None and self.one_generator:
            passes = json.loads((self.resumed.path / TRAINING / TRAINER_STATE_NAME).read_text())["epoch"]
            for _ in range(int(passes)):
                deque(sampler, maxlen=0)  # what it drew then
        return sampler
