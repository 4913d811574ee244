"""The options of the stages that are no method: each field is a flag and a line of YAML."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from eightball_ppo.config.data import DataConfig
from eightball_ppo.config.defaults import Amount, AmountByClassifier, ByClassifier
from eightball_ppo.config.fields import (
    AT_LEAST_1,
    NOT_NEGATIVE,
    OPEN_SHARE,
    POSITIVE,
    SEED,
    SHARE,
    Rule,
    check_values,
    option,
    require,
)
from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.config.model import SMALL_CLASSIFIER, LoraOptions, TrustOptions
from eightball_ppo.config.training import EPOCHS, MAX_LENGTH, Schedule, SupervisedConfig

RANDOM_ANSWERS = "eightball"  # the embedded data set whose sft answers are drawn at random
OUTPUT_ENDINGS = (".csv", ".jsonl", ".parquet")
KAPPA = Rule(lambda value: -1 <= value <= 1, "must be between -1 and 1")


@dataclass
class SFTConfig(LoraOptions, SupervisedConfig):
    """Fine-tune a classifier on labelled questions: the reference policy.

    The embedded questions have random answers, which teach the form of an answer and nothing else.
    """

    default_train_split: ClassVar[str] = "sft"

    output_dir: str = option("runs/sft", "Directory of the finished run; it must not hold another run.")
    model_name_or_path: str = option(SMALL_CLASSIFIER, "eightball (small, new), minilm, a directory or a Hub id.")
    tokenizer: str = option("wordpiece", "Of the small classifier: wordpiece, whitespace, a directory or a Hub id.")
    num_train_epochs: float | None = option(
        None, "Passes; default 10, of the small classifier over the eight ball's random answers 3.", EPOCHS
    )
    freeze_encoder: bool = option(False, "Train a head alone, on the mean of the encoder's token states.")
    head_hidden_size: int = option(0, "With --freeze_encoder: width of a hidden layer; 0: none.", NOT_NEGATIVE)

    def __post_init__(self) -> None:
        if self.num_train_epochs is None:
            # More passes over random answers give labels a probability of 1e-5, which sampling never finds again.
            random_answers = self.dataset_name == RANDOM_ANSWERS and self.model_name_or_path == SMALL_CLASSIFIER
            self.num_train_epochs = 3.0 if random_answers else 10.0
        super().__post_init__()
        encoder = self.model_name_or_path != SMALL_CLASSIFIER
        require(encoder or not self.freeze_encoder, "--freeze_encoder: which one? pass --model_name_or_path minilm")
        require(not (self.freeze_encoder and self.use_peft), "--freeze_encoder: nothing is left to adapt by --use_peft")
        require(self.freeze_encoder or not self.head_hidden_size, "--head_hidden_size: needs --freeze_encoder")
        require(
            self.tokenizer == SFTConfig.tokenizer or self.model_name_or_path == SMALL_CLASSIFIER,
            f"--tokenizer {self.tokenizer}: is for the small classifier; {self.model_name_or_path} has its own",
        )


@dataclass
class RewardConfig(LoraOptions, SupervisedConfig):
    """Fine-tune the upper half of a BERT on the answers that askers prefer, then scale its temperature."""

    default_train_split: ClassVar[str] = "preferences"
    by_classifier: ClassVar[Mapping[str, ByClassifier]] = {"learning_rate": ByClassifier(2e-4, 2e-4, 2e-4, 2e-3, 2e-4)}
    # an encoder learns little in a few dozen steps, however few the texts (Mosbach et al. 2021, arXiv:2006.04884)
    amounts: ClassVar[Mapping[str, AmountByClassifier]] = {
        "num_train_epochs": AmountByClassifier(*2 * (Amount(3, minimum=2_400),))
    }

    output_dir: str = option("runs/reward", "Directory of the finished run; it must not hold another run.")
    model_name_or_path: str = option("minilm", "Encoder: minilm (packaged), a directory or a Hub id.")
    max_length: int | None = option(48, "Tokens after which a question is cut.", MAX_LENGTH)
    validation_fraction: float = option(0.15, "Share of the preferences kept for the temperature.", OPEN_SHARE)
    learning_rate: float | None = option(None, "Peak learning rate; default 2e-4, LoRA 0.002.", POSITIVE)
    lr_scheduler_type: Schedule = option("linear", "Shape of the learning rate: constant, linear, cosine ...")
    warmup_steps: int = option(10, "Optimizer steps of linear warm-up.")
    weight_decay: float | None = option(0.01, "AdamW's decoupled weight decay.", NOT_NEGATIVE)
    num_train_epochs: float | None = option(None, "Passes; default 3, more for fewer than 800 texts.", EPOCHS)
    per_device_train_batch_size: int = option(32, "Questions per optimizer step and process.", AT_LEAST_1)


@dataclass
class GradeConfig(GraderConfig):
    """Fill the grade store with a grader's grades of a dataset, and export them as grades.parquet."""

    replaces: ClassVar[str] = "grade"

    output_dir: str = option("grades", "Directory for grades.parquet; an existing export is replaced.")
    splits: list[str] = option([], "Splits to grade; by default those for training and evaluation.")


@dataclass
class AuditConfig(GraderConfig):
    """Test a grader against gold labels and by adversarial probes, before anything is trained on it."""

    replaces: ClassVar[str] = "audit"

    output_dir: str = option("runs/audit", "Directory for audit.html; an existing audit is replaced.")
    audit_questions: int = option(100, "Gold questions to probe; the accuracy takes all of them.", AT_LEAST_1)
    min_accuracy: float = option(0.6, "Fail unless the accuracy on gold is above this; 0 is off.", SHARE)
    min_kappa: float = option(0.3, "Fail unless Cohen's kappa on gold is above this; -1 is off.", KAPPA)
    max_flips: float = option(0.2, "Maximum share of top answers that case, blanks or rewording change.", SHARE)
    max_order_flips: float = option(0.2, "Maximum share of top answers that permuted options change.", SHARE)
    max_injection_flips: float = option(0.2, "Maximum excess of flips by injection over rewording; 1 is off.", SHARE)


@dataclass
class PredictConfig(TrustOptions):
    """Ask a trained policy."""

    question: str | None = option(None, "The question; the first argument may also be given without the flag.")
    file: str | None = option(None, "Questions: .csv, .jsonl or .parquet, as training reads it, or a text a line.")
    output: str | None = option(None, "Write .csv, .jsonl or .parquet: the rows, the answer, the probabilities.")
    text_column: str = option(DataConfig.text_column, "Column of --file with the text; if it is missing, one is found.")
    text_pair_column: str | None = option(None, "Column of --file with a second text.")
    skip_bad_rows: bool = option(False, "Leave out and count the rows of --file that cannot be read.")
    text_pair: str | None = option(None, "A second text for the question, or for each one of the file.")
    model_name_or_path: str = option("runs/ppo", "Policy directory or Hub id.")
    sample: bool = option(False, "Draw the answer from the policy instead of taking the most probable one.")
    seed: int = option(0, "Seed of the draw.", SEED)

    def __post_init__(self) -> None:
        one = (self.question is None) != (self.file is None)
        ending = self.output is None or Path(self.output).suffix in OUTPUT_ENDINGS
        require(ending, f"--output {self.output}: its name must end in one of {list(OUTPUT_ENDINGS)}")
        pair = self.text_pair is None or self.text_pair_column is None
        require(pair, "--text_pair and --text_pair_column: pass one of them")
        require(one, 'pass either one question ("Will I be rich?") or --file FILE')
        check_values(self)
