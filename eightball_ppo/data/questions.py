"""Questions, and how they are split: by their text, so that a question that stands twice lands on one side."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eightball_ppo.data.texts import ArrowTexts
from eightball_ppo.errors import InputError


@dataclass(frozen=True)
class Questions:
    """One split: `texts` [N] and, where the split is labelled, `label_ids` [N]; `source` names the origin.

    A question of two texts is one string, see `data.pairs`.
    """

    source: str
    texts: Sequence[str]
    label_ids: list[int] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, rows: Sequence[int] | np.ndarray) -> "Questions":
        """The questions of `rows`, in that order."""
        labels = None if self.label_ids is None else [self.label_ids[i] for i in rows]
        texts = self.texts.take(rows) if isinstance(self.texts, ArrowTexts) else [self.texts[i] for i in rows]
        return Questions(self.source, texts, labels)


def normalize_text(question: str) -> str:
    """Lower case, letters and digits alone, single spaces: two questions are the same if these agree."""
    return " ".join(re.sub(r"[^\w\s]|_", " ", question.lower().replace("'", "")).split())


def split_by_question(questions: Questions, validation_fraction: float, seed: int) -> tuple[Questions, Questions]:
    """(train, validation), stratified by label; a question that stands twice lands on one side.

    The choice depends on each question's text and `seed` alone, not on the order of the rows.

    Raises:
        InputError: one side would be empty.
    """
    hashes = (_hash(f"{seed}:{normalize_text(text)}") for text in questions.texts)
    hash_N = np.fromiter(hashes, np.uint64, len(questions))
    label_N = np.zeros(len(questions)) if questions.label_ids is None else np.array(questions.label_ids)
    chosen = []
    for label in np.unique(label_N):
        ranked = np.unique(hash_N[label_N == label])
        chosen.append(ranked[: round(validation_fraction * len(ranked))])
    second_N = np.isin(hash_N, np.concatenate(chosen))
    check_nonempty_splits(
        questions.source, np.bincount(second_N, minlength=2), f"a validation fraction of {validation_fraction}"
    )
    return questions.subset(np.flatnonzero(~second_N)), questions.subset(np.flatnonzero(second_N))


def held_out(text: str, fraction: float) -> bool:
    """Whether this question is one of about `fraction` of all that are held out: a hash of the normalised text alone
    says so, so that every stage that reads a question puts it on the same side."""
    return _hash(normalize_text(text)) < int(fraction * 2**64)


def _hash(text: str) -> int:
    """A whole number below 2**64."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def check_nonempty_splits(source: str, sizes: Sequence[int] | np.ndarray, how: str) -> None:
    """Raises InputError if a side is empty; `how` names the split."""
    if min(sizes) == 0:
        raise InputError(f"{source}: {sum(sizes)} questions cannot be split with {how}; both sides need at least one")
