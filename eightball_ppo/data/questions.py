"""Questions of a split, and splits by a hash of the text, so that duplicates land on one side."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from eightball_ppo.data.texts import ArrowTexts
from eightball_ppo.errors import InputError


@dataclass(frozen=True)
class Questions:
    """One split of a data set.

    Attributes:
        source: Where the questions come from, for messages.
        texts: N texts; a text pair is one string (see `data.pairs`).
        label_ids: N gold label ids, or None for an unlabelled split.
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
    """Lower case, letters and digits only, single spaces. Two questions are the same if these agree."""
    return " ".join(re.sub(r"[^\w\s]|_", " ", question.lower().replace("'", "")).split())


def split_by_question(questions: Questions, validation_fraction: float, seed: int) -> tuple[Questions, Questions]:
    """Splits into (train, validation), stratified by label; duplicates of a question land on one side.

    The split depends on the texts and the seed only, not on the order of the rows.

    Raises:
        InputError: One side would be empty.
    """
    hashes = (_hash(f"{seed}:{normalize_text(text)}") for text in questions.texts)
    hash_N = np.fromiter(hashes, np.uint64, len(questions))
    label_N = np.zeros(len(questions)) if questions.label_ids is None else np.array(questions.label_ids)
    validation_hashes = []
    for label in np.unique(label_N):
        ranked = np.unique(hash_N[label_N == label])
        validation_hashes.append(ranked[: round(validation_fraction * len(ranked))])
    validation_N = np.isin(hash_N, np.concatenate(validation_hashes))
    how = f"a validation fraction of {validation_fraction}"
    check_nonempty_splits(questions.source, np.bincount(validation_N, minlength=2), how)
    return questions.subset(np.flatnonzero(~validation_N)), questions.subset(np.flatnonzero(validation_N))


def held_out(text: str, fraction: float) -> bool:
    """Whether a question is among the held-out `fraction`.

    Depends on a hash of the normalized text only, so that every stage puts a question on the same side.
    """
    return _hash(normalize_text(text)) < int(fraction * 2**64)


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def check_nonempty_splits(source: str, sizes: Sequence[int] | np.ndarray, how: str) -> None:
    """Checks that no split is empty; `how` names the kind of split.

    Raises:
        InputError: A split is empty.
    """
    if min(sizes) == 0:
        raise InputError(f"{source}: {sum(sizes)} questions cannot be split with {how}; both sides need at least one")
