"""Grade tables: `grades.parquet`, one row for every (question, label), written from a source and read back as one."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import compress, islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Scale
from eightball_ppo.graders.storage.score_table import MAX_DETAILS, OK, SKIPPED, STATUSES, ScoreTable, skipped_cells_NK
from eightball_ppo.graders.storage.sources import GradeSource
from eightball_ppo.graders.storage.texts import first_occurrence_N
from eightball_ppo.graders.verbalizers import RATINGS
from eightball_ppo.labels import LabelSet

CHUNK_SIZE = 2048
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
    unique = compress(questions, first_occurrence_N(questions))
    names = list(source.labels.names)
    writer: pq.ParquetWriter | None = None
    try:
        while part := list(islice(unique, CHUNK_SIZE)):
            scores = source.read_chunk(part)
            assert scores.cells_NK is not None
            cells = scores.cells_NK.ravel()
            if writer is None:
                about = json.dumps(_about_of(source)).encode()
                writer = pq.ParquetWriter(file, _SCHEMA.with_metadata({_METADATA: about}))
            statuses = [STATUSES[code] for code in cells["status"]]
            count.update(statuses)
            details += scores.details[: MAX_DETAILS - len(details)]
            ok = cells["status"] == OK
            asked = cells["status"] != SKIPPED
            columns = [
                pa.array([question for question in part for _ in names]),
                pa.array(names * len(part)),
                pa.array(cells["score"], mask=~ok),
                pa.array(statuses).dictionary_encode().cast(_SCHEMA.field("status").type),
                pa.array([source.fingerprint] * len(statuses)).dictionary_encode().cast(_SCHEMA.field("grader").type),
                pa.array((cells["graded_at"] * 1e6).astype("int64"), _SCHEMA.field("graded_at").type, mask=~asked),
            ]
            writer.write_table(pa.Table.from_arrays(columns, schema=writer.schema))
    finally:
        if writer is not None:
            writer.close()
    return count, details


def _about_of(source: GradeSource) -> dict[str, Any]:
    """What a table's columns cannot say: a note in its metadata."""
    return {"scale": source.scale, "deliberate": source.deliberate, "made_of": source.fingerprints[1:]}


@dataclass
class GradeTable(GradeSource):
    """A grade table as a source: it asks nobody, and what it lacks is missing.

    Raises:
        InputError: no parquet file with these columns, several graders in one file, labels that are others, a
            (question, label) that stands twice, or scores that are no log-probabilities.
    """

    path: str
    labels: LabelSet

    def __post_init__(self) -> None:
        table = self._load()
        about = self._about(table.schema.metadata)
        self.scale: Scale = "rating" if about.get("scale") == "rating" else "log_prob"
        self.deliberate = bool(about.get("deliberate", False))
        graders = table["grader"].unique().to_pylist()
        if len(graders) != 1 or graders[0] is None:
            raise InputError(f"--grade_table {self.path}: {len(graders)} graders in one table; keep one of them")
        self.fingerprint = graders[0]
        self.fingerprints = (self.fingerprint, *map(str, about.get("made_of", ())))
        self.settings = {"grader": self.fingerprint, "grade_table": self.path}
        found = set(table["label"].unique().to_pylist())
        if found != set(self.labels.names):
            raise InputError(
                f"--grade_table {self.path}: has the labels {sorted(map(str, found))}, --labels are "
                f"{list(self.labels.names)}; the same are needed"
            )
        self._rows: dict[str, dict[str, tuple[int, float]]] = {}  # by question and label: position in STATUSES, score
        columns = (table[name].to_pylist() for name in ("question", "label", "status", "score"))
        for question, label, status, score in zip(*columns, strict=True):
            if not isinstance(question, str):
                raise InputError(f"--grade_table {self.path}: a row has the question {question!r}; a text is needed")
            row = self._rows.setdefault(question, {})
            if label in row:
                raise InputError(f"--grade_table {self.path}: ({question!r}, {label!r}) stands twice")
            row[label] = self._cell(f"({question!r}, {label!r})", status, score)
        for question, row in self._rows.items():
            self._check_sum(question, row)

    def _cell(self, where: str, status: str, score: float | None) -> tuple[int, float]:
        """Status and score of one row, checked."""
        if status not in STATUSES or (status == "ok") != (score is not None and bool(np.isfinite(score))):
            raise InputError(
                f"--grade_table {self.path}: {where} has status {status!r} and score {score}; a row has a finite score "
                "if and only if its status is ok"
            )
        if score is not None and self.scale == "rating" and not RATINGS[0] <= score <= RATINGS[-1]:
            raise InputError(f"--grade_table {self.path}: {where} has the rating {score}; ratings are 1 to 10")
        return STATUSES.index(status), np.nan if score is None else score

    def _check_sum(self, question: str, row: dict[str, tuple[int, float]]) -> None:
        """Raises InputError if a whole row of log-probabilities is none."""
        whole = len(row) == len(self.labels) and all(status == OK for status, _ in row.values())
        if self.scale == "rating" or not whole:
            return
        total = float(np.exp([score for _, score in row.values()]).sum())
        if abs(total - 1) > SUMS_TO_ONE:
            raise InputError(
                f"--grade_table {self.path}: the scores of {question!r} are no log-probabilities, their exp sums to "
                f"{total:.3g}"
            )

    def _load(self) -> pa.Table:
        try:
            table = pq.read_table(self.path)
        except FileNotFoundError:
            raise InputError(f"--grade_table {self.path}: no such file") from None
        except (OSError, ValueError, pa.ArrowException) as error:
            raise InputError(f"--grade_table {self.path}: not a readable parquet file ({error})") from None
        missing = {"question", "label", "score", "status", "grader"} - set(table.column_names)
        if missing:
            raise InputError(
                f"--grade_table {self.path}: no column {sorted(missing)[0]!r}; scripts/grade.py writes one"
            )
        if not (pa.types.is_floating(kind := table.schema.field("score").type) or pa.types.is_null(kind)):
            raise InputError(
                f"--grade_table {self.path}: column 'score' holds {kind}, floating-point numbers are needed"
            )
        return table

    def _about(self, metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
        """What `write_table` noted in the file; {} for a file of somebody else."""
        try:
            about = json.loads((metadata or {}).get(_METADATA, b"{}"))
        except ValueError:
            about = None
        if not isinstance(about, dict):
            raise InputError(f"--grade_table {self.path}: its metadata {_METADATA.decode()!r} are damaged")
        return about

    def estimate_cost(self, questions: Sequence[str]) -> tuple[int, int]:
        return 0, 0

    def grade_missing(self, questions: Sequence[str]) -> None:
        """Check that every question stands in the table, with whatever status.

        Raises:
            InputError: a question that does not.
        """
        lost = [question for question in questions if question not in self._rows]
        if lost:
            raise InputError(
                f"--grade_table {self.path}: lacks {len(lost)} of {len(questions)} questions (e.g. {lost[0]!r}): "
                "made from other data?"
            )

    def read_chunk(self, questions: Sequence[str]) -> ScoreTable:
        cells_NK = skipped_cells_NK(len(questions), len(self.labels))
        for row, question in enumerate(questions):
            for label, (status, score) in self._rows.get(question, {}).items():
                column = self.labels.id_of(label)
                cells_NK["status"][row, column], cells_NK["score"][row, column] = status, score
        asked_NK = cells_NK["status"] != SKIPPED
        calls = int(asked_NK.sum()) if self.scale == "rating" else int(asked_NK.any(1).sum())
        return ScoreTable.of_cells(cells_NK, self.scale, calls, (), 0, np.empty(0))
