"""The grade store: one SQLite file with every grade, for all methods and runs.

WAL mode, and one transaction per grade (or per thousand free grades): a killed process loses nothing that was written,
and several processes may read and write at once. A good grade is never replaced; a failed one is requested again.
"""

import contextlib
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
_SCHEMA = f"""
CREATE TABLE graders (
    id INTEGER PRIMARY KEY, fingerprint TEXT NOT NULL UNIQUE, settings TEXT NOT NULL, audit TEXT
) STRICT;
CREATE TABLE grades (
    grader INTEGER NOT NULL REFERENCES graders(id), question TEXT NOT NULL, label TEXT NOT NULL, status TEXT NOT NULL,
    scores BLOB NOT NULL, detail TEXT NOT NULL, calls INTEGER NOT NULL, tokens INTEGER NOT NULL,
    missing REAL NOT NULL, graded_at REAL NOT NULL, PRIMARY KEY (grader, question, label)
) STRICT, WITHOUT ROWID;
PRAGMA application_id = {APPLICATION_ID};
PRAGMA user_version = {SCHEMA_VERSION};
"""
_WRITE = """
INSERT INTO grades VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET
    status = excluded.status, scores = excluded.scores, detail = excluded.detail, calls = calls + excluded.calls,
    tokens = tokens + excluded.tokens, missing = excluded.missing, graded_at = excluded.graded_at
WHERE status != 'ok'
"""
_ALL_LABELS = ""  # the `label` of a grade that scores all labels at once


class GradeStore(contextlib.AbstractContextManager["GradeStore"]):
    """Grades by (grader's fingerprint, question, label or all labels). The file is created by the first write.

    Raises:
        InputError: The file cannot be opened, or is not a grade store of this version.
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self._connection: sqlite3.Connection | None = None
        try:
            if self.path.exists():
                self._connection = self._open()
        except (OSError, ValueError) as error:
            raise self._user_error(error, "not a grade store that can be opened") from None

    def _execute(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """Runs one statement, creating the file if it does not exist; returns all rows."""
        self._connection = self._connection or self._open()
        try:
            return self._connection.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise self._user_error(error, "cannot be read or written") from None

    def _user_error(self, error: Exception, reason: str) -> InputError | IncompleteError:
        """The user-facing error; a full or failing disk is not the file's fault."""
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
            return IncompleteError(
                f"--grade_store {self.path}: {error}; make room, or name a file on another disk, and run the same "
                "command again; the grades in it stay"
            )
        return InputError(f"--grade_store {self.path}: {reason} ({error})")

    def _find(self, statement: str, *values: Any) -> Any:
        """The first column of the first row of a query, or None; None if the file does not exist."""
        rows = [] if self._connection is None else self._execute(statement, values)
        return rows[0][0] if rows else None

    def _open(self) -> sqlite3.Connection:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            db = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None)
            self._check_schema(db)
            _switch_to_wal(db)
            db.execute("PRAGMA synchronous = NORMAL")
            return db
        except (OSError, ValueError, sqlite3.Error) as error:
            raise self._user_error(error, "not a grade store that can be opened") from None

    def _check_schema(self, db: sqlite3.Connection) -> None:
        """Creates the tables of an empty file; raises InputError for a file that is not a grade store."""
        db.execute("BEGIN IMMEDIATE")  # of two processes that open a new file, one creates the tables
        try:
            application, version = (db.execute(f"PRAGMA {n}").fetchone()[0] for n in ("application_id", "user_version"))
            if not (application or version or db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]):
                for statement in _SCHEMA.strip().split(";\n"):
                    db.execute(statement)
            elif application != APPLICATION_ID:
                raise InputError(f"--grade_store {self.path}: a database of something else; name another file")
            elif version != SCHEMA_VERSION:
                problem = f"written with schema {version}, this version reads {SCHEMA_VERSION}"
                raise InputError(f"--grade_store {self.path}: {problem}; name another file")
        finally:
            if db.in_transaction:
                db.execute("COMMIT")

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Closes the file."""
        if self._connection is not None:
            self._connection.close()

    def id_of(self, fingerprint: str) -> int | None:
        """The id of a registered grader, or None."""
        return self._find("SELECT id FROM graders WHERE fingerprint = ?", fingerprint)

    def settings_of(self, fingerprint: str) -> dict[str, Any] | None:
        """The settings of a registered grader, or None."""
        settings = self._find("SELECT settings FROM graders WHERE fingerprint = ?", fingerprint)
        return None if settings is None else json.loads(settings)

    def audit_of(self, fingerprint: str) -> dict[str, Any] | None:
        """The last audit of a grader, or None."""
        audit = self._find("SELECT audit FROM graders WHERE fingerprint = ?", fingerprint)
        return None if audit is None else json.loads(audit)

    def register(self, fingerprint: str, settings: dict[str, Any]) -> int:
        """Returns the id of a grader, new or known; the first settings that are not empty stay."""
        self._execute(
            "INSERT INTO graders (fingerprint, settings) VALUES (?, ?) "
            "ON CONFLICT DO UPDATE SET settings = excluded.settings WHERE settings = '{}'",
            (fingerprint, json.dumps(settings, sort_keys=True, ensure_ascii=False)),
        )
        return self._find("SELECT id FROM graders WHERE fingerprint = ?", fingerprint)

    def record_audit(self, fingerprint: str, audit: dict[str, Any]) -> None:
        """Stores the last audit of a grader, registered or not."""
        self.register(fingerprint, {})
        self._execute("UPDATE graders SET audit = ? WHERE fingerprint = ?", (json.dumps(audit), fingerprint))

    def write(self, grader_id: int, *grades: Grade) -> None:
        """Writes grades in one transaction: all of them, or none if the process dies in between."""
        if len(grades) > 1:
            self._execute("BEGIN IMMEDIATE")
        try:
            for grade in grades:
                self._execute(_WRITE, _row(grader_id, grade))
        finally:
            if self._connection is not None and self._connection.in_transaction:  # SQLite may have rolled it back
                self._execute("COMMIT")

    def missing(self, grader_id: int | None, requests: Iterable[GradeRequest]) -> Iterator[GradeRequest]:
        """Yields the requests without a good grade; each is looked up when it is consumed."""
        statement = "SELECT status FROM grades WHERE grader = ? AND question = ? AND label = ?"
        for request in requests:
            if self._find(statement, grader_id, request.question, request.label or _ALL_LABELS) != "ok":
                yield request

    def read(self, grader_id: int | None, questions: Sequence[str]) -> dict[GradeRequest, Grade]:
        """All grades of up to 32,000 questions (SQLite's limit of values), good or not, in one query."""
        if self._connection is None:
            return {}
        rows = self._execute(
            "SELECT question, label, status, scores, detail, calls, tokens, missing, graded_at FROM grades "
            f"WHERE grader = ? AND question IN ({','.join('?' * len(questions))})",
            (grader_id, *questions),
        )
        grades = (_grade(GradeRequest(question, label or None), *rest) for question, label, *rest in rows)
        return {grade.request: grade for grade in grades}


def _grade(request: GradeRequest, status: Status, scores: bytes, *rest: Any) -> Grade:
    """The grade of a row; the inverse of `_row`."""
    return Grade(request, status, struct.unpack(f"<{len(scores) // 8}d", scores), *rest)


def _row(grader_id: int, grade: Grade) -> tuple[Any, ...]:
    """The values of `_WRITE`."""
    return (
        *(grader_id, grade.request.question, grade.request.label or _ALL_LABELS, grade.status),
        struct.pack(f"<{len(grade.scores)}d", *grade.scores),
        *(grade.detail[:MAX_DETAIL_LENGTH], grade.calls, grade.tokens, grade.missing, time.time()),
    )


def _switch_to_wal(db: sqlite3.Connection) -> None:
    """Switches a file to WAL mode; retries here, because SQLite's busy timeout does not cover the switch."""
    deadline = time.monotonic() + BUSY_TIMEOUT
    while True:
        try:
            db.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)
