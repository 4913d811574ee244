"""Checkpoints: a policy that loads like any other, and beside it all that training needs to go on to the last bit."""

import dataclasses
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from eightball_ppo.config.training import CheckpointedConfig
from eightball_ppo.errors import Stopped
from eightball_ppo.models.saving import save_policy
from eightball_ppo.runtime import signals
from eightball_ppo.runtime.atomic_io import drop_directory, write_directory
from eightball_ppo.runtime.distributed import is_main_process, largest, num_processes, wait_for_everyone
from eightball_ppo.runtime.launch import mixed_precision
from eightball_ppo.runtime.progress import checkpoints_in
from eightball_ppo.runtime.redaction import redacted
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.state import Part, write_state

TRAINING = "training"  # of a checkpoint: what is not the policy
FORMAT = 3
Origin = Mapping[str, str]
"""What a training starts from and does not change, by the words for it: fingerprints."""


class Keeper:
    """Writes `checkpoint-UPDATE` every `save_steps` updates and where a signal ends the training; keeps the newest.

    Every process must have one and call it alike: what each has of its own is gathered. Only the main one writes.

    Args:
        parts: what training is made of; the order counts, and is the same on all processes.
        more_files: writes further files into the directory of the training's state.
        stage: what this training is called in the run; `before`: the updates that earlier ones of the run have made.
    """

    def __init__(
        self,
        config: CheckpointedConfig,
        run: Run,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        origin: Origin,
        parts: Mapping[str, Part],
        more_files: Callable[[Path], None] | None = None,
        stage: str | None = None,
        before: int = 0,
    ):
        self.config, self.run, self.policy, self.tokenizer = config, run, policy, tokenizer
        self.origin, self.parts, self.more_files = origin, parts, more_files
        self._within = "" if stage in (None, run.method) else f" of {stage}"
        self.before = before
        self._signal = 0

    def due(self, update: int) -> bool:
        """Whether there must be a checkpoint after `update`; a signal that any process got counts for all."""
        self._signal = largest(signals.asked())
        return self._signal != 0 or (self.config.save_steps is not None and update % self.config.save_steps == 0)

    def keep(self, update: int, updates: int) -> None:
        """Write a checkpoint after `update` of `updates`.

        Raises:
            Stopped: a signal asked for the end.
            OSError: the disk is full, or cannot be written.
        """
        self.save(update)
        if self._signal:
            stored = f" (checkpoint-{self.before + update})" if self.before else ""
            raise Stopped(
                f"stopped by {signal.Signals(self._signal).name} after update {update} of {updates}{self._within}"
                f"{stored}; go on by the same command with --resume_from_checkpoint true",
                self._signal,
            )

    def save(self, update: int) -> None:
        """Write everything as it is now; whoever reads meanwhile sees all of it or nothing.

        Raises:
            OSError: the disk is full, or cannot be written.
        """
        states = {name: part.state() for name, part in self.parts.items()}
        update += self.before
        if is_main_process():
            more = {
                "format": FORMAT,
                "method": self.run.method,
                "config": redacted(dataclasses.asdict(self.config)),
                "world_size": num_processes(),
                "mixed_precision": mixed_precision(),
                "origin": dict(self.origin),
                "progress": dataclasses.asdict(self.run.progress(update)),
            }

            def fill(directory: Path) -> None:
                save_policy(self.policy, self.tokenizer, directory)
                write_state(directory / TRAINING, states, more)
                if self.more_files is not None:
                    self.more_files(directory / TRAINING)

            write_directory(self.run.path / f"checkpoint-{update}", fill)
            if self.config.save_total_limit is not None:
                for old in checkpoints_in(self.run.path)[: -self.config.save_total_limit]:
                    drop_directory(old)
        wait_for_everyone()  # or a process that ends now would have the launcher end this one


class Checkpoints(TrainerCallback):
    """The keeper in a loop that logs an update before it ends: TRL's PPO."""

    def __init__(self, keeper: Keeper):
        self.keeper = keeper

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if self.keeper.due(state.global_step):
            self.keeper.keep(state.global_step, state.max_steps)
