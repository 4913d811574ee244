"""Policies saved on the way: whole, loadable directories in the unfinished run, which a killed job leaves behind."""

import os
import shutil
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback

from eightball_ppo.method_options import SampledConfig
from eightball_ppo.models.saving import save_policy
from eightball_ppo.ranks import is_main_process
from eightball_ppo.runs import Run, checkpoints_in


class Checkpoints(TrainerCallback):
    """Every `save_steps` updates the policy goes to `checkpoint-UPDATE`; the oldest ones beyond `limit` go away.

    Only the main process writes. A checkpoint gets its name once it is whole. It holds the policy, no optimizer.
    """

    def __init__(
        self,
        directory: Path,
        policy: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        save_steps: int,
        limit: int | None,
        steps_per_update: int = 1,
    ):
        self.directory, self.policy, self.tokenizer = directory, policy, tokenizer
        self.save_steps, self.limit, self.steps_per_update = save_steps, limit, steps_per_update

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        update, rest = divmod(state.global_step, self.steps_per_update)
        if rest == 0 and update % self.save_steps == 0 and is_main_process():
            self.save(update)

    def save(self, update: int) -> None:
        """Write the policy as it is now; whoever reads meanwhile sees all of it or nothing."""
        growing = self.directory / f".checkpoint-{update}"
        shutil.rmtree(growing, ignore_errors=True)
        save_policy(self.policy, self.tokenizer, growing)
        for file in filter(Path.is_file, growing.rglob("*")):  # on the disk before it has its name
            with file.open("rb") as written:
                os.fsync(written.fileno())
        growing.rename(self.directory / f"checkpoint-{update}")
        if self.limit is not None:
            for old in checkpoints_in(self.directory)[: -self.limit]:
                shutil.rmtree(old)


def checkpoints(
    config: SampledConfig,
    run: Run,
    policy: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    steps_per_update: int = 1,
) -> list[TrainerCallback]:
    """The callback that `--save_steps` asks for, or none. `steps_per_update`: what the trainer counts in an update."""
    if config.save_steps is None:
        return []
    return [Checkpoints(run.path, policy, tokenizer, config.save_steps, config.save_total_limit, steps_per_update)]
