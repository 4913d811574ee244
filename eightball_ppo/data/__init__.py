"""Load and validate questions; split them by question. Nothing here knows models or tokenizers."""

from eightball_ppo.data.questions import Questions, hold_out, normalised, split_by_question
from eightball_ppo.data.reading import label_names, load_file, load_named, load_split, train_split

__all__ = [
    "Questions",
    "hold_out",
    "label_names",
    "load_file",
    "load_named",
    "load_split",
    "normalised",
    "split_by_question",
    "train_split",
]
