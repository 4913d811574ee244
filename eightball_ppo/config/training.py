"""The options of every stage that trains a classifier. Names and defaults follow TRL and transformers."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from eightball_ppo.config.base import MAX_COUNT, RunConfig
from eightball_ppo.config.fields import option, require

Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial"]


@dataclass
class TrainingConfig(RunConfig):
    """A stage that trains a classifier."""

    max_length: int | None = option(
        None,
        "Most tokens of a question, special tokens included; longer ones are cut and counted. By default what the "
        "model's tokenizer was saved with; 32 for a new small classifier.",
    )
    report_to: str = option(
        "none", "Tracker that transformers logs to: none, trackio, tensorboard, wandb, all ...", affects_results=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        length = self.max_length
        require(length is None or length >= 3, f"--max_length {self.max_length}: at least 3 (start, one token, end)")


@dataclass
class CheckpointedConfig(TrainingConfig):
    """A stage whose training can stop and go on."""

    checkpointed: ClassVar[bool] = True

    save_steps: int | None = option(
        None,
        "Updates between two checkpoints, from which the run can go on; none: only where it is stopped.",
        affects_results=False,
    )
    save_total_limit: int | None = option(
        None, "Most checkpoints that are kept, the newest; none: all.", affects_results=False
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("save_steps", "save_total_limit"):
            value = getattr(self, name)
            require(value is None or value >= 1, f"--{name} {value}: at least 1")
        limited = self.save_total_limit is not None and self.save_steps is None
        require(not limited, "--save_total_limit: nothing is saved on the way without --save_steps")


@dataclass
class SupervisedConfig(CheckpointedConfig):
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
        require(0 < epochs <= MAX_COUNT, f"--num_train_epochs {epochs}: must be above 0 and at most {MAX_COUNT}")
        require(self.per_device_train_batch_size >= 1, "--per_device_train_batch_size: at least 1")
        require(self.weight_decay >= 0, f"--weight_decay {self.weight_decay}: must not be negative")
        require(0 <= self.adam_beta2 < 1, f"--adam_beta2 {self.adam_beta2}: at least 0 and below 1")
