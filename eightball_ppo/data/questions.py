"""Questions of a split, and splits by a hash of the text, so that duplicates land on one side."""

import hashlib
import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from eightball_ppo.data.texts import ArrowTexts
from eightball_ppo.errors import InputError

logger = logging.getLogger(__name__)
DROPPED = ("bad_rows", "unlabelled_rows", "leaked_questions")  # reasons to leave out a row
HELD_OUT = 0.2  # share of the training questions that is held out where the data have no split to measure on


@dataclass(frozen=True)
class Questions:
    """One split of a data set.

    Attributes:
        source: Where the questions come from, for messages.
        texts: N texts; a text pair is one string (see `data.pairs`).
        label_ids: N label ids, or None for an unlabelled split.
        columns: The other columns of the rows, N values each, where a judge takes them.
        gold: Whether the labels are gold. Those of a part that was cut from the training file are not.
        dropped: Numbers of rows that were left out, by reason, one of `DROPPED`.
    """

    source: str
    texts: Sequence[str]
    label_ids: list[int] | None = None
    columns: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    gold: bool = True
    dropped: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, rows: Sequence[int] | np.ndarray) -> "Questions":
        """The questions of `rows`, in that order."""
        labels = None if self.label_ids is None else [self.label_ids[i] for i in rows]
        texts = self.texts.take(rows) if isinstance(self.texts, ArrowTexts) else [self.texts[i] for i in rows]
        columns = {name: [values[i] for i in rows] for name, values in self.columns.items()}
        return replace(self, texts=texts, label_ids=labels, columns=columns)

    def without_labels(self) -> "Questions":
        """The same questions, unlabelled."""
        return replace(self, label_ids=None)

    def dropping(self, reason: str, count: int) -> "Questions":
        """The same questions, with `count` more rows that were left out for `reason`."""
        return replace(self, dropped={**self.dropped, reason: self.dropped.get(reason, 0) + count}) if count else self

    def joined(self, other: "Questions") -> "Questions":
        """These questions and then those of `other`, unlabelled."""
        if not len(other):
            return self.without_labels()
        texts = ArrowTexts.concatenate([self.texts, other.texts])
        columns = {name: [*values, *other.columns[name]] for name, values in self.columns.items()}
        return replace(self, texts=texts, label_ids=None, columns=columns)


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


def _question_hashes(questions: Questions) -> np.ndarray:
    return np.fromiter((_hash(normalize_text(text)) for text in questions.texts), np.uint64, len(questions))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")


def count_dropped(splits: Iterable[Questions]) -> dict[str, int]:
    """The rows that were left out of the splits, by reason, for results.json."""
    counts = dict.fromkeys(DROPPED, 0)
    for reason, count in (pair for split in splits for pair in split.dropped.items()):
        counts[reason] += count
    return counts


def cut_held_out(questions: Questions, fraction: float = HELD_OUT) -> tuple[Questions, Questions]:
    """Cuts (train, held-out part) by `held_out`; the labels of the held-out part are not gold.

    Raises:
        InputError: One side would be empty.
    """
    held_out_N = np.fromiter((held_out(text, fraction) for text in questions.texts), bool, len(questions))
    check_nonempty_splits(questions.source, np.bincount(held_out_N, minlength=2), f"a held-out part of {fraction}")
    train, heldout = (questions.subset(np.flatnonzero(side_N)) for side_N in (~held_out_N, held_out_N))
    return train, replace(heldout, gold=False, dropped={})


def drop_leaks(train: Questions, heldout: Questions) -> Questions:
    """The training questions that are not among the held-out ones, case and punctuation ignored.

    Raises:
        InputError: No training question is left.
    """
    kept_N = ~np.isin(_question_hashes(train), _question_hashes(heldout))
    leaked = len(train) - int(kept_N.sum())
    if not leaked:
        return train
    where = f"{train.source}: {leaked} of {len(train)} training questions are held-out questions of {heldout.source}"
    if leaked == len(train):
        raise InputError(f"{where}; pass other questions to learn from")
    logger.warning("%s; they are left out of training", where)
    return train.subset(np.flatnonzero(kept_N)).dropping("leaked_questions", leaked)


def check_nonempty_splits(source: str, sizes: Sequence[int] | np.ndarray, how: str) -> None:
    """Checks that no split is empty; `how` names the kind of split.

    Raises:
        InputError: A split is empty.
    """
    if min(sizes) == 0:
        raise InputError(f"{source}: {sum(sizes)} questions cannot be split with {how}; both sides need at least one")
