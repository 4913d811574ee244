"""The grade store: one SQLite file that keeps every grade the moment it is made, for all methods and runs.

WAL mode and one transaction a grade (a thousand grades where they cost nothing): whatever kills the process, what was
kept stays, and several processes may read and write at once. A grade that is ok is never replaced; one that is not is
asked again by the next run.
"""

import json
import sqlite3
import struct
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.graders.base import MAX_DETAIL_LENGTH, Grade, GradeRequest, Status

BUSY_TIMEOUT = 60.0  # seconds to wait for another process that writes
APPLICATION_ID = 0x38424C4C  # "8BLL"
SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE graders (
    id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, settings TEXT NOT NULL, audit TEXT
) STRICT;
CREATE TABLE grades (
    grader INTEGER NOT NULL REFERENCES graders(id), question TEXT NOT NULL, label TEXT NOT NULL, status TEXT NOT NULL,
    scores BLOB NOT NULL, detail TEXT NOT NULL, calls INTEGER NOT NULL, tokens INTEGER NOT NULL,
    missing REAL NOT NULL, graded_at REAL NOT NULL, PRIMARY KEY (grader, question, label)
) STRICT, WITHOUT ROWID;
"""
_KEEP = """
INSERT INTO grades VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    status = excluded.status, scores = excluded.scores, detail = excluded.detail, calls = calls + excluded.calls,
    tokens = tokens + excluded.tokens, missing = excluded.missing, graded_at = excluded.graded_at
WHERE status != 'ok'
"""
LOOKUP_BATCH = 1024  # questions in one statement; SQLite takes 32766 values
_ALL_LABELS = ""  # the `label` of a grade that scores all labels at once


class GradeStore:
    """Grades by (grader's fingerprint, question, label or all labels). Close it, or use it as a context manager.

    A file that is not there is made by the first thing that is kept.

    Raises:
        InputError: the file cannot be opened, is no grade store, or one of another version.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._connection: sqlite3.Connection | None = None
        try:
            found = self.path.exists()
        except (OSError, ValueError) as error:
            raise InputError(f"--grade_store {path}: not a grade store that can be opened ({error})") from None
        if found:
            self._open()

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Cursor:
        """Run one statement, on a file that is made if it is not there."""
        if self._connection is None:
            self._open()
        assert self._connection is not None
        try:
            return self._connection.execute(statement, values)
        except sqlite3.Error as error:
            raise self._refused(error, "cannot be read or written") from None

    def _refused(self, error: Exception, what: str) -> InputError | IncompleteError:
        """What to raise for `error`: a disk that is full or fails is no fault of the file's."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return IncompleteError(
                f"--grade_store {self.path}: {error}; make room, or name a file on another disk, and run the same "
                "command again; the grades that it holds are kept"
            )
        return InputError(f"--grade_store {self.path}: {what} ({error})")

    def _find(self, statement: str, values: Sequence[Any]) -> Any:
        """The first row that a query finds, or None; None where there is no file."""
        return None if self._connection is None else self._execute(statement, values).fetchone()

    def _open(self) -> None:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None)
            self._check_schema(db)
            _switch_to_wal(db)
            db.execute("PRAGMA synchronous = NORMAL")
        except (OSError, ValueError, sqlite3.Error) as error:
            raise self._refused(error, "not a grade store that can be opened") from None
        self._connection = db

    def _check_schema(self, db: sqlite3.Connection) -> None:
        """Make the tables in an empty file; raises InputError for a file of something or somebody else."""
        db.execute("BEGIN IMMEDIATE")  # of two processes that open a new file, one makes the tables
        try:
            (application,), (version,) = (
                db.execute(f"PRAGMA {name}").fetchone() for name in ("application_id", "user_version")
            )
            tables = db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]
            if application == 0 and version == 0 and not tables:
                for statement in _SCHEMA.strip().split(";\n"):
                    db.execute(statement)
                db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
                db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
            elif application != APPLICATION_ID:
                raise InputError(f"--grade_store {self.path}: a database of something else; name another file")
            elif version != SCHEMA_VERSION:
                raise InputError(
                    f"--grade_store {self.path}: written with schema {version}, this version reads {SCHEMA_VERSION}; "
                    "name another file"
                )
        finally:
            if db.in_transaction:
                db.execute("COMMIT")

    def __enter__(self) -> "GradeStore":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def settings_of(self, fingerprint: str) -> dict[str, Any] | None:
        """What `register` was told of this grader; None if it never was."""
        return self._of("settings", fingerprint)

    def _of(self, column: str, fingerprint: str) -> dict[str, Any] | None:
        row = self._find(f"SELECT {column} FROM graders WHERE fingerprint = ?", (fingerprint,))
        return None if row is None or row[0] is None else json.loads(row[0])

    def id_of(self, fingerprint: str) -> int | None:
        """The id of a grader that was registered, or None."""
        row = self._find("SELECT id FROM graders WHERE fingerprint = ?", (fingerprint,))
        return None if row is None else row[0]

    def register(self, fingerprint: str, settings: dict[str, Any]) -> int:
        """The id of a grader, new or known; settings stay as they were told first, unless that was none."""
        self._execute(
            "INSERT INTO graders (fingerprint, settings) VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET settings = excluded.settings WHERE settings = '{}'",
            (fingerprint, json.dumps(settings, sort_keys=True, ensure_ascii=False)),
        )
        return self._execute("SELECT id FROM graders WHERE fingerprint = ?", (fingerprint,)).fetchone()[0]

    def keep(self, grader: int, grade: Grade) -> None:
        """Store one grade, durably against the death of the process."""
        self._execute(_KEEP, _row(grader, grade))

    def keep_many(self, grader: int, grades: Iterable[Grade]) -> None:
        """Store several grades in one transaction: all of them, or none if the process dies in between."""
        self._execute("BEGIN IMMEDIATE")
        try:
            for grade in grades:
                self._execute(_KEEP, _row(grader, grade))
        finally:
            if (
                self._connection is not None and self._connection.in_transaction
            ):  # SQLite may have rolled it back itself
                self._execute("COMMIT")

    def missing(self, grader: int | None, requests: Iterable[GradeRequest]) -> Iterator[GradeRequest]:
        """Those of `requests` without an ok grade, each looked up when it is taken."""
        for request in requests:
            row = self._find(
                "SELECT status FROM grades WHERE grader = ? AND question = ? AND label = ?",
                (grader, request.question, request.label or _ALL_LABELS),
            )
            if row is None or row[0] != "ok":
                yield request

    def read(self, grader: int | None, request: GradeRequest) -> Grade | None:
        """The grade of one request, ok or not; None if it was never asked."""
        row = self._find(
            "SELECT status, scores, detail, calls, tokens, missing, graded_at FROM grades "
            "WHERE grader = ? AND question = ? AND label = ?",
            (grader, request.question, request.label or _ALL_LABELS),
        )
        if row is None:
            return None
        return _grade(request, *row)

    def read_many(self, grader: int | None, questions: Sequence[str]) -> dict[GradeRequest, Grade]:
        """All grades of some thousand questions, ok or not, in one look."""
        found: dict[GradeRequest, Grade] = {}
        for start in range(0, len(questions) if self._connection is not None else 0, LOOKUP_BATCH):
            part = questions[start : start + LOOKUP_BATCH]
            rows = self._execute(
                "SELECT question, label, status, scores, detail, calls, tokens, missing, graded_at FROM grades "
                f"WHERE grader = ? AND question IN ({','.join('?' * len(part))})",
                (grader, *part),
            )
            for question, label, *row in self._fetched(rows):
                request = GradeRequest(question, label or None)
                found[request] = _grade(request, *row)
        return found

    def _fetched(self, rows: sqlite3.Cursor) -> list[Any]:
        try:
            return rows.fetchall()
        except sqlite3.Error as error:
            raise self._refused(error, "cannot be read or written") from None

    def record_audit(self, fingerprint: str, audit: dict[str, Any]) -> None:
        """Remember the last audit of a grader, registered or not."""
        self.register(fingerprint, {})
        self._execute("UPDATE graders SET audit = ? WHERE fingerprint = ?", (json.dumps(audit), fingerprint))

    def audit_of(self, fingerprint: str) -> dict[str, Any] | None:
        """The last audit of a grader, or None."""
        return self._of("audit", fingerprint)

    def audits_of(self, fingerprints: Iterable[str]) -> list[dict[str, Any]]:
        """The last audits of those of these graders that were audited."""
        found = (self.audit_of(fingerprint) for fingerprint in fingerprints)
        return [audit for audit in found if audit is not None]


def _grade(request: GradeRequest, status: Status, scores: bytes, *rest: Any) -> Grade:
    """A grade out of a row that `_KEEP` wrote."""
    return Grade(request, status, struct.unpack(f"<{len(scores) // 8}d", scores), *rest)


def _row(grader: int, grade: Grade) -> tuple[Any, ...]:
    """A grade as `_KEEP` takes it."""
    return (
        *(grader, grade.request.question, grade.request.label or _ALL_LABELS, grade.status),
        struct.pack(f"<{len(grade.scores)}d", *grade.scores),
        *(grade.detail[:MAX_DETAIL_LENGTH], grade.calls, grade.tokens, grade.missing, time.time()),
    )


def _switch_to_wal(db: sqlite3.Connection) -> None:
    """Once a file is in WAL mode this does nothing; until then SQLite's own patience does not hold for the switch."""
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
