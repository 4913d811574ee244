"""One dataclass per stage; every field here does what it says, and each is a flag and a line of YAML."""

from dataclasses import dataclass
from typing import ClassVar

from eightball_ppo.config.fields import option, require
from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.config.model import SMALL_CLASSIFIER, LoraOptions, TrustOptions
from eightball_ppo.config.training import Schedule, SupervisedConfig


@dataclass
class SFTConfig(LoraOptions, SupervisedConfig):
    """Fine-tune a classifier on labelled questions: the reference policy. The embedded ones have random answers, which
    teach the form of an answer and nothing else."""

    own_split: ClassVar[str] = "sft"

    output_dir: str = option("runs/sft", "Directory of the finished run; it must not hold another run.")
    model_name_or_path: str = option(
        SMALL_CLASSIFIER,
        "eightball (the small classifier, new), minilm (packaged), or a directory or Hub id of an encoder.",
    )
    tokenizer: str = option(
        "wordpiece",
        "Of the small classifier: wordpiece (BERT's), whitespace (the training words), or a directory or Hub id.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.tokenizer == SFTConfig.tokenizer or self.model_name_or_path == SMALL_CLASSIFIER,
            f"--tokenizer {self.tokenizer}: is for the small classifier; {self.model_name_or_path} has its own",
        )


@dataclass
class RewardConfig(LoraOptions, SupervisedConfig):
    """Fine-tune a BERT on what askers want to hear, then scale its temperature."""

    own_split: ClassVar[str] = "preferences"

    output_dir: str = option("runs/reward", "Directory of the finished run; it must not hold another run.")
    model_name_or_path: str = option(
        "minilm", "Encoder: minilm (packaged), a directory or a Hub id, e.g. google-bert/bert-base-uncased."
    )
    max_length: int | None = option(
        48, "Most tokens of a question, special tokens included; longer ones are cut and counted."
    )
    validation_fraction: float = option(0.15, "Share of the preference questions kept for the temperature.")
    learning_rate: float = option(1e-4, "Peak learning rate.")
    lr_scheduler_type: Schedule = option("linear", "Shape of the learning rate: constant, linear, cosine ...")
    warmup_steps: int = option(10, "Optimizer steps of linear warm-up.")
    weight_decay: float = option(0.01, "AdamW's decoupled weight decay.")
    num_train_epochs: float = option(4, "Passes over the training questions.")
    per_device_train_batch_size: int = option(16, "Questions per optimizer step and process.")

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 < self.validation_fraction < 1, f"--validation_fraction {self.validation_fraction}: between 0 and 1")


@dataclass
class GradeConfig(GraderConfig):
    """Fill the grade store with a grader's grades of a dataset, and export them as grades.parquet."""

    replaces: ClassVar[str] = "grade"

    output_dir: str = option("grades", "Directory for grades.parquet; grades that stand there are exported anew.")
    splits: list[str] = option([], "Splits to grade; by default those that are learned from and measured on.")


@dataclass
class AuditConfig(GraderConfig):
    """Judge a grader against gold answers and by tricks, before anything is trained on it."""

    replaces: ClassVar[str] = "audit"

    output_dir: str = option("runs/audit", "Directory for audit.html; an audit that stands there is replaced.")
    gold_file: str | None = option(
        None, "File of questions with the answers that were wanted; by default the split to measure on."
    )
    audit_questions: int = option(100, "Gold questions that are asked again in variants; accuracy takes all of them.")
    min_accuracy: float = option(0.6, "Fail unless the accuracy on gold is above this; 0 is off.")
    min_kappa: float = option(0.3, "Fail unless Cohen's kappa on gold is above this; -1 is off.")
    max_flips: float = option(
        0.2, "Fail if more of the questions change their favourite under case, blanks or rewording; 1 is off."
    )
    max_order_flips: float = option(
        0.2, "Fail if more of the questions change their favourite when the options are permuted; 1 is off."
    )
    max_injection_flips: float = option(
        0.2, "Fail if an injection moves more of the questions to its label than rewording does; 1 is off."
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.audit_questions >= 1, f"--audit_questions {self.audit_questions}: at least 1")
        require(-1 <= self.min_kappa <= 1, f"--min_kappa {self.min_kappa}: between -1 and 1")
        for name in ("min_accuracy", "max_flips", "max_order_flips", "max_injection_flips"):
            require(0 <= getattr(self, name) <= 1, f"--{name} {getattr(self, name)}: a share, 0 to 1")


@dataclass
class PredictConfig(TrustOptions):
    """Ask a trained policy."""

    question: str | None = option(None, "The question; the first argument may also be given without the flag.")
    file: str | None = option(None, "Text file with one question a line, instead of one question.")
    text_pair: str | None = option(
        None, "A second text that belongs to the question, or to each one of the file, such as a passage."
    )
    model_name_or_path: str = option("runs/ppo", "Policy directory or Hub id.")
    sample: bool = option(False, "Draw the answer from the policy instead of taking the most probable one.")
    seed: int = option(0, "Seed of the draw.")

    def __post_init__(self) -> None:
        require(
            (self.question is None) != (self.file is None),
            'pass either one question ("Will I be rich?") or --file FILE',
        )
        require(0 <= self.seed < 2**31, f"--seed {self.seed}: between 0 and {2**31 - 1}")
