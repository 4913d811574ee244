"""Load and validate questions; split them by question. Nothing here knows models or tokenizers."""

import hashlib
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet
from eightball_ppo.locations import local_path


@dataclass(frozen=True)
class Questions:
    """One split: `texts` [N] and, where the split is labelled, `label_ids` [N]; `source` names the origin."""

    source: str
    texts: list[str]
    label_ids: list[int] | None = None

    def __len__(self) -> int:
        return len(self.texts)

    def subset(self, rows: list[int]) -> "Questions":
        labels = None if self.label_ids is None else [self.label_ids[i] for i in rows]
        return Questions(self.source, [self.texts[i] for i in rows], labels)


def load_questions(
    dataset_name: str, split: str, text_column: str, label_column: str | None = None, labels: LabelSet | None = None
) -> Questions:
    """Read one split, `<dataset_name>/<split>.jsonl` locally or configuration `split` of a Hub dataset.

    Args:
        label_column: column with the label name, read only together with `labels`; None reads questions alone.

    Raises:
        InputError: a file that is missing, empty or not UTF-8, a row that is no JSON object, a column that is missing
            or blank, or a label outside `labels`; the message names the file, the row and the value.
    """
    path = local_path(dataset_name)
    source, rows = _local_rows(path, split) if path is not None else _hub_rows(dataset_name, split)
    texts: list[str] = []
    label_ids: list[int] = []
    for number, row in rows:
        where = f"{source}:{number}"
        texts.append(_text(row, text_column, where))
        if label_column is not None and labels is not None:
            name = _text(row, label_column, where)
            if name not in labels.names:
                raise InputError(
                    f"{where}: unknown label {name!r} in column {label_column!r}; known: {list(labels.names)}"
                )
            label_ids.append(labels.id_of(name))
    if not texts:
        raise InputError(f"{source}: no rows; at least one question is needed")
    return Questions(source, texts, label_ids if labels is not None and label_column is not None else None)


def _text(row: dict[str, Any], column: str, where: str) -> str:
    if column not in row:
        raise InputError(f"{where}: no column {column!r}; the row has {sorted(row)}")
    value = row[column]
    if not isinstance(value, str) or not value.strip():
        raise InputError(f"{where}: column {column!r} must be a non-blank string, got {value!r}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        raise InputError(f"{where}: column {column!r} holds half a surrogate pair, {value!r}; re-encode the file")
    return value.strip()


def _local_rows(directory: Path, split: str) -> tuple[str, Iterator[tuple[int, dict[str, Any]]]]:
    if not directory.is_dir():
        raise InputError(f"{directory}: no such dataset directory; pass --dataset_name")
    file = directory / f"{split}.jsonl"
    if not file.is_file():
        raise InputError(f"{file}: no such file; the dataset directory needs one {split}.jsonl")
    return str(file), _json_lines(file)


def _json_lines(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    with file.open("rb") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                raise InputError(
                    f"{file}:{number}: not UTF-8 ({error.reason} at byte {error.start}); re-encode the file"
                ) from None
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise InputError(f"{file}:{number}: not JSON ({error.msg} at column {error.colno})") from None
            if not isinstance(row, dict):
                raise InputError(f"{file}:{number}: a JSON object is needed, got {text.strip()[:60]}")
            yield number, row


def _hub_rows(dataset_name: str, split: str) -> tuple[str, Iterator[tuple[int, dict[str, Any]]]]:
    import datasets  # heavy

    try:
        table = datasets.load_dataset(dataset_name, split, split="train")
    except (
        OSError,
        ValueError,
        RuntimeError,
    ) as error:  # how `datasets` says: unreachable, unknown id, unknown configuration
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise InputError(
            f"{dataset_name}: neither a directory here nor a readable Hub dataset ({first_line})"
        ) from None
    return f"{dataset_name}[{split}]", enumerate(table, start=1)


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
    validation: set[str] = set()
    for label in sorted(set(labels)):
        own = {normalised(t) for t, y in zip(questions.texts, labels, strict=True) if y == label}
        ranked = sorted(own, key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
        validation.update(ranked[: round(validation_fraction * len(ranked))])
    sides: tuple[list[int], list[int]] = ([], [])
    for row, text in enumerate(questions.texts):
        sides[normalised(text) in validation].append(row)
    if not sides[0] or not sides[1]:
        raise InputError(
            f"{questions.source}: {len(questions)} questions cannot be split with a validation fraction of "
            f"{validation_fraction}; both sides need at least one"
        )
    return questions.subset(sides[0]), questions.subset(sides[1])
