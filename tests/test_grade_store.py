"""The grade store: grades are kept exactly, with other writers and after kills; other files are refused."""

import itertools
import math
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import REPOSITORY
from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Grade, GradeRequest
from eightball_ppo.graders.storage.store import GradeStore

ASK = GradeRequest("Will it rain?")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GradeStore]:
    with GradeStore(tmp_path / "grades.sqlite3") as opened:
        yield opened


def good(request: GradeRequest, *scores: float, calls: int = 1, tokens: int = 0) -> Grade:
    return Grade(request, "ok", scores or (-0.5, -1.5, -2.5), "", calls, tokens)


def kept(store: GradeStore, grader: int, request: GradeRequest = ASK) -> Grade:
    row = store.read(grader, [request.question]).get(request)
    assert row is not None
    return row


@given(st.lists(st.floats(allow_nan=True), max_size=30), st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None)
@example([0.1, -0.0, 5e-324, -math.pi, 1 / 3, -1.7976931348623157e308], "a\0b\u2028'\"; DROP TABLE grades")
def test_scores_and_questions_are_read_back_to_the_bit(scores: list[float], question: str) -> None:
    with GradeStore(":memory:") as store:
        grader = store.register("g", {})
        store.write(grader, Grade(GradeRequest(question), "ok", tuple(scores)))
        read = kept(store, grader, GradeRequest(question)).scores
        assert struct.pack(f"{len(read)}d", *read) == struct.pack(f"{len(scores)}d", *scores)
        assert list(store.missing(grader, [GradeRequest(question), GradeRequest(question + "?")])) == [
            GradeRequest(question + "?")
        ]


def test_grades_are_kept_by_question_label_and_grader(store: GradeStore) -> None:
    keys = [("q", None), ("q", "Yes"), ("q", "No"), ("q ", None), ("Q", None), ("", None)]
    requests = [GradeRequest(question, label) for question, label in keys]
    graders = [store.register(name, {}) for name in ("g", "h")]
    everything = list(itertools.product(graders, requests))
    for number, (grader, request) in enumerate(everything):
        assert request not in store.read(grader, [request.question])
        store.write(grader, good(request, float(number)))
    assert [kept(store, grader, request).scores for grader, request in everything] == [(float(n),) for n in range(12)]


def test_a_good_grade_is_never_replaced(store: GradeStore) -> None:
    grader = store.register("g", {})
    store.write(grader, good(ASK, -1.0, calls=2, tokens=20))
    before = kept(store, grader)
    for status in ("failed", "refused"):
        store.write(grader, Grade(ASK, status, (), "no", calls=5, tokens=50))
    store.write(grader, good(ASK, -9.0, calls=5, tokens=50))
    assert kept(store, grader) == before


def test_a_bad_grade_is_replaced_and_its_calls_and_tokens_add_up(store: GradeStore) -> None:
    grader = store.register("g", {})
    store.write(grader, Grade(ASK, "failed", (), "timeout", calls=3, tokens=10))
    store.write(grader, Grade(ASK, "refused", (), "I cannot", calls=1, tokens=7))
    assert kept(store, grader)[:6] == (ASK, "refused", (), "I cannot", 4, 17)
    store.write(grader, good(ASK, -1.0, calls=2, tokens=30))
    assert kept(store, grader)[:6] == (ASK, "ok", (-1.0,), "", 6, 47)


def test_settings_are_those_of_the_first_registration(store: GradeStore) -> None:
    assert store.id_of("g") is None
    settings = {"grader": "api", "words": [["Ja", "Jö"]], "samples": 3}
    first = store.register("g", settings)
    assert store.register("h", {}) != first and store.register("g", {"other": 1}) == first
    assert store.id_of("g") == first and store.id_of("i") is None
    assert store.settings_of("g") == settings and store.settings_of("h") == {} and store.settings_of("i") is None


def test_the_last_audit_of_a_grader_is_read_back(tmp_path: Path) -> None:
    file = tmp_path / "grades.sqlite3"
    with GradeStore(file) as store:
        grader = store.register("g", {"grader": "rule"})
        assert store.audit_of("g") is None and store.audit_of("unknown") is None
        store.record_audit("g", {"failed_checks": ["too slow"], "report": "a"})
        store.record_audit("g", {"failed_checks": [], "report": "bé", "accuracy": 0.1 + 0.2})
        store.record_audit("never registered", {"x": 1})
        assert store.register("g", {}) == grader
    with GradeStore(file) as store:
        assert store.audit_of("g") == {"failed_checks": [], "report": "bé", "accuracy": 0.1 + 0.2}
        assert store.audit_of("never registered") == {"x": 1} and store.settings_of("g") == {"grader": "rule"}


def test_reading_creates_no_file(tmp_path: Path) -> None:
    file = tmp_path / "runs" / "grades.sqlite3"
    with GradeStore(file) as store:
        assert store.settings_of("g") is None and store.audit_of("g") is None and store.id_of("g") is None
        assert store.read(1, [ASK.question]) == {} and list(store.missing(1, [ASK])) == [ASK]
    assert not file.parent.exists()
    with GradeStore(file) as store:
        store.register("g", {})
    assert file.is_file()


WRITER = """
import os, signal, sys, time
from pathlib import Path
from eightball_ppo.graders.base import GradeRequest, Grade
from eightball_ppo.graders.storage.store import GradeStore

file, name, count = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
Path(f"{file}.{name}").touch()
while not (Path(f"{file}.a").exists() and Path(f"{file}.b").exists()):
    time.sleep(0.001)
store = GradeStore(file)
grader = store.register("g", {"made by": "both"})
for number in range(count):
    store.write(grader, Grade(GradeRequest(f"{name} {number}"), "ok", (number / 3, 1.0)))
    store.write(grader, Grade(GradeRequest(f"both {number}"), "failed", (), name, 1, 10))
os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.mark.slow
def test_two_killed_writers_lose_nothing(tmp_path: Path) -> None:
    """They open a new file at the same moment, write different grades and the same ones, and never close it."""
    file, count = tmp_path / "grades.sqlite3", 150
    command = [sys.executable, "-c", WRITER, str(file)]
    writers = [subprocess.Popen([*command, name, str(count)], cwd=REPOSITORY) for name in "ab"]
    assert [writer.wait(timeout=60) for writer in writers] == [-9, -9]
    with GradeStore(file) as store:
        grader = store.register("g", {})
        assert grader == 1 and store.settings_of("g") == {"made by": "both"}
        for number in range(count):
            for name in "ab":
                assert kept(store, grader, GradeRequest(f"{name} {number}")).scores == (number / 3, 1.0)
            row = kept(store, grader, GradeRequest(f"both {number}"))
            assert (row.status, row.calls, row.tokens) == ("failed", 2, 20) and row.detail in "ab"
    with sqlite3.connect(file) as db:
        assert db.execute("SELECT count(*) FROM grades").fetchone() == (3 * count,)
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert db.execute("PRAGMA journal_mode").fetchone() == ("wal",)  # nobody who reads waits for a writer


def refusal(path: Path) -> str:
    """The message, one line, when a grade is to be kept in a file that is no store."""
    with pytest.raises(InputError) as caught, GradeStore(path) as store:
        store.register("g", {})
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"--grade_store {path}: ")
    return str(caught.value)


@pytest.mark.parametrize("content", [b"hello", b"question,label\n" * 1000, b"SQLite format 3\0" + b"\xff" * 4080])
def test_a_file_that_is_no_database_is_refused_and_not_changed(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "notes.csv"
    file.write_bytes(content)
    assert "not a grade store that can be opened (" in refusal(file)
    assert file.read_bytes() == content and os.listdir(tmp_path) == [file.name]


def test_a_store_of_another_version_is_refused(store: GradeStore) -> None:
    store.register("g", {})
    store.close()
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA user_version = 99")
    assert refusal(store.path).endswith(": written with schema 99, this version reads 1; name another file")


def test_a_database_of_another_program_is_refused_and_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "other.db"
    with sqlite3.connect(file) as db:
        db.execute("CREATE TABLE grades (question TEXT)")
    db.close()
    before = file.read_bytes()
    assert "a database of something else" in refusal(file)
    assert file.read_bytes() == before and os.listdir(tmp_path) == [file.name]


@pytest.mark.parametrize("name", ["", "file/grades.sqlite3", "/proc/nowhere/grades.sqlite3", "a" * 300])
def test_paths_that_cannot_be_a_file_are_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").touch()
    assert "not a grade store that can be opened (" in refusal(tmp_path / name)


def test_a_damaged_store_is_refused_in_one_line(store: GradeStore) -> None:
    grader = store.register("g", {})
    requests = [GradeRequest(f"question {number}") for number in range(1000)]
    for request in requests:
        store.write(grader, good(request))
    store.close()
    content = store.path.read_bytes()
    store.path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    with pytest.raises(InputError, match="cannot be read or written"), GradeStore(store.path) as damaged:
        list(damaged.missing(grader, requests))
