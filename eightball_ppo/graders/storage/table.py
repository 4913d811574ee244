"""Grade tables: `grades.parquet`, one row for every (question, label), written from a source and read back as one."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from itertools import compress
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from eightball_ppo.data.texts import first_occurrence_N
from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Scale, batched
from eightball_ppo.graders.storage.score_table import MAX_DETAILS, OK, SKIPPED, STATUSES, ScoreTable, skipped_cells_NK
from eightball_ppo.graders.storage.sources import CHUNK_SIZE, GradeSource
from eightball_ppo.graders.verbalizers import RATINGS
from eightball_ppo.labels import LabelSet

SUM_TOLERANCE = 0.01  # how far the sum of a question's probabilities may be from 1
_METADATA = b"eightball_ppo"
_TEXT, _CATEGORY, _TIME = pa.string(), pa.dictionary(pa.int8(), pa.string()), pa.timestamp("us", tz="UTC")
_SCHEMA = pa.schema(
    {"question": _TEXT, "label": _TEXT, "score": pa.float64(), "status": _CATEGORY, "grader": _CATEGORY}
    | {"graded_at": _TIME}
)


def write_table(source: GradeSource, questions: Sequence[str], file: Path) -> tuple[Counter[str], list[str]]:
    """Exports the grades of the distinct questions, in their order.

    The column `score` holds log-probabilities (or ratings or raw scores, as the file's metadata say), null unless the
    status is ok.

    Returns:
        Number of rows by status, and up to three failures.
    """
    count: Counter[str] = Counter()
    details: list[str] = []
    names = list(source.labels.names)
    note: dict[str, Any] = {"scale": source.scale, "rated": source.rated, "deliberate": source.deliberate}
    note |= {"made_of": source.fingerprints[1:]}
    schema = _SCHEMA.with_metadata({_METADATA: json.dumps(note).encode()})
    with pq.ParquetWriter(file, schema) as writer:
        for chunk in batched(compress(questions, first_occurrence_N(questions)), CHUNK_SIZE):
            scores = source.read_chunk(chunk)
            assert scores.cells_NK is not None
            cells = scores.cells_NK.ravel()
            count.update(scores.count)
            details += scores.details[: MAX_DETAILS - len(details)]
            microseconds = (cells["graded_at"] * 1e6).astype("int64")
            columns = {
                "question": [question for question in chunk for _ in names],
                "label": names * len(chunk),
                "score": pa.array(cells["score"], mask=cells["status"] != OK),
                "status": [STATUSES[code] for code in cells["status"]],
                "grader": [source.fingerprint] * len(cells),
                "graded_at": pa.array(microseconds, _TIME, mask=cells["status"] == SKIPPED),
            }
            writer.write_table(pa.table(columns, schema=schema))
    return count, details


class GradeTable(GradeSource):
    """A grade table as a source, which makes no grader call.

    Args:
        path: A parquet file with the columns of `write_table`.
        labels: The K labels, in any order; the source has them in the order of the file.

    Raises:
        InputError: Not such a file, several graders or other labels in it, a duplicate (question, label), or scores
            that are not log-probabilities.
    """

    def __init__(self, path: str, labels: LabelSet):
        self.path = path
        table = self._load()
        note = self._note(table.schema.metadata)
        self.scale = next((scale for scale in get_args(Scale) if scale == note.get("scale")), "log_prob")
        self.rated = bool(note.get("rated", self.scale == "rating"))
        self.deliberate = bool(note.get("deliberate", False))
        graders = table["grader"].unique().to_pylist()
        if len(graders) != 1 or graders[0] is None:
            raise self._error(f"{len(graders)} graders in one table; keep one of them")
        self.fingerprint = graders[0]
        self.audited_as = self.fingerprint
        self.fingerprints = (self.fingerprint, *map(str, note.get("made_of", ())))
        self.settings = {"grader": self.fingerprint, "grade_table": path}
        found = set(table["label"].unique().to_pylist())
        if found != set(labels.names):
            names = f"has the labels {sorted(map(str, found))}, --labels are {list(labels.names)}"
            raise self._error(f"{names}; the same are needed")
        self.labels = LabelSet.of(table["label"].unique().to_pylist())
        self._row_of: dict[str, int] = {}
        self._cells_NK = self._read_cells(table)

    def _error(self, problem: str) -> InputError:
        return InputError(f"--grade_table {self.path}: {problem}")

    def _load(self) -> pa.Table:
        try:
            table = pq.read_table(self.path)
        except FileNotFoundError:
            raise self._error("no such file") from None
        except (OSError, ValueError, pa.ArrowException) as error:
            raise self._error(f"not a readable parquet file ({error})") from None
        if missing := {"question", "label", "score", "status", "grader"} - set(table.column_names):
            raise self._error(f"no column {min(missing)!r}; eightball grade writes one")
        if not (pa.types.is_floating(kind := table.schema.field("score").type) or pa.types.is_null(kind)):
            raise self._error(f"column 'score' holds {kind}, floating-point numbers are needed")
        return table

    def _note(self, metadata: dict[bytes, bytes] | None) -> dict[str, Any]:
        """The metadata of `write_table`; {} for a file of another tool."""
        try:
            note = json.loads((metadata or {}).get(_METADATA, b"{}"))
        except ValueError:
            note = None
        if not isinstance(note, dict):
            raise self._error(f"its metadata {_METADATA.decode()!r} are damaged")
        return note

    def _read_cells(self, table: pa.Table) -> np.ndarray:
        """The checked cells of the table; fills `_row_of`. The last row is for questions that are not in it."""
        columns = [table[name].to_pylist() for name in ("question", "label", "status", "score")]
        for pair, count in Counter(zip(*columns[:2], strict=True)).items():
            if not isinstance(pair[0], str):
                raise self._error(f"a row has the question {pair[0]!r}; a text is needed")
            if count > 1:
                raise self._error(f"{pair} occurs {count} times")
        self._row_of = {question: row for row, question in enumerate(dict.fromkeys(columns[0]))}
        cells_NK = skipped_cells_NK(len(self._row_of) + 1, len(self.labels))
        for question, label, status, score in zip(*columns, strict=True):
            where = f"({question!r}, {label!r}) has"
            if status not in STATUSES or (status == "ok") != (score is not None and math.isfinite(score)):
                rule = "a row has a finite score if and only if its status is ok"
                raise self._error(f"{where} status {status!r} and score {score}; {rule}")
            if score is not None and self.scale == "rating" and not RATINGS[0] <= score <= RATINGS[-1]:
                raise self._error(f"{where} the rating {score}; ratings are 1 to 10")
            cell = self._row_of[question], self.labels.id_of(label)
            cells_NK["status"][cell] = STATUSES.index(status)
            cells_NK["score"][cell] = math.nan if score is None else score
        if self.scale == "log_prob":
            total_N = np.exp(cells_NK["score"]).sum(1)  # NaN if the question is not complete
            for question, total in zip(self._row_of, total_N, strict=False):
                if abs(total - 1) > SUM_TOLERANCE:
                    wrong = f"the scores of {question!r} are no log-probabilities, their exp sums to {total:.3g}"
                    raise self._error(wrong)
        return cells_NK

    def num_requests(self, questions: int) -> int:
        """See `GradeSource.num_requests`."""
        return 0

    def estimate_cost(self, questions: Sequence[str]) -> tuple[int, int]:
        """See `GradeSource.estimate_cost`."""
        return 0, 0

    def grade_missing(self, questions: Sequence[str]) -> None:
        """Checks that the table has every question, whatever its status.

        Raises:
            InputError: A question is not in the table.
        """
        lost = [question for question in questions if question not in self._row_of]
        if lost:
            found = f"lacks {len(lost)} of {len(questions)} questions (e.g. {lost[0]!r})"
            raise self._error(f"{found}: made from other data?")

    def read_chunk(self, questions: Sequence[str]) -> ScoreTable:
        """See `GradeSource.read_chunk`."""
        cells_NK = self._cells_NK[[self._row_of.get(question, -1) for question in questions]]
        requested_NK = cells_NK["status"] != SKIPPED
        calls = int(requested_NK.sum()) if self.scale == "rating" else int(requested_NK.any(1).sum())
        return ScoreTable.from_cells(cells_NK, self.scale, calls, (), 0, np.empty(0))
