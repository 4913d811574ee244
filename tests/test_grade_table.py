"""Grade tables: written grades are read back exactly, and a bad table is refused in one line."""

import json
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conftest import cells
from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Scale
from eightball_ppo.graders.storage import table
from eightball_ppo.graders.storage.derived import reorder
from eightball_ppo.graders.storage.score_table import SKIPPED, STATUSES, ScoreTable, skipped_cells_NK
from eightball_ppo.graders.storage.sources import GradeSource
from eightball_ppo.graders.storage.table import GradeTable, write_table
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

LABELS = LabelSet.of(EIGHTBALL_LABELS)
COLUMNS = ["question", "label", "score", "status", "grader", "graded_at"]


class RandomSource(GradeSource):
    """A source of random grades that depend on the question; `bad`: the statuses of questions that failed."""

    labels = LABELS
    fingerprint = "made:of:numbers"
    fingerprints: tuple[str, ...] = ("made:of:numbers",)
    settings: dict[str, Any] = {}  # noqa: RUF012 - an attribute of every source

    def __init__(
        self, scale: Scale = "log_prob", bad: Mapping[str, Sequence[str]] | None = None, deliberate: bool = False
    ):
        self.scale, self.bad, self.deliberate = scale, bad or {}, deliberate
        self.reads: list[int] = []

    def grade_missing(self, questions: Sequence[str]) -> None:
        raise AssertionError("writing a table grades nothing")

    def estimate_cost(self, questions: Sequence[str]) -> tuple[int, int]:
        raise AssertionError("writing a table grades nothing")

    def read_chunk(self, questions: Sequence[str]) -> ScoreTable:
        self.reads.append(len(questions))
        cells_NK = skipped_cells_NK(len(questions), 3)
        score_NK, status_NK = cells_NK["score"], cells_NK["status"]
        status_NK[:] = 0
        for row, question in enumerate(questions):
            random_K = np.random.default_rng(sum(question.encode()) + len(question)).normal(size=3)
            score_NK[row] = random_K - np.log(np.exp(random_K).sum()) if self.scale == "log_prob" else 5.5 + random_K
            for k, status in enumerate(self.bad.get(question, ())):
                status_NK[row, k] = STATUSES.index(status)
        score_NK[status_NK != 0] = np.nan
        cells_NK["graded_at"] = np.where(status_NK == SKIPPED, 0, 1_700_000_000.25)
        details = tuple(f"{question}: it failed" for question in questions if question in self.bad)
        return ScoreTable.from_cells(cells_NK, self.scale, len(questions), details, 0, np.empty(0))


QUESTIONS = ["Will it rain?", "Is\nthis 'one' line?", "子供? 👍", "", "Failed?", "Refused?", "Skipped?", "\x00"]
BAD = {"Failed?": ["failed"] * 3, "Refused?": ["refused"] * 3, "Skipped?": ["skipped"] * 3}
BAD_RATINGS = {"Failed?": ["ok", "failed", "ok"], "Refused?": ["refused", "ok", "skipped"], "Skipped?": ["skipped"] * 3}


def assert_same(first: ScoreTable, second: ScoreTable) -> None:
    """The same statuses and scores, to the bit."""
    np.testing.assert_array_equal(cells(first, "status"), cells(second, "status"))
    np.testing.assert_array_equal(cells(first, "score"), cells(second, "score"))
    np.testing.assert_array_equal(first.logp_NK.numpy(), second.logp_NK.numpy())
    assert first.count == second.count and (first.complete_N == second.complete_N).all()


@pytest.mark.parametrize(("scale", "bad"), [("log_prob", BAD), ("rating", BAD_RATINGS)])
def test_written_grades_are_read_back(tmp_path: Path, scale: Scale, bad: Mapping[str, Sequence[str]]) -> None:
    source, file = RandomSource(scale, bad, deliberate=scale == "rating"), tmp_path / "grades.parquet"
    count, details = write_table(source, QUESTIONS, file)
    written = source.read_chunk(QUESTIONS)
    assert count == written.count and details == list(written.details)
    back = GradeTable(str(file), LABELS)
    assert back.scale == source.scale
    assert (back.fingerprint, back.deliberate, back.labels) == (source.fingerprint, source.deliberate, LABELS)
    assert back.settings == {"grader": source.fingerprint, "grade_table": str(file)}
    assert back.estimate_cost(QUESTIONS) == (0, 0)
    back.fill(QUESTIONS)
    assert_same(back.read_chunk(QUESTIONS), written)
    assert_same(back.read_chunk([*QUESTIONS[::-1], QUESTIONS[0]]), source.read_chunk([*QUESTIONS[::-1], QUESTIONS[0]]))
    assert back.read(QUESTIONS).calls == (7 if scale == "log_prob" else 24 - 4)


def test_columns_types_and_order_of_the_file(tmp_path: Path) -> None:
    file = tmp_path / "grades.parquet"
    write_table(RandomSource(bad=BAD), QUESTIONS, file)
    rows = pq.read_table(file)
    assert rows.column_names == COLUMNS
    types = {name: str(rows.schema.field(name).type) for name in COLUMNS}
    assert (types["question"], types["score"], types["graded_at"]) == ("string", "double", "timestamp[us, tz=UTC]")
    assert rows["question"].to_pylist() == [question for question in QUESTIONS for _ in EIGHTBALL_LABELS]
    assert rows["label"].to_pylist() == list(EIGHTBALL_LABELS) * len(QUESTIONS)
    assert set(rows["grader"].to_pylist()) == {"made:of:numbers"}
    for row in rows.to_pylist():
        status = BAD.get(row["question"], ["ok"])[0]
        assert row["status"] == status and (row["score"] is None) == (status != "ok")
        assert (row["graded_at"] is None) == (status == "skipped")
        assert row["graded_at"] is None or row["graded_at"].isoformat() == "2023-11-14T22:13:20.250000+00:00"
    scores = [row["score"] for row in rows.to_pylist() if row["score"] is not None]
    assert all(map(math.isfinite, scores))


def test_writing_goes_in_chunks_and_skips_duplicates(tmp_path: Path) -> None:
    many = [f"Is it {number}?" for number in range(table.CHUNK_SIZE + 5)]
    source = RandomSource(bad={many[-1]: ["failed"] * 3, many[0]: ["refused"] * 3})
    count, details = write_table(source, [*many, *many[::-1]], tmp_path / "grades.parquet")
    assert source.reads == [table.CHUNK_SIZE, 5]
    assert count == Counter({"ok": 3 * (len(many) - 2), "failed": 3, "refused": 3})
    assert details == [f"{many[0]}: it failed", f"{many[-1]}: it failed"]
    rows = pq.read_table(tmp_path / "grades.parquet")
    assert rows["question"].to_pylist()[::3] == many
    assert_same(GradeTable(str(tmp_path / "grades.parquet"), LABELS).read_chunk(many), source.read_chunk(many))


def test_reading_ignores_the_order_of_rows_and_labels_in_the_file(tmp_path: Path) -> None:
    source, file = RandomSource(), tmp_path / "grades.parquet"
    write_table(source, QUESTIONS, file)
    rows = pq.read_table(file)
    pq.write_table(rows.take(list(range(len(rows)))[::-1]), file)
    assert_same(reorder(GradeTable(str(file), LABELS), LABELS).read_chunk(QUESTIONS), source.read_chunk(QUESTIONS))
    wanted = LabelSet.of(["Maybe", "Yes", "No"])
    other = reorder(GradeTable(str(file), wanted), wanted).read_chunk(QUESTIONS)
    np.testing.assert_array_equal(cells(other, "score"), cells(source.read_chunk(QUESTIONS), "score")[:, [2, 0, 1]])


HALF, QUARTER = math.log(0.5), math.log(0.25)
ROWS: dict[str, list[Any]] = {
    "question": ["a"] * 3 + ["b"] * 3,
    "label": [*EIGHTBALL_LABELS] * 2,
    "score": [HALF, QUARTER, QUARTER] * 2,
    "status": ["ok"] * 6,
    "grader": ["g"] * 6,
}


def write(directory: Path, about: bytes | None = None, /, **columns: list[Any] | None) -> str:
    """A table of `ROWS` with some columns replaced, or left out where they are None."""
    content = {name: values for name, values in {**ROWS, **columns}.items() if values is not None}
    rows = pa.table(content).replace_schema_metadata({} if about is None else {b"eightball_ppo": about})
    pq.write_table(rows, directory / "grades.parquet")
    return str(directory / "grades.parquet")


def refusal(path: str, questions: Sequence[str] = ("a", "b")) -> str:
    """The message, one line, when these questions are read from a bad table."""
    with pytest.raises(InputError) as caught:
        source = GradeTable(path, LABELS)
        source.fill(questions)
        source.read(questions)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"--grade_table {path}: ")
    return str(caught.value)


def test_a_table_without_metadata_is_read(tmp_path: Path) -> None:
    source = GradeTable(write(tmp_path), LABELS)
    source.fill(["a", "b"])
    grades = source.read_chunk(["b"])
    assert source.scale == "log_prob" and not source.deliberate
    assert cells(grades, "score").tolist() == [ROWS["score"][:3]]


def test_files_that_are_no_table_are_refused(tmp_path: Path) -> None:
    (tmp_path / "grades.csv").write_text("question,label\n" * 100, encoding="utf-8")
    (tmp_path / "empty.parquet").touch()
    content = Path(write(tmp_path)).read_bytes()
    (tmp_path / "half.parquet").write_bytes(content[: len(content) // 2])
    assert refusal(str(tmp_path / "nowhere.parquet")).endswith("nowhere.parquet: no such file")
    for name in ("grades.csv", "empty.parquet", "half.parquet"):
        assert "not a readable parquet file (" in refusal(str(tmp_path / name))


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        *[({column: None}, f"no column {column!r}") for column in ROWS],
        ({"score": ["high"] * 6}, "holds string, floating-point numbers are needed"),
        ({"grader": ["g"] * 3 + ["h"] * 3}, "2 graders in one table; keep one of them"),
        (
            {"label": ["Yes", "No", "Perhaps"] * 2},
            "has the labels ['No', 'Perhaps', 'Yes'], --labels are ['Yes', 'No',",
        ),
        ({"label": ["Yes", "No", "No"] * 2}, "has the labels ['No', 'Yes'], --labels are"),
        ({"question": ["a", "b", "a", "b", "b", "b"]}, "('b', 'No')"),
        ({"score": [*ROWS["score"][:4], None, QUARTER]}, "('b', 'No') has status 'ok' and score None"),
        ({"score": [0.0, -math.inf, -50.0, *ROWS["score"][:3]]}, "('a', 'No') has status 'ok' and score -inf"),
        ({"status": ["ok", "failed", *["ok"] * 4]}, f"('a', 'No') has status 'failed' and score {QUARTER}"),
        ({"status": ["ok", "good", *["ok"] * 4]}, "('a', 'No') has status 'good' and score"),
        ({"score": [0.5, 0.25, 0.25] * 2}, "the scores of 'a' are no log-probabilities, their exp sums to 4.22"),
        ({"score": [HALF, QUARTER, QUARTER, 7.0, 3.0, 1.0]}, "the scores of 'b' are no log-probabilities"),
        ({"question": ["a"] * 3 + ["c"] * 3}, "lacks 1 of 2 questions (e.g. 'b'): made from other data?"),
        ({name: values[:0] for name, values in ROWS.items()}, "0 graders in one table"),
    ],
)
def test_a_bad_table_is_refused_in_one_line(tmp_path: Path, columns: dict[str, list[Any] | None], message: str) -> None:
    assert re.search(re.escape(message), refusal(write(tmp_path, **columns)))


def test_ratings_outside_1_to_10_and_damaged_metadata_are_refused(tmp_path: Path) -> None:
    for rating in (0.0, 99.0):
        assert "1 to 10" in refusal(write(tmp_path, b'{"scale": "rating"}', score=[rating, 5.0, 10.0] * 2))
    for metadata in (b"nonsense", b"[]", b"\xff"):
        assert refusal(write(tmp_path, metadata)).endswith("its metadata 'eightball_ppo' are damaged")


def test_a_question_without_all_its_rows_is_incomplete(tmp_path: Path) -> None:
    """Its rows for Yes and No are lost; the row that is left is no distribution."""
    columns = {name: [values[0], values[1], values[2], values[5]] for name, values in ROWS.items()}
    source = GradeTable(write(tmp_path, **columns), LABELS)
    source.fill(["a", "b"])
    grades = source.read_chunk(["a", "b"])
    assert cells(grades, "status").tolist() == [[0] * 3, [SKIPPED, SKIPPED, 0]] and grades.calls == 2
    assert grades.complete_N.tolist() == [True, False] and grades.logp_NK[1].isnan().all()


def test_ratings_are_recognised_by_the_metadata_alone(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps({"scale": "rating"}).encode(), score=[1.0, 5.0, 10.0] * 2)
    assert GradeTable(path, LABELS).scale == "rating"
    assert "are no log-probabilities" in refusal(write(tmp_path, score=[1.0, 5.0, 10.0] * 2))
