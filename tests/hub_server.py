"""A Hugging Face Hub on the loopback that answers the unmodified clients, as far as tests of uploads need one.

State is in memory. Written from the client's code, never compared with the real Hub: no xet, branches or pull requests.
"""

import base64
import contextlib
import fnmatch
import json
import re
import socket
import threading
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha1, sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import PurePosixPath
from typing import Any

from hub_cards import card_errors

USER = "ball"
WRITE, READ, FINE = "hf_write_1", "hf_read_1", "hf_fine_1"  # FINE may write to the model ball/allowed alone
ROLES = {WRITE: "write", READ: "read", FINE: "fineGrained"}
LFS = ("*.safetensors", "*.bin", "*.pt", "*.parquet")
TYPE, REPO, REV = "(?P<type>models|datasets|spaces)", "(?P<repo>[^/]+(?:/[^/]+)??)", "(?P<revision>[^/]+)"
SITE = f"/(?P<type>datasets/|spaces/|){REPO}"
ROUTES = [  # name of the method that answers, verb, path
    ("whoami", "GET", "/api/whoami-v2"),
    ("create", "POST", "/api/repos/create"),
    ("validate", "POST", "/api/validate-yaml"),
    ("preupload", "POST", f"/api/{TYPE}/{REPO}/preupload/{REV}"),
    ("commit", "POST", f"/api/{TYPE}/{REPO}/commit/{REV}"),
    ("tree", "GET", f"/api/{TYPE}/{REPO}/tree/{REV}(?:/(?P<path>.*))?"),
    ("info", "GET", f"/api/{TYPE}/{REPO}(?:/revision/{REV})?"),
    ("batch", "POST", f"{SITE}\\.git/info/lfs/objects/batch"),
    ("put", "PUT", f"/lfs/{TYPE}/{REPO}/(?P<oid>[0-9a-f]{{64}})"),
    ("resolve", "GET", f"{SITE}/resolve/{REV}/(?P<path>.+)"),
]


class RefusedError(Exception):
    """A reply that is no success; the client reads its message and code from the headers."""

    def __init__(self, status: int, message: str = "", code: str = "", **body: Any):
        super().__init__(message)
        self.status, self.body = status, {"error": message or f"status {status}", **body}
        self.headers = {"X-Error-Message": self.body["error"]} | ({"X-Error-Code": code} if code else {})


@dataclass
class Repo:
    """A repository: its commits (id and files of each, oldest first) and the LFS objects that were put for it."""

    type: str
    id: str
    private: bool
    commits: list[tuple[str, dict[str, bytes]]] = field(
        default_factory=lambda: [("0" * 40, {})]
    )  # one is there at the start
    objects: dict[str, bytes] = field(default_factory=dict)

    @property
    def files(self) -> dict[str, bytes]:
        return self.commits[-1][1]


def is_lfs(path: str) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in LFS)


def etag(path: str, data: bytes) -> str:
    """How the Hub names the content of a file: by its SHA-256 in LFS, else as git does."""
    if is_lfs(path):
        return sha256(data).hexdigest()
    return sha1(f"blob {len(data)}\0".encode() + data).hexdigest()


def entry(path: str, data: bytes) -> dict[str, Any]:
    lfs = {"lfs": {"oid": etag(path, data), "size": len(data), "pointerSize": 134}} if is_lfs(path) else {}
    return {"type": "file", "path": path, "oid": etag(path, data)[:40], "size": len(data)} | lfs


class Hub(ThreadingHTTPServer):
    """The server, its repositories, the requests so far, and the faults that wait for the next ones."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[tuple[str, str], Repo] = {}
        self.lock = threading.Lock()
        self.clear()

    @property
    def environment(self) -> dict[str, str]:
        """What makes a client use this Hub; huggingface_hub reads it when it is imported."""
        # `datasets` would count downloads at S3, and ask the host datasets-server.127.0.0.1, whose proxy is this server
        flags = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
        proxy = {"http_proxy": self.url, "no_proxy": "127.0.0.1,localhost", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
        return {"HF_ENDPOINT": self.url, **flags, **proxy}

    def log(self) -> list[dict[str, Any]]:
        return self.requests

    def clear(self) -> None:
        """Forgets the requests and the faults; the repositories stay."""
        self.requests: list[dict[str, Any]] = []  # {"method", "path", "status"}; None for a broken connection
        self.faults: list[dict[str, Any]] = []

    def fault(self, route: str, status: int | None, times: int = 1) -> None:
        """The next `times` requests of a route get this status; None: the connection breaks in their body."""
        self.faults += [{"route": route, "status": status}] * times

    def files(self, repo_type: str, repo_id: str) -> dict[str, bytes]:
        """The files at the head of "main"."""
        return self.repos[repo_type, repo_id].files

    # --- the routes: (role of the token, parts of the path, body) -> what becomes JSON, or (bytes, headers)

    def find(self, role: str | None, parts: dict[str, str]) -> Repo:
        repo = self.repos.get(((parts.get("type") or "model").rstrip("s/"), parts["repo"]))
        if repo is None or (repo.private and role is None):
            raise RefusedError(404 if role else 401, "Repository not found", "RepoNotFound")
        return repo

    def check_may_write(self, role: str | None, repo_id: str) -> None:
        may_write = role == "write" or (role == "fineGrained" and repo_id == f"{USER}/allowed")
        if not may_write or repo_id.split("/")[0] != USER:
            raise RefusedError(403 if role else 401, "Authorization error.")

    def whoami(self, role: str | None, parts: dict[str, str], body: bytes) -> Any:
        if role is None:
            raise RefusedError(401)
        token: dict[str, Any] = {"displayName": "a token", "role": role}
        if role == "fineGrained":
            scope = {"entity": {"type": "model", "name": f"{USER}/allowed"}, "permissions": ["repo.write"]}
            token["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": [scope]}
        return {"type": "user", "name": USER, "orgs": [], "auth": {"type": "access_token", "accessToken": token}}

    def create(self, role: str | None, parts: dict[str, str], body: bytes) -> Any:
        request = json.loads(body)
        kind, repo_id = request.get("type") or "model", f"{request.get('organization') or USER}/{request['name']}"
        self.check_may_write(role, repo_id)
        address = {"url": f"{self.url}/{'' if kind == 'model' else kind + 's/'}{repo_id}", "name": repo_id}
        if (kind, repo_id) in self.repos:
            raise RefusedError(409, f"You already created this {kind} repo", **address)
        private = request.get("private") is True or request.get("visibility") == "private"
        self.repos[kind, repo_id] = Repo(kind, repo_id, private)
        return address

    def validate(self, role: str | None, parts: dict[str, str], body: bytes) -> Any:
        request = json.loads(body)
        errors = [{"message": text} for text in card_errors(request["content"], request.get("repoType") or "model")]
        if errors:
            raise RefusedError(400, "invalid metadata", errors=errors, warnings=[])
        return {"errors": [], "warnings": []}

    def preupload(self, role: str | None, parts: dict[str, str], body: bytes) -> Any:
        """Which files go to LFS, and the content that is already there, which the client does not send again."""
        self.check_may_write(role, parts["repo"])
        repo, files = self.find(role, parts), []
        for file in json.loads(body)["files"]:
            path = file["path"]
            oid = {"oid": etag(path, repo.files[path])} if path in repo.files else {}
            mode = "lfs" if is_lfs(path) else "regular"
            files.append({"path": path, "uploadMode": mode, "shouldIgnore": False} | oid)
        return {"files": files, "commitOid": repo.commits[-1][0]}

    def batch(self, role: str | None, parts: dict[str, str], body: bytes) -> Any:
        """Where to put each object; no address for one that is there already."""
        self.check_may_write(role, parts["repo"])
        repo, objects = self.find(role, parts), []
        for expected in json.loads(body)["objects"]:
            upload = {"href": f"{self.url}/lfs/{repo.type}s/{repo.id}/{expected['oid']}"}
            actions = {} if expected["oid"] in repo.objects else {"actions": {"upload": upload}}
            objects.append({"oid": expected["oid"], "size": expected["size"], "authenticated": True} | actions)
        return {"transfer": "basic", "objects": objects}

    def put(self, role: str | None, parts: dict[str, str], body: bytes) -> Any:
        if sha256(body).hexdigest() != parts["oid"]:
            raise RefusedError(400, "XAmzContentChecksumMismatch")
        self.find("write", parts).objects[parts["oid"]] = body
        return {}

    def commit(self, role: str | None, parts: dict[str, str], body: bytes) -> Any:
        self.check_may_write(role, parts["repo"])
        repo = self.find(role, parts)
        _, *operations = [json.loads(line) for line in body.splitlines() if line.strip()]
        files = dict(repo.files)
        for operation in operations:
            value = operation["value"]
            if operation["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"], validate=True)
            elif operation["key"] == "lfsFile" and value["oid"] in repo.objects:
                files[value["path"]] = repo.objects[value["oid"]]
            else:
                raise RefusedError(400, f"Your push was rejected: {value['path']}")
        if files != repo.files:
            repo.commits.append((sha1(body + str(len(repo.commits)).encode()).hexdigest(), files))
        oid = repo.commits[-1][0]
        return {"success": True, "commitOid": oid, "commitUrl": f"{self.url}/{repo.id}/commit/{oid}", "hookOutput": ""}

    def info(self, role: str | None, parts: dict[str, str], body: bytes) -> Any:
        repo = self.find(role, parts)
        siblings = [{"rfilename": path} for path in sorted(repo.files)]
        return {"id": repo.id, "sha": repo.commits[-1][0], "private": repo.private, "siblings": siblings}

    def tree(self, role: str | None, parts: dict[str, str], body: bytes) -> Any:
        """All files below a path, with their folders: every request of the clients here is content with that."""
        files, top = self.find(role, parts).files, parts.get("path", "")
        inside = {path: entry(path, data) for path, data in files.items() if not top or path.startswith(f"{top}/")}
        if top and not inside:
            raise RefusedError(404, f"{top} does not exist", "EntryNotFound")
        folders = {str(folder) for path in inside for folder in PurePosixPath(path).parents} - {"."}
        return [{"type": "directory", "path": path, "oid": "0" * 40, "size": 0} for path in folders] + [
            *inside.values()
        ]

    def resolve(self, role: str | None, parts: dict[str, str], body: bytes) -> Any:
        repo, path = self.find(role, parts), parts["path"]
        commit = {"X-Repo-Commit": repo.commits[-1][0]}
        if path not in repo.files:
            missing = RefusedError(404, "Entry not found", "EntryNotFound")
            missing.headers |= commit
            raise missing
        data = repo.files[path]
        tag = f'"{etag(path, data)}"'
        return data, commit | {"ETag": tag, "X-Linked-ETag": tag, "X-Linked-Size": str(len(data))}


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None: ...

    def body(self) -> bytes:
        """The body of the request, of a length or in chunks."""
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def answer(self) -> None:
        hub, path = self.server, urllib.parse.unquote(self.path.partition("?")[0])
        verb = "GET" if self.command == "HEAD" else self.command
        matches = ((name, re.fullmatch(pattern, path)) for name, of, pattern in ROUTES if of == verb)
        route, parts = next(((name, match.groupdict()) for name, match in matches if match), ("", {}))
        with hub.lock:
            fault = next((fault for fault in hub.faults if fault["route"] == route), None)
            if fault:
                hub.faults.remove(fault)
        if fault and fault["status"] is None:
            hub.requests.append({"method": self.command, "path": path, "status": None})
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        body, status = self.body(), 200
        try:
            if fault or not route:
                raise RefusedError(fault["status"] if fault else 404)
            token = self.headers.get("Authorization", "").removeprefix("Bearer ") if route != "put" else ""
            if token and token not in ROLES:
                raise RefusedError(401, "Invalid credentials in Authorization header")
            with hub.lock:
                made = getattr(hub, route)(ROLES.get(token), {k: v for k, v in parts.items() if v}, body)
            content, headers = made if isinstance(made, tuple) else (json.dumps(made).encode(), {})
        except RefusedError as refused:
            content, headers, status = json.dumps(refused.body).encode(), refused.headers, refused.status
        hub.requests.append({"method": self.command, "path": path, "status": status})
        self.send_response(status)
        for name, value in {"Content-Length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    do_GET = do_HEAD = do_POST = do_PUT = answer


@contextmanager
def running_hub() -> Iterator[Hub]:
    """An empty Hub, in a thread of this process."""
    with Hub() as hub:
        threading.Thread(target=hub.serve_forever, daemon=True).start()
        yield hub
        hub.shutdown()
