"""The options of every stage that trains a classifier. Names and defaults follow TRL and transformers."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from eightball_ppo.config.base import RunConfig
from eightball_ppo.config.defaults import AmountByClassifier, ByClassifier
from eightball_ppo.config.fields import (
    AT_LEAST_1,
    DECAY_RATE,
    MAX_COUNT,
    NOT_NEGATIVE,
    POSITIVE,
    Rule,
    option,
    require,
    run_option,
)

Schedule = Literal["linear", "cosine", "constant", "constant_with_warmup", "inverse_sqrt", "polynomial"]
MAX_LENGTH = Rule(lambda value: value >= 3, "must be at least 3 (start, one token, end)")
EPOCHS = Rule(lambda value: 0 < value <= MAX_COUNT, f"must be above 0 and at most {MAX_COUNT}")


@dataclass
class TrainingConfig(RunConfig):
    """Options of every stage that trains a classifier."""

    max_length: int | None = option(None, "Tokens after which a question is cut; default: the tokenizer's.", MAX_LENGTH)
    report_to: str = run_option("none", "Trackers of transformers: none, trackio, tensorboard, wandb, all ...")


@dataclass
class CheckpointedConfig(TrainingConfig):
    """Options of every stage whose training can stop and resume.

    Attributes:
        by_classifier: Defaults of options that depend on the classifier; None in the option stands for them.
        amounts: Defaults of `total_episodes` and `num_train_epochs` that depend on the number of texts, too.
    """

    checkpointed: ClassVar[bool] = True
    by_classifier: ClassVar[Mapping[str, ByClassifier]] = {"learning_rate": ByClassifier(1e-3, 1e-3, 5e-5, 1e-3, 1e-3)}
    amounts: ClassVar[Mapping[str, AmountByClassifier]] = {}

    save_steps: int | None = run_option(None, "Updates between checkpoints; none: only when stopped.", AT_LEAST_1)
    save_total_limit: int | None = run_option(None, "Number of newest checkpoints to keep; none: all.", AT_LEAST_1)

    def __post_init__(self) -> None:
        super().__post_init__()
        limited = self.save_total_limit is not None and self.save_steps is None
        require(not limited, "--save_total_limit: needs --save_steps")


@dataclass
class SupervisedConfig(CheckpointedConfig):
    """Options of every stage that fits a classifier to labels with `transformers.Trainer`."""

    learning_rate: float | None = option(None, "Peak; default 0.001, of all weights of an encoder 5e-5.", POSITIVE)
    lr_scheduler_type: Schedule = option("constant", "Shape of the learning rate: constant, linear, cosine ...")
    warmup_steps: int = option(0, "Optimizer steps of linear warm-up.")
    weight_decay: float | None = option(0.0, "AdamW's decoupled weight decay; 0 makes it Adam.", NOT_NEGATIVE)
    adam_beta2: float = option(0.999, "AdamW's decay of squared gradients.", DECAY_RATE)
    num_train_epochs: float | None = option(10, "Passes over the training questions.", EPOCHS)
    per_device_train_batch_size: int = option(2, "Questions per optimizer step and process.", AT_LEAST_1)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, example in (("num_train_epochs", 10), ("weight_decay", 0)):
            known = getattr(self, name) is not None or name in {*self.amounts, *self.by_classifier}
            require(known, f"--{name}: a number is needed, e.g. {example}")
