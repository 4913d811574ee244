"""transformers' Trainer, and TRL's subclasses of it, with our checkpoints: atomic, without pickles, exact.

transformers writes its own checkpoints with `torch.save` into their final place, and restores neither the running mean
of the loss nor the order of later epochs. Of its resumption we use what counts steps and skips batches.
"""

import json
import time
from collections import deque
from typing import Any

from torch.utils.data import Sampler
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME

from eightball_ppo.training.checkpoint import CheckpointCallback, CheckpointWriter
from eightball_ppo.training.resume import ResumePoint
from eightball_ppo.training.state import TRAINING, PerRankState, RNGState, StateDict


class LossAccumulatorState:
    """The counters of transformers' loop outside its state: the loss since the last row and in all, and the seconds."""

    def __init__(self, trainer: "ResumableTrainer"):
        self.trainer: Any = trainer

    def state_dict(self) -> StateDict:
        """Loss and seconds so far."""
        return {
            "since": self.trainer._tr_loss.detach(),
            "total": self.trainer._total_loss_scalar,
            "logged": self.trainer._globalstep_last_logged,
            "seconds": time.monotonic() - self.trainer.started_at,
        }

    def load_state_dict(self, state: StateDict) -> None:
        """Restores loss and seconds."""
        trainer = self.trainer
        trainer._tr_loss = state["since"].to(trainer.args.device)
        trainer._total_loss_scalar, trainer._globalstep_last_logged = state["total"], state["logged"]
        trainer._initial_global_step = 0  # means are over all steps, also those before
        trainer.started_at -= state["seconds"]


class SaveCallback(CheckpointCallback):
    """Has transformers' loop save at the end of an update, after it has logged the step."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the clock, and restores every state from the resume point."""
        self.trainer.started_at = time.monotonic()
        super().on_train_begin(args, state, control, **kwargs)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Asks for a checkpoint if one is due."""
        update, rest = divmod(state.global_step, self.trainer.steps_per_update)
        if rest == 0 and self.writer.due(update):
            control.should_save = True


class ResumableTrainer(Trainer):
    """A Trainer that writes our checkpoints and resumes from one, once `enable_checkpoints` was called."""

    writer: CheckpointWriter | None = None
    steps_per_update = 1
    one_generator = False  # TRL's sampler draws the order of every epoch from one generator, and has no `set_epoch`
    sampler: Sampler[int] | None = None  # its order is a function of the epoch; None: transformers' own
    started_at = 0.0
    last_inputs: Any = None

    def enable_checkpoints(self, writer: CheckpointWriter) -> None:
        """Has `writer` write checkpoints of this training, and starts at its resume point."""
        self.writer = writer
        writer.write_more_files = lambda directory: self.state.save_to_json(str(directory / TRAINER_STATE_NAME))
        self.add_callback(SaveCallback(writer, self, ("loss", PerRankState(LossAccumulatorState(self)))))

    @property
    def resume_point(self) -> ResumePoint | None:
        """The checkpoint to resume from."""
        return None if self.writer is None else self.writer.resume.point

    def train_or_resume(self) -> None:
        """`train()`, from the checkpoint if there is one."""
        point = self.resume_point
        self.train(resume_from_checkpoint=None if point is None else str(point.path / TRAINING))

    def _run_epoch(self, *, epoch: int, train_dataloader: Any, **kwargs: Any) -> None:
        if self.state.global_step >= self.state.max_steps or self.control.should_training_stop:
            # stopped in its last step; it would make one more
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
        """Trainer's own step; keeps its inputs for the file that is written if a gradient is not finite."""
        self.last_inputs = inputs
        return super().training_step(model, inputs, *args, **kwargs)

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Trainer's own log; the speed of a resumed training includes the time before it was stopped."""
        if self.resume_point is not None and "train_runtime" in logs:
            seconds = time.monotonic() - self.started_at
            for name in ("train_samples_per_second", "train_steps_per_second"):
                logs[name] = round(logs[name] * logs["train_runtime"] / seconds, 3)
            logs["train_runtime"] = round(seconds, 4)
        super().log(logs, *args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        assert self.writer is not None
        self.store_flos()
        step, steps = self.state.global_step, self.state.max_steps
        self.writer.write(step // self.steps_per_update, steps // self.steps_per_update)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        """Nothing: `SaveCallback` loads everything when training begins."""

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Nothing, as above."""

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Loads the generators again, because the skipped batches have drawn from them."""
        assert self.writer is not None
        self.writer.resume.load([("rng", PerRankState(RNGState()))])

    def _get_train_sampler(self, *args: Any, **kwargs: Any) -> Any:
        sampler: Any = super()._get_train_sampler(*args, **kwargs) if self.sampler is None else self.sampler
        if self.resume_point is not None and self.one_generator:
            epochs = json.loads((self.resume_point.path / TRAINING / TRAINER_STATE_NAME).read_text())["epoch"]
            for _ in range(int(epochs)):
                deque(sampler, maxlen=0)  # draws what it drew in that epoch
        return sampler
