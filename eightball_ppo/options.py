"""What the options of every stage are made of. Names and defaults follow TRL and transformers."""

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from eightball_ppo.data_options import DataConfig
from eightball_ppo.fields import option, require
from eightball_ppo.model_options import TrustOptions

MOST = 10**9  # of anything that is counted
Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial"]


@dataclass
class StageConfig(TrustOptions, DataConfig):
    """What every stage has that writes a directory. `replaces`: the method whose runs it may replace unasked;
    `resumes`: it goes on in a directory of its own; `checkpointed`: it can go on from a checkpoint."""

    replaces: ClassVar[str] = "nothing"
    resumes: ClassVar[bool] = False
    checkpointed: ClassVar[bool] = False

    output_dir: str = option("", "Directory of the finished run; it must not hold another run.", free=True)
    overwrite_output_dir: bool = option(
        False, "Replace a run that stands in output_dir, once the new one is whole.", free=True
    )
    resume_from_checkpoint: str | None = option(
        None, "Go on where a run stopped: true, for its newest checkpoint, or the directory of one.", free=True
    )
    seed: int = option(0, "Seed of torch, numpy and python.")
    disable_tqdm: bool = option(False, "No progress bars.", free=True)
    ddp_timeout: int = option(
        1800,
        "Seconds that a process of a launch waits for the others before it gives up, at the start and later.",
        free=True,
    )
    push_to_hub: bool = option(
        False, "Upload the finished run to the Hugging Face Hub; needs --hub_model_id.", free=True
    )
    hub_model_id: str | None = option(
        None, "Repository for --push_to_hub: USER/NAME, or NAME for one of your own.", free=True
    )
    hub_private_repo: bool = option(
        True, "Create that repository as private; one that stands is left as it is.", free=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(bool(self.output_dir.strip()), "--output_dir: empty; name the directory of the run")
        self._check_resumption()
        require(0 <= self.seed < 2**31, f"--seed {self.seed}: between 0 and {2**31 - 1}")
        require(1 <= self.ddp_timeout <= 10**7, f"--ddp_timeout {self.ddp_timeout}: 1 to {10**7} seconds")
        for name, value in vars(self).items():
            finite = not isinstance(value, float) or math.isfinite(value)
            require(finite, f"--{name} {value}: must be a finite number")
            counted = not isinstance(value, int) or name == "seed" or abs(value) <= MOST
            require(counted, f"--{name} {value}: at most {MOST}")

    def _check_resumption(self) -> None:
        if self.resume_from_checkpoint is not None:
            wanted = str(self.resume_from_checkpoint)  # Python programs say True, or a Path
            said = wanted.lower()
            self.resume_from_checkpoint = None if said == "false" else "true" if said == "true" else wanted
        require(
            self.resume_from_checkpoint is None or self.checkpointed,
            f"--resume_from_checkpoint {self.resume_from_checkpoint}: this stage has no checkpoints; run it again, "
            "grades that were made are kept",
        )


@dataclass
class LearningConfig(StageConfig):
    """A stage that trains a classifier."""

    max_length: int | None = option(
        None,
        "Most tokens of a question, special tokens included; longer ones are cut and counted. By default what the "
        "model's tokenizer was saved with; 32 for a new small classifier.",
    )
    report_to: str = option(
        "none", "Tracker that transformers logs to: none, trackio, tensorboard, wandb, all ...", free=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        length = self.max_length
        require(length is None or length >= 3, f"--max_length {self.max_length}: at least 3 (start, one token, end)")


@dataclass
class CheckpointedConfig(LearningConfig):
    """A stage whose training can stop and go on."""

    checkpointed: ClassVar[bool] = True

    save_steps: int | None = option(
        None,
        "Updates between two checkpoints, from which the run can go on; none: only where it is stopped.",
        free=True,
    )
    save_total_limit: int | None = option(None, "Most checkpoints that are kept, the newest; none: all.", free=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("save_steps", "save_total_limit"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name} {value}: at least 1")
        limited = self.save_total_limit is not None and self.save_steps is None
        require(not limited, "--save_total_limit: nothing is saved on the way without --save_steps")


@dataclass
class FitConfig(CheckpointedConfig):
    """A stage that fits a classifier to labels with `transformers.Trainer`."""

    learning_rate: float = option(1e-3, "Peak learning rate.")
    lr_scheduler_type: Schedule = option("constant", "Shape of the learning rate: constant, linear, cosine ...")
    warmup_steps: int = option(0, "Optimizer steps of linear warm-up.")
    weight_decay: float = option(0.0, "AdamW's decoupled weight decay; 0 makes it Adam.")
    adam_beta2: float = option(0.999, "AdamW's decay of squared gradients.")
    num_train_epochs: float = option(10, "Passes over the training questions.")
    per_device_train_batch_size: int = option(2, "Questions per optimizer step and process.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.learning_rate > 0, f"--learning_rate {self.learning_rate}: must be above 0")
        epochs = self.num_train_epochs
        require(0 < epochs <= MOST, f"--num_train_epochs {epochs}: must be above 0 and at most {MOST}")
        require(self.per_device_train_batch_size >= 1, "--per_device_train_batch_size: at least 1")
        require(self.weight_decay >= 0, f"--weight_decay {self.weight_decay}: must not be negative")
        require(0 <= self.adam_beta2 < 1, f"--adam_beta2 {self.adam_beta2}: at least 0 and below 1")
