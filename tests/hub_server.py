"""A small Hugging Face Hub on the loopback: what the untouched clients ask when they push and load, and faults.

    python tests/hub_server.py --port 0       # prints {"url": "http://127.0.0.1:PORT"} and serves until killed
    with running_hub() as hub: ...            # the same in a test; clients get `hub.environment` and a token

State is in memory. Tokens: hf_write_*, hf_read_*, hf_fine_* (repo.write on the model ball/allowed alone), all of the
user "ball" in the organisation "toys". Written from the client's code, never compared with the real Hub. No xet, no
pull requests, branches or .gitignore.
"""

import argparse
import base64
import contextlib
import json
import socket
import subprocess
import sys
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from hub_repos import RefusalError, Reply, Request
from hub_routes import State, role_of, route_of

FAULTS = ("status", "cut", "slow")
FAULT_ROUTES = ("whoami", "create", "preupload", "batch", "put", "verify", "commit", "resolve", "any")


class Server(ThreadingHTTPServer):
    """The Hub, what was asked of it, and what goes wrong."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int) -> None:
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.state = State()
        self.log: list[dict[str, Any]] = []
        self.faults: list[dict[str, Any]] = []

    def fault(self, route: str) -> dict[str, Any]:
        """What goes wrong with this request, counted as used; {} for nothing."""
        with self.state.lock:
            for fault in self.faults:
                if fault["route"] in (route, "any") and fault["times"] > 0:
                    fault["times"] -= 1
                    return fault
        return {}

    def admin(self, path: str, query: dict[str, list[str]], body: bytes) -> Any:
        """The routes of `Hub`."""
        if path == "fault":
            fault = json.loads(body)
            if fault["kind"] not in FAULTS or fault["route"] not in FAULT_ROUTES:
                raise RefusalError(400, f"no fault {fault}; there are {FAULTS} for {FAULT_ROUTES}")
            self.faults.append(fault)
        if path == "clear":
            self.log.clear()
            self.faults.clear()
        if path in ("fault", "clear", "log"):
            return self.log
        repo = self.state.repos.get((query["type"][0], query["id"][0]))
        if path == "files":
            files = repo.head.files if repo else {}
            return {name: base64.b64encode(blob.data).decode() for name, blob in files.items()}
        if repo is None:
            return None
        commits = [{"oid": c.oid, "title": c.title, "description": c.description} for c in repo.commits]
        return {"private": repo.private, "sdk": repo.sdk, "commits": commits}


class Handler(BaseHTTPRequestHandler):
    """One connection, kept alive."""

    server: Server
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: the tests read the log that the server keeps."""

    def body(self, most: int | None = None) -> bytes:
        """The body of the request, of a length or in chunks, or its first bytes."""
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            return b"".join(parts)[:most]
        length = int(self.headers.get("Content-Length") or 0)
        return self.rfile.read(length if most is None else min(most, length))

    def answer(self) -> None:
        """One request: the fault that waits for it, or its route's reply."""
        path, _, query = self.path.partition("?")
        asked = urllib.parse.parse_qs(query)
        admin = path.removeprefix("/__test__/") if path.startswith("/__test__/") else ""
        route, parts = route_of(self.command, path)
        fault = {} if admin else self.server.fault(route)
        if fault.get("kind") == "cut":
            self.body(int(fault.get("after", 0)))
            self.note(path, None)
            self.close_connection = True
            with contextlib.suppress(OSError):
                self.connection.shutdown(socket.SHUT_RDWR)
            return
        body = self.body()
        if fault.get("kind") == "slow":
            time.sleep(fault["seconds"])
        try:
            if fault.get("kind") == "status":
                raise RefusalError(int(fault["code"]), fault.get("message", ""), fault.get("error_code", ""))
            if admin:
                found = self.server.admin(admin, asked, body)
            elif not route:
                raise RefusalError(404, "Sorry, we can't find the page you are looking for.")
            else:
                role = role_of("" if route == "put" else self.headers.get("Authorization", ""))
                request = Request(self.server.url, role, parts, asked, self.headers, body)
                with self.server.state.lock:
                    found = getattr(self.server.state, route)(request)
            reply = found if isinstance(found, Reply) else Reply(json.dumps(found).encode())
        except RefusalError as refusal:
            reply = Reply(json.dumps(refusal.body).encode(), refusal.status, refusal.headers)
        except Exception as reason:  # a server's mistake must not look like one of the client's
            reply = Reply(json.dumps({"error": f"hub_server: {reason!r}"}).encode(), 500, {})
        if not admin:
            self.note(path, reply.status)
        self.send(reply)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = answer

    def note(self, path: str, status: int | None) -> None:
        self.server.log.append({"method": self.command, "path": urllib.parse.unquote(path), "status": status})

    def send(self, reply: Reply) -> None:
        self.send_response(reply.status)
        kind = "application/octet-stream" if "ETag" in reply.headers else "application/json; charset=utf-8"
        for name, value in ({"Content-Type": kind, "Content-Length": str(len(reply.body))} | reply.headers).items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(reply.body)


@dataclass
class Hub:
    """A Hub that runs in a process of its own."""

    url: str

    @property
    def environment(self) -> dict[str, str]:
        """What makes a client use this Hub; huggingface_hub reads it when it is imported.

        `datasets` would count its downloads at S3 and ask the host datasets-server.127.0.0.1 for exports: the first is
        switched off, and this server is the proxy for the second, which it has not.
        """
        flags = {"HF_HUB_DISABLE_XET": "1", "HF_HUB_DISABLE_TELEMETRY": "1", "HF_HUB_OFFLINE": "0"}
        proxy = {"http_proxy": self.url, "no_proxy": "127.0.0.1,localhost", "HF_UPDATE_DOWNLOAD_COUNTS": "0"}
        return {"HF_ENDPOINT": self.url, **flags, **proxy}

    def log(self) -> list[dict[str, Any]]:
        """{"method", "path", "status"} of each request since the last `clear`; the status of a cut one is None."""
        answer: list[dict[str, Any]] = self._call("log")
        return answer

    def fault(self, kind: str, route: str, times: int = 1, **details: Any) -> None:
        """ "status" (code, message, error_code), "cut" (after: bytes of the body) or "slow" (seconds) on a route."""
        self._call("fault", {"kind": kind, "route": route, "times": times, **details})

    def clear(self) -> None:
        """Forgets the log and the faults; the repositories stay."""
        self._call("clear", {})

    def files(self, repo_type: str, repo_id: str) -> dict[str, bytes]:
        """The files at the head of "main"; {} where there is no repository."""
        found = self._call("files?" + urllib.parse.urlencode({"type": repo_type, "id": repo_id}))
        return {path: base64.b64decode(content) for path, content in found.items()}

    def repo(self, repo_type: str, repo_id: str) -> dict[str, Any] | None:
        """{"private", "sdk", "commits": oldest first, of {"oid", "title", "description"}}, or None."""
        found: dict[str, Any] | None = self._call("repo?" + urllib.parse.urlencode({"type": repo_type, "id": repo_id}))
        return found

    def _call(self, path: str, content: Any = None) -> Any:
        direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        data = None if content is None else json.dumps(content).encode()
        with direct.open(f"{self.url}/__test__/{path}", data, timeout=10) as response:
            return json.load(response)


@contextmanager
def running_hub() -> Iterator[Hub]:
    """Starts an empty Hub and kills it at the end."""
    with subprocess.Popen([sys.executable, __file__, "--port", "0"], stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield Hub(json.loads(process.stdout.readline())["url"])
        finally:
            process.kill()


def main() -> None:
    """Prints the address and serves until killed."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    server = Server(parser.parse_args().port)
    print(json.dumps({"url": server.url}), flush=True)
    server.serve_forever()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
