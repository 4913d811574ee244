"""The routes of the loopback Hub: who may do what, and what each request is answered."""

import binascii
import contextlib
import fnmatch
import json
import re
import threading
import urllib.parse
from hashlib import sha1, sha256
from typing import Any

import yaml

from hub_cards import SDKS, check_card, front_matter
from hub_repos import (
    LFS_SIZE,
    MESSAGES,
    Blob,
    RefusalError,
    Reply,
    Repo,
    Request,
    apply_operation,
    entries_of,
    metadata_errors,
    ranged,
)

USER, ORG, ALLOWED = "ball", "toys", ("model", "ball/allowed")
ROLES = {"hf_write_": "write", "hf_read_": "read", "hf_fine_": "fineGrained"}
LFS = ("*.safetensors", "*.bin", "*.pt", "*.parquet")
REPO_NAME = re.compile(r"(?!.*(--|\.\.))[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?", re.ASCII)
TYPE, REPO, REV = "(?P<type>models|datasets|spaces)", "(?P<repo>[^/]+(?:/[^/]+)??)", "(?P<revision>[^/]+)"
SITE = f"/(?P<type>datasets/|spaces/|){REPO}"
# (name of the route and, with _ for -, of its method; verb; path)
ROUTES = [
    ("whoami", "GET", "/api/whoami-v2"),
    ("create", "POST", "/api/repos/create"),
    ("validate", "POST", "/api/validate-yaml"),
    ("preupload", "POST", f"/api/{TYPE}/{REPO}/preupload/{REV}"),
    ("commit", "POST", f"/api/{TYPE}/{REPO}/commit/{REV}"),
    ("paths_info", "POST", f"/api/{TYPE}/{REPO}/paths-info/{REV}"),
    ("tree", "GET", f"/api/{TYPE}/{REPO}/tree/{REV}(?:/(?P<path>.*))?"),
    ("refs", "GET", f"/api/{TYPE}/{REPO}/refs"),
    ("commits", "GET", f"/api/{TYPE}/{REPO}/commits/{REV}"),
    ("info", "GET", f"/api/{TYPE}/{REPO}/revision/{REV}"),
    ("info", "GET", f"/api/{TYPE}/{REPO}"),
    ("batch", "POST", f"{SITE}\\.git/info/lfs/objects/batch"),
    ("put", "PUT", f"/lfs/{TYPE}/{REPO}/put/(?P<oid>[0-9a-f]{{64}})"),
    ("verify", "POST", f"/lfs/{TYPE}/{REPO}/verify"),
    ("resolve", "GET", f"{SITE}/resolve/{REV}/(?P<path>.+)"),
]


def route_of(verb: str, path: str) -> tuple[str, dict[str, str]]:
    """The name of the route of a request and the parts of its path; ("", {}) for none."""
    for name, of_verb, pattern in ROUTES:
        if (found := re.fullmatch(pattern, path)) and of_verb == ("GET" if verb == "HEAD" else verb):
            return name, {key: urllib.parse.unquote(part) for key, part in found.groupdict().items() if part}
    return "", {}


def role_of(authorization: str) -> str | None:
    """The role of a token, None for no token; one that nobody was given is refused everywhere."""
    token = authorization.removeprefix("Bearer ").strip()
    for prefix, role in ROLES.items():
        if token.startswith(prefix):
            return role
    if token:
        raise RefusalError(401, "Invalid credentials in Authorization header")
    return None


class State:
    """All that the server knows. Each route is a method that returns bytes in a `Reply`, or what becomes JSON."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.repos: dict[tuple[str, str], Repo] = {}
        self.granted: set[tuple[str, str, str]] = set()  # (type, id, oid) that a batch has given an address to

    def find(self, request: Request) -> Repo:
        """The repository of the path; one that this token may not see is not there."""
        repo_type, repo_id = request.parts.get("type", "").rstrip("s/") or "model", request.parts["repo"]
        repo = self.repos.get((repo_type, repo_id))
        hidden = repo and repo.private and (repo_type, repo_id) != ALLOWED and request.role == "fineGrained"
        if repo is None or hidden or (repo.private and not request.role):
            # The client knows a 401 of a repository by its https address; to an http one the code must be said.
            status, message = (404, "Repository not found") if request.role else (401, MESSAGES[401])
            raise RefusalError(status, message, "RepoNotFound")
        return repo

    def writable(self, request: Request) -> Repo:
        repo_type, repo_id = request.parts.get("type", "").rstrip("s/") or "model", request.parts["repo"]
        if request.role is None:
            raise RefusalError(401)
        mine = repo_id.split("/")[0] in (USER, ORG)
        if not mine or request.role == "read" or (request.role == "fineGrained" and (repo_type, repo_id) != ALLOWED):
            raise RefusalError(403)
        return self.find(request)

    def whoami(self, request: Request) -> Any:
        if request.role is None:
            raise RefusalError(401)
        token: dict[str, Any] = {"displayName": f"a {request.role} token", "role": request.role}
        if request.role == "fineGrained":
            entity = {"_id": "3", "type": ALLOWED[0], "name": ALLOWED[1]}
            scope = {"entity": entity, "permissions": ["repo.content.read", "repo.write"]}
            token["fineGrained"] = {"canReadGatedRepos": False, "global": [], "scoped": [scope]}
        org = {"type": "org", "id": "2", "name": ORG, "fullname": "Toys", "roleInOrg": "write", "isEnterprise": False}
        person = {"type": "user", "id": "1", "name": USER, "fullname": "Magic Ball", "isPro": False, "orgs": [org]}
        return person | {"auth": {"type": "access_token", "accessToken": token}}

    def create(self, request: Request) -> Any:
        if request.role is None:
            raise RefusalError(401)
        asked = request.json()
        name, owner, kind = asked.get("name"), asked.get("organization") or USER, asked.get("type") or "model"
        if not (isinstance(name, str) and REPO_NAME.fullmatch(name)) or name.endswith((".git", ".ipynb")):
            raise RefusalError(400, f"Invalid repo name: {name}")
        if kind not in ("model", "dataset", "space"):
            raise RefusalError(400, f"Invalid repo type: {kind}")
        if request.role != "write" or owner not in (USER, ORG):
            raise RefusalError(403, f'You don\'t have the rights to create a {kind} under the namespace "{owner}"')
        if kind == "space" and asked.get("sdk") not in SDKS:
            raise RefusalError(400, f'"sdk" must be one of [{", ".join(SDKS)}]')
        private = asked.get("private") is True or asked.get("visibility") == "private"
        repo = Repo(kind, f"{owner}/{name}", private, asked.get("sdk") if kind == "space" else None)
        address = {"url": f"{request.url}/{repo.path}", "name": repo.id}
        if (kind, repo.id) in self.repos:
            raise RefusalError(409, f"You already created this {kind} repo", **address)
        attributes = "".join(f"{pattern} filter=lfs diff=lfs merge=lfs -text\n" for pattern in LFS)
        repo.add("initial commit", "", {".gitattributes": Blob(attributes.encode(), False)})
        self.repos[kind, repo.id] = repo
        return address | {"id": repo.id, "private": private}

    def validate(self, request: Request) -> Any:
        asked = request.json()
        kind = asked.get("repoType") or "model"
        if kind not in ("model", "dataset", "space") or not isinstance(asked.get("content"), str):
            raise RefusalError(400, f"Invalid repoType or content: {kind}")
        errors, warnings = check_card(asked["content"], kind)
        answer = {"errors": [{"message": text} for text in errors], "warnings": [{"message": w} for w in warnings]}
        return Reply(json.dumps(answer).encode(), 400 if errors else 200)

    def preupload(self, request: Request) -> Any:
        repo = self.writable(request)
        commit, files = repo.at(request.parts["revision"]), []
        for asked in request.json()["files"]:
            large = asked["size"] > LFS_SIZE or any(fnmatch.fnmatch(asked["path"], pattern) for pattern in LFS)
            answer = {"path": asked["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}
            there = commit.files.get(asked["path"])
            files.append(answer | ({"oid": there.etag} if there else {}))
        return {"files": files, "commitOid": commit.oid}

    def batch(self, request: Request) -> Any:
        repo = self.writable(request)
        asked, objects = request.json(), []
        if asked.get("operation") != "upload" or "basic" not in asked.get("transfers", ["basic"]):
            raise RefusalError(400, "only uploads by the transfer basic")
        for wanted in asked["objects"]:
            answer: dict[str, Any] = {"oid": wanted["oid"], "size": wanted["size"]}
            if wanted["oid"] not in repo.objects:
                self.granted.add((repo.type, repo.id, wanted["oid"]))
                stem = f"{request.url}/lfs/{repo.type}s/{repo.id}"
                links = {"upload": {"href": f"{stem}/put/{wanted['oid']}"}, "verify": {"href": f"{stem}/verify"}}
                answer |= {"authenticated": True, "actions": links}
            objects.append(answer)
        return {"transfer": "basic", "objects": objects}

    def put(self, request: Request) -> Any:
        kind, repo_id, oid = request.parts.get("type", "").rstrip("s/"), request.parts["repo"], request.parts["oid"]
        if (kind, repo_id, oid) not in self.granted:
            raise RefusalError(403, "SignatureDoesNotMatch")
        if sha256(request.body).hexdigest() != oid:
            raise RefusalError(
                400, "XAmzContentChecksumMismatch: the SHA-256 of the bytes is not the one that was signed"
            )
        self.repos[kind, repo_id].objects[oid] = request.body
        return Reply(b"", 200, {"ETag": f'"{oid}"'})

    def verify(self, request: Request) -> Any:
        asked, stored = request.json(), self.writable(request).objects
        if len(stored.get(asked["oid"], b"")) != asked["size"]:
            raise RefusalError(404 if asked["oid"] not in stored else 400, f"object {asked['oid']} is not as announced")
        return {}

    def commit(self, request: Request) -> Any:
        repo = self.writable(request)
        if request.query.get("create_pr"):
            raise RefusalError(400, "this server has no pull requests")
        if request.parts["revision"] != "main":
            raise RefusalError(404, f"Invalid rev id: {request.parts['revision']}", "RevisionNotFound")
        try:
            lines = [json.loads(line) for line in request.body.splitlines() if line.strip()]
            header = next(line["value"] for line in lines if line["key"] == "header")
            files = dict(repo.head.files)
            for line in lines:
                if line["key"] != "header":
                    apply_operation(repo, files, line["key"], line["value"])
        except (ValueError, KeyError, TypeError, StopIteration, binascii.Error) as reason:
            raise RefusalError(400, f"Invalid commit: {type(reason).__name__} {reason}") from reason
        if not header.get("summary"):
            raise RefusalError(400, "Commit message cannot be empty")
        parent = header.get("parentCommit")
        if parent and not repo.head.oid.startswith(parent):
            raise RefusalError(412, "A commit has happened since. Please refresh and try again.")
        changed = {path: blob for path, blob in files.items() if repo.head.files.get(path) != blob}
        if errors := metadata_errors(repo.type, changed):
            raise RefusalError(400, "Your push was rejected: invalid metadata", errors=[{"message": e} for e in errors])
        if files != repo.head.files:
            repo.add(header["summary"], header.get("description", ""), files)
        address = f"{request.url}/{repo.path}/commit/{repo.head.oid}"
        return {"success": True, "commitOid": repo.head.oid, "commitUrl": address, "hookOutput": ""}

    def info(self, request: Request) -> Any:
        repo = self.find(request)
        commit = repo.at(request.parts.get("revision") or "main")
        blobs, siblings = "blobs" in request.query, []
        for path, blob in sorted(commit.files.items()):
            entry = blob.described()
            lfs = {"sha256": blob.sha256, "size": entry["size"], "pointerSize": len(blob.pointer)} if blob.lfs else None
            extra = {"size": entry["size"], "blobId": entry["oid"], "lfs": lfs} if blobs else {}
            siblings.append({"rfilename": path} | extra)
        card = None
        with contextlib.suppress(yaml.YAMLError, KeyError, UnicodeDecodeError):
            card = front_matter(commit.files["README.md"].data.decode())
        answer = {"_id": sha1(repo.path.encode()).hexdigest()[:24], "id": repo.id, "author": repo.id.split("/")[0]}
        answer |= {"sha": commit.oid, "lastModified": commit.date, "createdAt": repo.commits[0].date}
        facts = {
            "private": repo.private,
            "gated": False,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "sdk": repo.sdk,
        }
        card = card if isinstance(card, dict) else {}
        labels = {key: card.get(key) for key in ("pipeline_tag", "library_name")} if repo.type == "model" else {}
        return answer | facts | labels | {"siblings": siblings, "tags": card.get("tags") or [], "cardData": card}

    def refs(self, request: Request) -> Any:
        main = {"name": "main", "ref": "refs/heads/main", "targetCommit": self.find(request).head.oid}
        return {"branches": [main], "tags": [], "converts": []}

    def commits(self, request: Request) -> Any:
        repo = self.find(request)
        line = repo.commits[: repo.commits.index(repo.at(request.parts["revision"])) + 1]
        told = [{"id": c.oid, "title": c.title, "message": c.description, "date": c.date} for c in reversed(line)]
        return [commit | {"authors": [{"user": USER}]} for commit in told]

    def tree(self, request: Request) -> Any:
        repo = self.find(request)
        commit = repo.at(request.parts["revision"])
        top = (request.parts.get("path") or "").strip("/")
        entries = entries_of(repo, commit)
        inside = {path: entry for path, entry in entries.items() if not top or path.startswith(f"{top}/")}
        if top and not inside:
            raise RefusalError(404, f"{top} does not exist on {request.parts['revision']!r}", "EntryNotFound")
        if request.query.get("recursive", ["false"])[0].lower() not in ("true", "1"):
            inside = {path: e for path, e in inside.items() if "/" not in path[len(top) :].strip("/")}
        return list(inside.values())

    def paths_info(self, request: Request) -> Any:
        repo = self.find(request)
        entries = entries_of(repo, repo.at(request.parts["revision"]))
        form = "json" not in request.headers.get("Content-Type", "")
        asked = urllib.parse.parse_qs(request.body.decode()).get("paths", []) if form else request.json()["paths"]
        return [entries[path.strip("/")] for path in asked if path.strip("/") in entries]

    def resolve(self, request: Request) -> Any:
        repo = self.find(request)
        commit = repo.at(request.parts["revision"])
        blob = commit.files.get(request.parts["path"])
        if blob is None:
            refusal = RefusalError(404, "Entry not found", "EntryNotFound")
            refusal.headers["X-Repo-Commit"] = commit.oid
            raise refusal
        headers = {"X-Repo-Commit": commit.oid, "ETag": f'"{blob.etag}"', "Accept-Ranges": "bytes"}
        if blob.lfs:
            headers |= {"X-Linked-ETag": f'"{blob.sha256}"', "X-Linked-Size": str(len(blob.data))}
        return ranged(blob.data, request.headers.get("Range", ""), headers)
