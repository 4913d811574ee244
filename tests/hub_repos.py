"""Repositories of the loopback Hub: content, commits, what a commit may do, and the answers made of them."""

import base64
import json
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha1, sha256
from pathlib import PurePosixPath
from typing import Any

from hub_cards import check_card, check_eval_results

LFS_SIZE = 10_000_000  # bytes; a larger file goes to LFS, whatever its name
MESSAGES = {401: "Invalid username or password.", 403: "Authorization error.", 500: "Internal Error"}


class RefusalError(Exception):
    """An answer that is no success; its message and code go into the headers that the client reads."""

    def __init__(self, status: int, message: str = "", code: str = "", **body: Any):
        super().__init__(message)
        self.status, self.body = status, {"error": message or MESSAGES.get(status, f"scripted {status}"), **body}
        self.headers = {"X-Error-Message": " ".join(self.body["error"].split())} | (
            {"X-Error-Code": code} if code else {}
        )


@dataclass(frozen=True)
class Blob:
    """One file's content; in LFS it is named by its SHA-256, else as git names it."""

    data: bytes
    lfs: bool

    @property
    def sha256(self) -> str:
        return sha256(self.data).hexdigest()

    @property
    def pointer(self) -> bytes:
        head = f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {len(self.data)}\n"
        return head.encode() if self.lfs else self.data

    @property
    def git_oid(self) -> str:
        return sha1(f"blob {len(self.pointer)}\0".encode() + self.pointer).hexdigest()

    @property
    def etag(self) -> str:
        return self.sha256 if self.lfs else self.git_oid

    def described(self) -> dict[str, Any]:
        """Its entry in a tree."""
        entry: dict[str, Any] = {"type": "file", "oid": self.git_oid, "size": len(self.data)}
        if self.lfs:
            entry["lfs"] = {"oid": self.sha256, "size": len(self.data), "pointerSize": len(self.pointer)}
        return entry


@dataclass
class Commit:
    oid: str
    title: str
    description: str
    date: str
    files: dict[str, Blob]


@dataclass
class Repo:
    """A repository, its line of commits (oldest first), and the LFS objects that were put for it."""

    type: str
    id: str
    private: bool
    sdk: str | None
    commits: list[Commit] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)

    @property
    def head(self) -> Commit:
        return self.commits[-1]

    @property
    def path(self) -> str:
        return self.id if self.type == "model" else f"{self.type}s/{self.id}"

    def add(self, title: str, description: str, files: dict[str, Blob]) -> Commit:
        """A commit of exactly these files."""
        parent = self.commits[-1].oid if self.commits else self.path
        listing = sorted((path, blob.git_oid) for path, blob in files.items())
        oid = sha1(json.dumps([parent, title, listing, len(self.commits)]).encode()).hexdigest()
        now = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        self.commits.append(Commit(oid, title, description, now, files))
        return self.head

    def at(self, revision: str) -> Commit:
        for commit in reversed(self.commits):
            if revision in ("main", commit.oid):
                return commit
        raise RefusalError(404, f"Invalid rev id: {revision}", "RevisionNotFound")


@dataclass
class Request:
    """What a route gets."""

    url: str  # of this server
    role: str | None  # of the token; None without one
    parts: dict[str, str]  # of the path, unquoted
    query: dict[str, list[str]]
    headers: Any
    body: bytes

    def json(self) -> Any:
        try:
            return json.loads(self.body)
        except ValueError as reason:
            raise RefusalError(400, f"Invalid JSON: {reason}") from reason


@dataclass
class Reply:
    body: bytes
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


def entries_of(repo: Repo, commit: Commit) -> dict[str, dict[str, Any]]:
    """Every file and every folder of a commit as the tree lists them, folders first to last by path."""
    line = repo.commits[: repo.commits.index(commit) + 1]
    entries: dict[str, dict[str, Any]] = {}
    for path, blob in commit.files.items():
        since = commit
        for earlier in reversed(line):
            if earlier.files.get(path) != blob:
                break
            since = earlier
        last = {"id": since.oid, "title": since.title, "date": since.date}
        entries[path] = blob.described() | {"path": path, "lastCommit": last}
        for parent in PurePosixPath(path).parents:
            if (folder := str(parent)) != ".":
                oid = sha1(f"{commit.oid}/{folder}".encode()).hexdigest()
                entries[folder] = {"type": "directory", "oid": oid, "size": 0, "path": folder, "lastCommit": last}
    return dict(sorted(entries.items()))


def apply_operation(repo: Repo, files: dict[str, Blob], key: str, value: dict[str, Any]) -> None:
    """Does one line of a commit to `files`."""
    path = value["path"].rstrip("/")
    if not path or path.startswith("/") or {"..", ".", "", ".git"} & set(path.split("/")):
        raise RefusalError(400, f"Invalid path: {path}")
    if key == "file":
        content = value["content"]
        data = base64.b64decode(content, validate=True) if value.get("encoding") == "base64" else content.encode()
        if len(data) > LFS_SIZE:
            raise RefusalError(400, f"Your push was rejected because it contains files larger than 10 MiB: {path}")
        files[path] = Blob(data, False)
    elif key == "lfsFile":
        if value["algo"] != "sha256" or value["oid"] not in repo.objects:
            raise RefusalError(
                400, f"Your push was rejected because an LFS pointer pointed to a file that does not exist: {path}"
            )
        data = repo.objects[value["oid"]]
        if value.get("size", len(data)) != len(data):
            raise RefusalError(400, f"The size of {path} is not that of its object")
        files[path] = Blob(data, True)
    elif key in ("deletedFile", "deletedFolder"):
        gone = [name for name in files if name == path] if key == "deletedFile" else []
        gone += [name for name in files if name.startswith(f"{path}/")] if key == "deletedFolder" else []
        if not gone:
            raise RefusalError(404, f"A {key[7:].lower()} with this name doesn't exist: {path}", "EntryNotFound")
        for name in gone:
            del files[name]
    else:
        raise RefusalError(400, f"Unknown operation: {key}")


def metadata_errors(repo_type: str, changed: dict[str, Blob]) -> list[str]:
    """What is wrong with the card and the evaluation results that a commit brings."""
    errors: list[str] = []
    for path, blob in changed.items():
        if path == "README.md":
            errors += check_card(blob.data.decode(errors="replace"), repo_type)[0]
        elif repo_type == "model" and re.fullmatch(r"\.eval_results/[^/]+\.ya?ml", path):
            errors += check_eval_results(path, blob.data)
    return errors


def ranged(data: bytes, asked: str, headers: dict[str, str]) -> Reply:
    """The bytes that a Range header asks for; all of them without one."""
    wanted = re.fullmatch(r"bytes=(\d*)-(\d*)", asked)
    if not wanted or wanted[0] == "bytes=-":
        return Reply(data, 200, headers)
    size = len(data)
    first = int(wanted[1]) if wanted[1] else max(0, size - int(wanted[2]))
    last = min(int(wanted[2]), size - 1) if wanted[1] and wanted[2] else size - 1
    if first > last:
        return Reply(b"", 416, headers | {"Content-Range": f"bytes */{size}"})
    return Reply(data[first : last + 1], 206, headers | {"Content-Range": f"bytes {first}-{last}/{size}"})
