"""Checkpoints: a policy that loads like any other, and beside it the state from which training resumes to the bit."""

import dataclasses
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from eightball_ppo.config.training import CheckpointedConfig
from eightball_ppo.errors import TrainingInterrupted
from eightball_ppo.models.saving import save_policy
from eightball_ppo.runtime import signals
from eightball_ppo.runtime.atomic_io import remove_directory, write_directory
from eightball_ppo.runtime.distributed import is_main_process, num_processes, wait_for_everyone
from eightball_ppo.runtime.launch import mixed_precision
from eightball_ppo.runtime.progress import checkpoints_in
from eightball_ppo.runtime.redaction import redacted
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.resume import ResumeContext
from eightball_ppo.training.state import FORMAT, TRAINING, Stateful, States, trainer_states, write_states


class CheckpointWriter:
    """Writes `checkpoint-UPDATE` every `save_steps` updates and when a signal stops training; keeps the newest.

    Every rank must have one and call it alike, because per-rank states are gathered. Only the main process writes.

    Args:
        config: `save_steps`, `save_total_limit`, and the options that the checkpoint records.
        run: Its directory gets the checkpoints.
        policy: The model that is trained.
        tokenizer: Saved with the policy.
        resume: What the training starts from and resumes from.
        stage: Name of this training in messages; None if it is the run's only one.
    """

    def __init__(
        self,
        config: CheckpointedConfig,
        run: Run,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        resume: ResumeContext,
        stage: str | None = None,
    ):
        self.config, self.run, self.policy, self.tokenizer, self.resume = config, run, policy, tokenizer, resume
        self.states: States = ()  # set when training begins; in the same order on all ranks
        self.write_more_files: Callable[[Path], None] | None = None  # into the directory of the state
        self._of_stage = "" if stage in (None, run.method) else f" of {stage}"
        self._signal = 0

    def due(self, update: int) -> bool:
        """Whether to write a checkpoint after `update`: as configured, or because any rank got a signal."""
        self._signal = max(gather_object([signals.pending_signal()]))
        return self._signal != 0 or (self.config.save_steps is not None and update % self.config.save_steps == 0)

    def write(self, update: int, updates: int) -> None:
        """Writes a checkpoint after `update` of `updates`, atomically.

        Raises:
            TrainingInterrupted: A signal stopped training.
            OSError: The disk is full, or cannot be written.
        """
        states = {name: stateful.state_dict() for name, stateful in self.states}
        number = self.resume.updates_before + update
        if is_main_process():
            header = {
                "format": FORMAT,
                "method": self.run.method,
                "config": redacted(dataclasses.asdict(self.run.config)),
                "world_size": num_processes(),
                "mixed_precision": mixed_precision(),
                "inputs": self.resume.inputs,
                "progress": dataclasses.asdict(self.run.progress(number)),
            }

            def fill(directory: Path) -> None:
                save_policy(self.policy, self.tokenizer, directory)
                write_states(directory / TRAINING, states, header)
                if self.write_more_files is not None:
                    self.write_more_files(directory / TRAINING)

            write_directory(self.run.path / f"checkpoint-{number}", fill)
            if self.config.save_total_limit is not None:
                for old in checkpoints_in(self.run.path)[: -self.config.save_total_limit]:
                    remove_directory(old)
        wait_for_everyone()  # or a process that ends now would have the launcher end this one
        if self._signal:
            stored = f" (checkpoint-{number})" if number != update else ""
            raise TrainingInterrupted(
                f"stopped by {signal.Signals(self._signal).name} after update {update} of {updates}{self._of_stage}"
                f"{stored}; resume by the same command with --resume_from_checkpoint true",
                self._signal,
            )


class CheckpointCallback(TrainerCallback):
    """Loads the resume point when training begins, and writes checkpoints between updates.

    Add it after every callback that draws random numbers in its `on_train_begin`: the generators are loaded last. It
    saves in `on_step_end`, which fits a loop that logs an update before that (TRL's PPO).

    Args:
        writer: Writes the checkpoints.
        trainer: A trainer of transformers or TRL.
        loop_state: Name and state of the training loop's counters.
    """

    def __init__(self, writer: CheckpointWriter, trainer: Any, loop_state: tuple[str, Stateful]):
        self.writer, self.trainer, self.loop_state = writer, trainer, loop_state

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Restores every state from the resume point, if there is one."""
        resume = self.writer.resume
        self.writer.states = [self.loop_state, *resume.states, *trainer_states(self.trainer)]
        resume.load(self.writer.states)

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        """Writes a checkpoint if one is due."""
        if self.writer.due(state.global_step):
            self.writer.write(state.global_step, state.max_steps)
