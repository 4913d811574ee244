"""Questions, and how they are split: by their text, so that a question that stands twice lands on one side."""

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from eightball_ppo.data.texts import Texts
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

    def subset(self, rows: Sequence[int]) -> "Questions":
        """The questions of `rows`, in that order."""
        labels = None if self.label_ids is None else [self.label_ids[i] for i in rows]
        texts = self.texts.take(rows) if isinstance(self.texts, Texts) else [self.texts[i] for i in rows]
        return Questions(self.source, texts, labels)


def normalised(question: str) -> str:
    """Lower case, letters and digits alone, single spaces: two questions are the same if these agree."""
    return " ".join(re.sub(r"[^\w\s]|_", " ", question.lower().replace("'", "")).split())


def split_by_question(questions: Questions, validation_fraction: float, seed: int) -> tuple[Questions, Questions]:
    """(train, validation), stratified by label; a question that stands twice lands on one side.

    The choice depends on each question's text and `seed` alone, not on the order of the rows.

    Raises:
        InputError: one side would be empty.
    """
    labels = questions.label_ids or [0] * len(questions)
    keys = [normalised(text) for text in questions.texts]
    own: dict[int, set[str]] = {}
    for key, label in zip(keys, labels, strict=True):
        own.setdefault(label, set()).add(key)
    validation: set[str] = set()
    for label in sorted(own):
        ranked = sorted(own[label], key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
        validation.update(ranked[: round(validation_fraction * len(ranked))])
    return _sides(questions, [key in validation for key in keys], f"a validation fraction of {validation_fraction}")


def hold_out(questions: Questions, fraction: float) -> tuple[Questions, Questions]:
    """(train, heldout): about `fraction` of the questions are held out, by a hash of the normalised text alone, so that
    every stage that reads a question puts it on the same side.

    Raises:
        InputError: one side would be empty.
    """
    least = int(fraction * 2**64)
    digests = (hashlib.sha256(normalised(text).encode()).digest() for text in questions.texts)
    held = [int.from_bytes(digest[:8], "big") < least for digest in digests]
    return _sides(questions, held, f"--dataset_test_split {fraction}")


def _sides(questions: Questions, second: Sequence[bool], how: str) -> tuple[Questions, Questions]:
    """(the rows where `second` is False, those where it is True); `how` names the split in the error."""
    sides: tuple[list[int], list[int]] = ([], [])
    for row, side in enumerate(second):
        sides[side].append(row)
    if not sides[0] or not sides[1]:
        raise InputError(
            f"{questions.source}: {len(questions)} questions cannot be split with {how}; both sides need at least one"
        )
    return questions.subset(sides[0]), questions.subset(sides[1])
