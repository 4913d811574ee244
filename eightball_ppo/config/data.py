"""The options that say which questions a stage reads, and how."""

from dataclasses import dataclass, fields
from typing import ClassVar, Literal

from eightball_ppo.config.embedded import same_dataset
from eightball_ppo.config.fields import option, require
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

SHARED_OPTIONS = (
    *("dataset_name", "dataset_config_name", "dataset_format", "dataset_test_split", "gold_file", "skip_bad_rows"),
    *("text_column", "text_pair_column", "label_column"),
)  # those that mean the same to every stage
DatasetFormat = Literal["plain", "boolq", "helpsteer"]


@dataclass
class DataConfig:
    """Where the questions of a stage come from.

    Attributes:
        default_train_split: The split that the stage learns from by default.
    """

    default_train_split: ClassVar[str] = "rl"

    dataset_name: str = option(
        "eightball",
        "eightball, tickets, one of docs/data.md, a directory of .jsonl, .csv or .parquet, such a file, or a Hub id.",
    )
    dataset_config_name: str | None = option(None, "Configuration of a Hub dataset.")
    dataset_format: DatasetFormat = option("plain", "plain: the columns named below; else the data set's own columns.")
    dataset_train_split: str | None = option(None, "Split to learn from; by default the stage's: sft, preferences, rl.")
    dataset_test_split: str = option(
        "heldout", "Split to measure on, or a share of the training split; 0.2 if it is missing."
    )
    gold_file: str | None = option(None, "File of questions with gold labels to measure on, instead of that split.")
    skip_bad_rows: bool = option(False, "Leave out and count the rows that cannot be read, instead of refusing them.")
    text_column: str = option("question", "Column with the text; if it is missing, one is found.")
    text_pair_column: str | None = option(None, "Column with a second text, such as a passage beside a question.")
    label_column: str = option("answer", "Column with the label, a name or an id; if it is missing, one is found.")
    labels: list[str] | None = option(None, "Label names in the order of their ids; by default the model's or data's.")

    def __post_init__(self) -> None:
        if self.labels is None and same_dataset(self.dataset_name, DataConfig.dataset_name):
            self.labels = list(EIGHTBALL_LABELS)
        require(self.labels is None or len(self.labels) > 1, f"--labels {self.labels}: at least 2 are needed")
        for name in ("dataset_name", "text_column", "label_column", "dataset_test_split"):
            require(bool(getattr(self, name).strip()), f"--{name}: empty")
        fraction = self.test_fraction
        require(fraction is None or 0 < fraction < 1, f"--dataset_test_split {fraction}: a fraction between 0 and 1")
        plain = self.dataset_format == "plain" or self.text_pair_column is None
        require(plain, f"--text_pair_column {self.text_pair_column}: --dataset_format {self.dataset_format} sets it")

    def flags(self) -> tuple[str, ...]:
        """The options that say how the data are read, as far as they are not the defaults, for another command."""
        defaults = {field.name: field.default for field in fields(DataConfig)}
        given = {name: getattr(self, name) for name in SHARED_OPTIONS if getattr(self, name) != defaults[name]}
        return tuple(
            part for name, value in given.items() for part in (f"--{name}", *([] if value is True else [str(value)]))
        )

    @property
    def test_fraction(self) -> float | None:
        """The share of the training questions that is held out to measure on; None where a split is named."""
        try:
            return float(self.dataset_test_split)
        except ValueError:
            return None

    @property
    def shared_train_split(self) -> str | None:
        """`--dataset_train_split` for stages of other kinds; None where it is this stage's default split."""
        return None if self.dataset_train_split == self.default_train_split else self.dataset_train_split

    def label_set(self) -> LabelSet:
        """The labels, which `models.label_inference.with_labels` has filled in where they were not given.

        Raises:
            InputError: The labels are not a valid set.
        """
        assert self.labels is not None, "call with_labels first"
        return LabelSet.of(self.labels)
