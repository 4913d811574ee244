"""Grade tables: what is written is read back as the same grades, and a bad table is one clear line."""

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
from eightball_ppo.graders.storage.score_table import SKIPPED, STATUSES, ScoreTable, skipped_cells_NK
from eightball_ppo.graders.storage.sources import GradeSource
from eightball_ppo.graders.storage.table import GradeTable, write_table
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

LABELS = LabelSet.of(EIGHTBALL_LABELS)
COLUMNS = ["question", "label", "score", "status", "grader", "graded_at"]


class Made(GradeSource):
    """A source of random grades, every question's its own; `bad`: questions that are not ok, and how."""

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
        raise AssertionError("a table is written of what is there")

    def estimate_cost(self, questions: Sequence[str]) -> tuple[int, int]:
        raise AssertionError("a table is written of what is there")

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


def same(first: ScoreTable, second: ScoreTable) -> None:
    """What both say of the labels is the same to the bit."""
    np.testing.assert_array_equal(cells(first, "status"), cells(second, "status"))
    np.testing.assert_array_equal(cells(first, "score"), cells(second, "score"))
    np.testing.assert_array_equal(first.logp_NK.numpy(), second.logp_NK.numpy())
    assert first.count == second.count and (first.complete_N == second.complete_N).all()


@pytest.mark.parametrize(("scale", "bad"), [("log_prob", BAD), ("rating", BAD_RATINGS)])
def test_what_is_written_is_read_back(tmp_path: Path, scale: Scale, bad: Mapping[str, Sequence[str]]) -> None:
    source, file = Made(scale, bad, deliberate=scale == "rating"), tmp_path / "grades.parquet"
    count, details = write_table(source, QUESTIONS, file)
    written = source.read_chunk(QUESTIONS)
    assert count == written.count and details == list(written.details)
    back = GradeTable(str(file), LABELS)
    assert back.scale == source.scale
    assert (back.fingerprint, back.deliberate, back.labels) == (source.fingerprint, source.deliberate, LABELS)
    assert back.settings == {"grader": source.fingerprint, "grade_table": str(file)}
    assert back.estimate_cost(QUESTIONS) == (0, 0)
    back.fill(QUESTIONS)
    same(back.read_chunk(QUESTIONS), written)
    same(back.read_chunk([*QUESTIONS[::-1], QUESTIONS[0]]), source.read_chunk([*QUESTIONS[::-1], QUESTIONS[0]]))
    assert back.read(QUESTIONS).calls == (7 if scale == "log_prob" else 24 - 4)


def test_columns_and_order_are_those_that_are_promised(tmp_path: Path) -> None:
    file = tmp_path / "grades.parquet"
    write_table(Made(bad=BAD), QUESTIONS, file)
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


def test_more_questions_than_are_written_at_once_and_duplicates_once(tmp_path: Path) -> None:
    many = [f"Is it {number}?" for number in range(table.CHUNK_SIZE + 5)]
    source = Made(bad={many[-1]: ["failed"] * 3, many[0]: ["refused"] * 3})
    count, details = write_table(source, [*many, *many[::-1]], tmp_path / "grades.parquet")
    assert source.reads == [table.CHUNK_SIZE, 5]
    assert count == Counter({"ok": 3 * (len(many) - 2), "failed": 3, "refused": 3})
    assert details == [f"{many[0]}: it failed", f"{many[-1]}: it failed"]
    rows = pq.read_table(tmp_path / "grades.parquet")
    assert rows["question"].to_pylist()[::3] == many
    same(GradeTable(str(tmp_path / "grades.parquet"), LABELS).read_chunk(many), source.read_chunk(many))


def test_no_more_than_three_details_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table, "CHUNK_SIZE", 2)
    source = Made(bad={question: ["failed"] * 3 for question in QUESTIONS})
    _, details = write_table(source, QUESTIONS, tmp_path / "grades.parquet")
    assert details == [f"{question}: it failed" for question in QUESTIONS[:3]]


def test_the_order_of_rows_and_labels_is_the_readers(tmp_path: Path) -> None:
    source, file = Made(), tmp_path / "grades.parquet"
    write_table(source, QUESTIONS, file)
    rows = pq.read_table(file)
    pq.write_table(rows.take(list(range(len(rows)))[::-1]), file)
    same(GradeTable(str(file), LABELS).read_chunk(QUESTIONS), source.read_chunk(QUESTIONS))
    other = GradeTable(str(file), LabelSet.of(["Maybe", "Yes", "No"])).read_chunk(QUESTIONS)
    np.testing.assert_array_equal(cells(other, "score"), cells(source.read_chunk(QUESTIONS), "score")[:, [2, 0, 1]])


# --- bad tables

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
    """What is said against a table, which is one line, when these questions are wanted."""
    with pytest.raises(InputError) as caught:
        source = GradeTable(path, LABELS)
        source.fill(questions)
        source.read(questions)
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"--grade_table {path}: ")
    return str(caught.value)


def test_a_table_of_another_tool_will_do(tmp_path: Path) -> None:
    source = GradeTable(write(tmp_path), LABELS)
    source.fill(["a", "b"])
    grades = source.read_chunk(["b"])
    assert (
        source.scale == "log_prob" and not source.deliberate and cells(grades, "score").tolist() == [ROWS["score"][:3]]
    )


def test_files_that_are_no_table(tmp_path: Path) -> None:
    (tmp_path / "grades.csv").write_text("question,label\n" * 100, encoding="utf-8")
    (tmp_path / "empty.parquet").touch()
    whole = Path(write(tmp_path)).read_bytes()
    (tmp_path / "half.parquet").write_bytes(whole[: len(whole) // 2])
    assert refusal(str(tmp_path / "nowhere.parquet")).endswith("nowhere.parquet: no such file")
    for name in ("grades.csv", "empty.parquet", "half.parquet"):
        assert "not a readable parquet file (" in refusal(str(tmp_path / name))


@pytest.mark.parametrize("column", list(ROWS))
def test_a_column_that_is_missing_is_named(tmp_path: Path, column: str) -> None:
    message = refusal(write(tmp_path, **{column: None}))
    assert message.endswith(f"no column {column!r}; scripts/grade.py writes one")


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"grader": ["g"] * 3 + ["h"] * 3}, "2 graders in one table; keep one of them"),
        (
            {"label": ["Yes", "No", "Perhaps"] * 2},
            "has the labels ['No', 'Perhaps', 'Yes'], --labels are ['Yes', 'No',",
        ),
        ({"label": ["Yes", "No", "No"] * 2}, "has the labels ['No', 'Yes'], --labels are"),
        ({"label": ["Yes", "No", None] * 2}, "has the labels ['No', 'None', 'Yes'], --labels are"),
        ({"question": ["a", "b", "a", "b", "b", "b"]}, "('b', 'No') occurs 2 times"),
        ({"question": ["a"] * 6}, "('a', 'Yes') occurs 2 times"),
        ({"score": [*ROWS["score"][:4], None, QUARTER]}, "('b', 'No') has status 'ok' and score None"),
        ({"score": [*ROWS["score"][:4], math.nan, QUARTER]}, "('b', 'No') has status 'ok' and score nan"),
        ({"score": [0.0, -math.inf, -50.0, *ROWS["score"][:3]]}, "('a', 'No') has status 'ok' and score -inf"),
        ({"status": ["ok", "failed", *["ok"] * 4]}, f"('a', 'No') has status 'failed' and score {QUARTER}"),
        ({"status": ["ok", "skipped", *["ok"] * 4]}, "('a', 'No') has status 'skipped' and score"),
        ({"status": ["ok", "good", *["ok"] * 4]}, "('a', 'No') has status 'good' and score"),
        ({"status": ["ok", None, *["ok"] * 4]}, "('a', 'No') has status None and score"),
        ({"score": [0.5, 0.25, 0.25] * 2}, "the scores of 'a' are no log-probabilities, their exp sums to 4.22"),
        ({"score": [HALF, QUARTER, QUARTER, 7.0, 3.0, 1.0]}, "the scores of 'b' are no log-probabilities"),
        ({"score": [-9.0] * 6}, "the scores of 'a' are no log-probabilities, their exp sums to 0.00037"),
        ({"question": ["a"] * 3 + ["c"] * 3}, "lacks 1 of 2 questions (e.g. 'b'): made from other data?"),
        ({name: values[:0] for name, values in ROWS.items()}, "0 graders in one table"),
    ],
)
def test_a_bad_table_is_one_clear_line(tmp_path: Path, columns: dict[str, list[Any]], message: str) -> None:
    assert re.search(re.escape(message), refusal(write(tmp_path, **columns)))


def test_questions_that_are_not_in_it_are_skipped_when_it_is_read(tmp_path: Path) -> None:
    source = GradeTable(write(tmp_path), LABELS)
    grades = source.read_chunk(["a", "c"])
    assert cells(grades, "status").tolist() == [[0] * 3, [SKIPPED] * 3] and grades.complete_N.tolist() == [True, False]
    assert grades.calls == 1 and np.isnan(cells(grades, "score")[1]).all()


def test_a_question_of_which_rows_are_missing_is_not_whole(tmp_path: Path) -> None:
    """Its rows for Yes and No are lost; what is left of it is no distribution, and is not taken for one."""
    columns = {name: [values[0], values[1], values[2], values[5]] for name, values in ROWS.items()}
    source = GradeTable(write(tmp_path, **columns), LABELS)
    source.fill(["a", "b"])
    grades = source.read_chunk(["a", "b"])
    assert cells(grades, "status").tolist() == [[0] * 3, [SKIPPED, SKIPPED, 0]] and grades.calls == 2
    assert grades.complete_N.tolist() == [True, False] and grades.logp_NK[1].isnan().all()


def test_rounded_scores_will_do_and_wrong_ones_will_not(tmp_path: Path) -> None:
    for total, fine in ((1.009, True), (0.991, True), (1.02, False), (0.98, False)):
        path = write(tmp_path, score=[math.log(total * p) for p in (0.5, 0.25, 0.25)] * 2)
        if fine:
            assert GradeTable(path, LABELS).read(["a"]).complete_N.all()
        else:
            assert "are no log-probabilities" in refusal(path)


def test_ratings_are_told_by_the_file_alone(tmp_path: Path) -> None:
    path = write(tmp_path, json.dumps({"scale": "rating"}).encode(), score=[1.0, 5.0, 10.0] * 2)
    assert GradeTable(path, LABELS).scale == "rating"
    assert "are no log-probabilities" in refusal(write(tmp_path, score=[1.0, 5.0, 10.0] * 2))


@pytest.mark.parametrize("rating", [0.0, 99.0, -3.0])
def test_ratings_are_1_to_10(tmp_path: Path, rating: float) -> None:
    assert "1 to 10" in refusal(write(tmp_path, b'{"scale": "rating"}', score=[rating, 5.0, 10.0] * 2))


def test_scores_that_are_words(tmp_path: Path) -> None:
    assert refusal(write(tmp_path, score=["high"] * 6)).endswith("holds string, floating-point numbers are needed")


@pytest.mark.parametrize("about", [b"nonsense", b"[]", b"\xff"])
def test_metadata_of_something_else(tmp_path: Path, about: bytes) -> None:
    assert refusal(write(tmp_path, about)).endswith("its metadata 'eightball_ppo' are damaged")


def test_scores_are_checked_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="are no log-probabilities"):
        GradeTable(write(tmp_path, score=[0.5, 0.25, 0.25] * 2), LABELS)
