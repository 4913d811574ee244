"""Grade tables: `grades.parquet`, one row for every (question, label), written from a source and read back as one."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Scale
from eightball_ppo.graders.sources import OK, SKIPPED, STATUSES, Grades, GradeSource
from eightball_ppo.labels import LabelSet

QUESTIONS_AT_ONCE = 2048
SUMS_TO_ONE = 0.01  # how far the probabilities of a question's labels may be from 1 in all
_METADATA = b"eightball_ppo"
_SCHEMA = pa.schema(
    [
        ("question", pa.string()),
        ("label", pa.string()),
        ("score", pa.float64()),
        ("status", pa.dictionary(pa.int8(), pa.string())),
        ("grader", pa.dictionary(pa.int8(), pa.string())),
        ("graded_at", pa.timestamp("us", tz="UTC")),
    ]
)


def write_table(source: GradeSource, questions: Sequence[str], file: Path) -> tuple[Counter[str], list[str]]:
    """Export the grades of `questions`, each once, in their order; returns how many rows have each
    status, and some of what went wrong.

    `score` is the label's log-probability (or its rating, which the file's metadata then say), null unless ok.
    """
    count: Counter[str] = Counter()
    details: list[str] = []
    unique = list(dict.fromkeys(questions))
    names = list(source.labels.names)
    writer: pq.ParquetWriter | None = None
    try:
        for start in range(0, len(unique), QUESTIONS_AT_ONCE):
            part = unique[start : start + QUESTIONS_AT_ONCE]
            grades = source.read(part)
            if writer is None:
                about = json.dumps({"scale": grades.scale, "deliberate": source.deliberate}).encode()
                writer = pq.ParquetWriter(file, _SCHEMA.with_metadata({_METADATA: about}))
            statuses = [STATUSES[code] for code in grades.status_NK.ravel()]
            count.update(statuses)
            details += grades.details[: 3 - len(details)]
            ok = grades.status_NK.ravel() == OK
            asked = grades.status_NK.ravel() != SKIPPED
            columns = [
                pa.array([question for question in part for _ in names]),
                pa.array(names * len(part)),
                pa.array(grades.score_NK.double().numpy().ravel(), mask=~ok),
                pa.array(statuses).dictionary_encode().cast(_SCHEMA.field("status").type),
                pa.array([source.fingerprint] * len(statuses)).dictionary_encode().cast(_SCHEMA.field("grader").type),
                pa.array(
                    (grades.graded_at_NK.ravel() * 1e6).astype("int64"), _SCHEMA.field("graded_at").type, mask=~asked
                ),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=writer.schema))
    finally:
        if writer is not None:
            writer.close()
    return count, details


@dataclass
class GradeTable:
    """A grade table as a source: it asks nobody, and what it lacks is missing.

    Raises:
        InputError: no parquet file with these columns, several graders in one file, labels that are others, a
            (question, label) that stands twice, or scores that are no log-probabilities.
    """

    path: str
    labels: LabelSet

    def __post_init__(self) -> None:
        table = self._load()
        about = json.loads((table.schema.metadata or {}).get(_METADATA, b"{}"))
        self.scale: Scale = "rating" if about.get("scale") == "rating" else "log_prob"
        self.deliberate = bool(about.get("deliberate", False))
        graders = table["grader"].unique().to_pylist()
        if len(graders) != 1:
            raise InputError(f"--grade_table {self.path}: {len(graders)} graders in one table; keep one of them")
        self.fingerprint = str(graders[0])
        self.settings = {"grader": self.fingerprint, "grade_table": self.path}
        found = set(table["label"].unique().to_pylist())
        if found != set(self.labels.names):
            raise InputError(
                f"--grade_table {self.path}: has the labels {sorted(map(str, found))}, --labels are "
                f"{list(self.labels.names)}; the same are needed"
            )
        self._rows: dict[tuple[str, str], tuple[str, float]] = {}
        columns = (table[name].to_pylist() for name in ("question", "label", "status", "score"))
        for question, label, status, score in zip(*columns, strict=True):
            if (question, label) in self._rows:
                raise InputError(f"--grade_table {self.path}: ({question!r}, {label!r}) stands twice")
            if status not in STATUSES or (status == "ok") != (score is not None and bool(np.isfinite(score))):
                raise InputError(
                    f"--grade_table {self.path}: ({question!r}, {label!r}) has status {status!r} and score {score}; "
                    "a row has a finite score if and only if its status is ok"
                )
            self._rows[question, label] = (status, np.nan if score is None else score)

    def _load(self) -> pa.Table:
        try:
            table = pq.read_table(self.path)
        except (OSError, pa.ArrowException) as error:
            raise InputError(f"--grade_table {self.path}: not a readable parquet file ({error})") from None
        missing = {"question", "label", "score", "status", "grader"} - set(table.column_names)
        if missing:
            raise InputError(
                f"--grade_table {self.path}: no column {sorted(missing)[0]!r}; scripts/grade.py writes one"
            )
        return table

    def outlook(self, questions: Sequence[str]) -> tuple[int, int]:
        return 0, 0

    def fill(self, questions: Sequence[str]) -> None:
        """Check that every question stands in the table, with whatever status.

        Raises:
            InputError: a question that does not.
        """
        lost = [question for question in questions if (question, self.labels.names[0]) not in self._rows]
        if lost:
            raise InputError(
                f"--grade_table {self.path}: lacks {len(lost)} of {len(questions)} questions (e.g. {lost[0]!r}): "
                "made from other data?"
            )

    def read(self, questions: Sequence[str]) -> Grades:
        shape = (len(questions), len(self.labels))
        score_NK, status_NK = np.full(shape, np.nan), np.full(shape, SKIPPED, dtype=np.int8)
        for row, question in enumerate(questions):
            for k, label in enumerate(self.labels.names):
                if (found := self._rows.get((question, label))) is not None:
                    status_NK[row, k], score_NK[row, k] = STATUSES.index(found[0]), found[1]
            total = np.exp(score_NK[row]).sum()
            if self.scale == "log_prob" and (status_NK[row] == OK).all() and abs(total - 1) > SUMS_TO_ONE:
                raise InputError(
                    f"--grade_table {self.path}: the scores of {question!r} are no log-probabilities, their exp sums "
                    f"to {total:.3g}"
                )
        asks = int((status_NK != SKIPPED).sum()) if self.scale == "rating" else int((status_NK[:, 0] != SKIPPED).sum())
        return Grades(self.scale, torch.from_numpy(score_NK), status_NK, np.zeros(shape), calls=asks)
