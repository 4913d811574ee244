"""The grade store: what is kept stays as it was, whoever else writes and however the process ends."""

import functools
import itertools
import math
import os
import sqlite3
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from conftest import REPOSITORY, read_rows
from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Grade, GradeRequest
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import EIGHTBALL_LABELS

ASK = GradeRequest("Will it rain?")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[GradeStore]:
    with GradeStore(tmp_path / "grades.sqlite3") as own:
        yield own


def good(request: GradeRequest, *scores: float, calls: int = 1, tokens: int = 0) -> Grade:
    return Grade(request, "ok", scores or (-0.5, -1.5, -2.5), "", calls, tokens)


def kept(store: GradeStore, grader: int, request: GradeRequest = ASK) -> Grade:
    row = store.read(grader, [request.question]).get(request)
    assert row is not None
    return row


# --- one grade


@given(st.lists(st.floats(allow_nan=True), max_size=30), st.text(st.characters(exclude_categories=["Cs"])))
@settings(deadline=None)
@example([0.1, -0.0, 5e-324, -math.pi, 1 / 3, -1.7976931348623157e308], "a\0b\u2028'\"; DROP TABLE grades")
def test_scores_and_questions_come_back_to_the_bit(scores: list[float], question: str) -> None:
    with GradeStore(":memory:") as store:
        grader = store.register("g", {})
        store.write(grader, Grade(GradeRequest(question), "ok", tuple(scores)))
        read = kept(store, grader, GradeRequest(question)).scores
        assert struct.pack(f"{len(read)}d", *read) == struct.pack(f"{len(scores)}d", *scores)
        assert list(store.missing(grader, [GradeRequest(question), GradeRequest(question + "?")])) == [
            GradeRequest(question + "?")
        ]


def test_everything_of_a_grade_is_kept(store: GradeStore) -> None:
    grader = store.register("g", {})
    store.write(grader, Grade(ASK, "refused", (), "x" * 500, calls=3, tokens=40))
    row = kept(store, grader)
    assert row[:6] == (ASK, "refused", (), "x" * 200, 3, 40) and row.graded_at > 1.7e9


def test_asks_of_other_labels_questions_and_graders_are_others(store: GradeStore) -> None:
    requests = [
        GradeRequest("q"),
        GradeRequest("q", "Yes"),
        GradeRequest("q", "No"),
        GradeRequest("q "),
        GradeRequest("Q"),
        GradeRequest(""),
    ]
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


def test_missing_skips_good_grades_only_and_looks_when_it_is_taken(store: GradeStore) -> None:
    grader = store.register("g", {})
    requests = [GradeRequest(name) for name in ("good", "failed", "refused", "new", "later")]
    store.write(grader, good(requests[0]))
    for request, status in ((requests[1], "failed"), (requests[2], "refused")):
        store.write(grader, Grade(request, status))  # type: ignore[arg-type]
    taken: list[GradeRequest] = []
    missing = store.missing(grader, (taken.append(request) or request for request in requests))  # type: ignore[func-returns-value]
    assert taken == []
    assert next(iter(missing)) == requests[1] and taken == requests[:2]
    store.write(grader, good(requests[4]))  # graded in the meantime, by this process or another
    assert list(missing) == requests[2:4]


# --- graders and audits


def test_settings_are_those_of_the_first_registration(store: GradeStore) -> None:
    assert store.id_of("g") is None
    told = {"grader": "api", "words": [["Ja", "Jö"]], "samples": 3}
    first = store.register("g", told)
    assert store.register("h", {}) != first and store.register("g", {"other": 1}) == first
    assert store.id_of("g") == first and store.id_of("i") is None
    assert store.settings_of("g") == told and store.settings_of("h") == {} and store.settings_of("i") is None


def test_audits_round_trip_and_the_last_one_counts(tmp_path: Path) -> None:
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


def test_a_grader_that_is_audited_first_gets_its_settings_later(store: GradeStore) -> None:
    store.record_audit("g", {"failed_checks": []})
    store.register("g", {"grader": "rule"})
    assert store.settings_of("g") == {"grader": "rule"}


def test_audits_are_of_whole_fingerprints(store: GradeStore) -> None:
    for fingerprint in ("rule:1", "rule:12", "llm"):
        store.record_audit(fingerprint, {"of": fingerprint})
    assert store.audit_of("noisy:0.3(rule:12)") is None and store.audit_of("rule:12") == {"of": "rule:12"}


# --- the file


def test_no_file_is_made_by_looking(tmp_path: Path) -> None:
    file = tmp_path / "runs" / "grades.sqlite3"
    with GradeStore(file) as store:
        assert store.settings_of("g") is None and store.audit_of("g") is None
    assert not file.parent.exists()
    with GradeStore(file) as store:
        store.register("g", {})
    assert file.is_file()


def test_no_file_is_made_by_reading_grades(tmp_path: Path) -> None:
    file = tmp_path / "grades.sqlite3"
    with GradeStore(file) as store:
        assert store.read(1, [ASK.question]) == {} and list(store.missing(1, [ASK])) == [ASK]
        assert store.id_of("g") is None and list(store.missing(None, [ASK])) == [ASK]
    assert not file.exists()


def test_a_grade_takes_less_than_300_bytes(tmp_path: Path) -> None:
    file = tmp_path / "grades.sqlite3"
    splits = ("sft", "rl", "preferences", "heldout")
    questions = list(dict.fromkeys(row["question"] for split in splits for row in read_rows(split)))
    with GradeStore(file) as store:
        graders = [store.register(f"{name}:" + "0123456789abcdef" * 4, {"labels": EIGHTBALL_LABELS}) for name in "ab"]
        requests = list(itertools.islice(itertools.product(graders, questions), 3000))
        for number, (grader, question) in enumerate(requests):
            store.write(grader, good(GradeRequest(question), -0.1 * number, -1 / 3, -math.pi, tokens=150))
    assert len(set(requests)) == 3000 and os.listdir(tmp_path) == [file.name]
    assert file.stat().st_size / 3000 < 300


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


def test_two_processes_that_write_at_once_and_are_killed_lose_nothing(tmp_path: Path) -> None:
    """They open a new file at the same moment, write other grades and the same ones, and never close the store."""
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


class Busy(sqlite3.Connection):
    """A connection that meets another process in the middle of switching the file to WAL mode, twice."""

    left = 2

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        if "journal_mode" in sql and self.left:
            self.left -= 1
            raise sqlite3.OperationalError("database is locked")
        return super().execute(sql, *values)


def test_opening_waits_for_others_who_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seen once in 500 openings of a new file by several processes at the same moment."""
    monkeypatch.setattr(sqlite3, "connect", functools.partial(sqlite3.connect, factory=Busy))
    with GradeStore(tmp_path / "grades.sqlite3") as store:
        store.write(store.register("g", {}), good(ASK))
        assert kept(store, 1).status == "ok"


def test_two_stores_in_one_process_see_each_other(tmp_path: Path) -> None:
    file = tmp_path / "grades.sqlite3"
    with GradeStore(file) as first, GradeStore(file) as second:
        grader = first.register("g", {})
        assert second.register("g", {}) == grader
        first.write(grader, good(ASK, -1.0))
        assert kept(second, grader).scores == (-1.0,) and list(second.missing(grader, [ASK])) == []


# --- files that are no grade stores


def refusal(path: Path) -> str:
    """What is said against a path when a grade is to be kept there, which is one line."""
    with pytest.raises(InputError) as caught, GradeStore(path) as store:
        store.register("g", {})
    assert "\n" not in str(caught.value) and str(caught.value).startswith(f"--grade_store {path}: ")
    return str(caught.value)


@pytest.mark.parametrize("content", [b"hello", b"question,label\n" * 1000, b"SQLite format 3\0" + b"\xff" * 4080])
def test_a_file_that_is_no_database_is_refused_and_left_alone(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "notes.csv"
    file.write_bytes(content)
    assert "not a grade store that can be opened (" in refusal(file)
    assert file.read_bytes() == content and os.listdir(tmp_path) == [file.name]


def others_database(file: Path) -> Path:
    db = sqlite3.connect(file)
    db.execute("CREATE TABLE grades (question TEXT)")
    db.commit()
    db.close()
    return file


def test_a_database_of_something_else_is_refused(tmp_path: Path) -> None:
    file = others_database(tmp_path / "other.db")
    assert refusal(file).endswith(": a database of something else; name another file")
    with sqlite3.connect(file) as db:
        assert db.execute("SELECT name FROM sqlite_master").fetchall() == [("grades",)]


def test_a_database_of_something_else_is_left_alone(tmp_path: Path) -> None:
    file = others_database(tmp_path / "other.db")
    before = file.read_bytes()
    refusal(file)
    assert file.read_bytes() == before and os.listdir(tmp_path) == [file.name]


def test_a_store_of_another_version_is_refused(store: GradeStore) -> None:
    store.register("g", {})
    store.close()
    with sqlite3.connect(store.path) as db:
        db.execute("PRAGMA user_version = 99")
    assert refusal(store.path).endswith(": written with schema 99, this version reads 1; name another file")


def test_an_empty_file_becomes_a_store(tmp_path: Path) -> None:
    file = tmp_path / "grades.sqlite3"
    file.touch()  # as mktemp leaves one
    with GradeStore(file) as store:
        store.write(store.register("g", {}), good(ASK))
    assert file.stat().st_size > 0


def test_paths_that_cannot_be_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path, tmp_path / "file" / "grades.sqlite3", Path("/proc/nowhere/grades.sqlite3")):
        assert "not a grade store that can be opened (" in refusal(path)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_may_not_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert "not a grade store that can be opened (" in refusal(tmp_path / "grades.sqlite3")


def test_a_name_that_is_too_long(tmp_path: Path) -> None:
    assert "not a grade store that can be opened (" in refusal(tmp_path / ("a" * 300))


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    refusal(tmp_path / "a\0b")


def test_a_store_that_was_damaged_is_one_clear_line(store: GradeStore) -> None:
    grader = store.register("g", {})
    requests = [GradeRequest(f"question {number}") for number in range(1000)]
    for request in requests:
        store.write(grader, good(request))
    store.close()
    content = store.path.read_bytes()
    store.path.write_bytes(content[:8192] + b"\xff" * (len(content) - 8192))
    with pytest.raises(InputError, match="cannot be read or written"), GradeStore(store.path) as damaged:
        list(damaged.missing(grader, requests))
