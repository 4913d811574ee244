"""The guard that no request leaves the machine: what it stops, lets through and reports."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from no_network.guarded_session import HERE, LOG

SWALLOW = "import contextlib, socket, asyncio, urllib.request\nwith contextlib.suppress(Exception):\n    "
ATTEMPTS = {
    "socket.create_connection(('192.0.2.1', 80), timeout=1)": "socket.connect 192.0.2.1:80",
    "socket.socket().connect_ex(('192.0.2.1', 443))": "socket.connect 192.0.2.1:443",
    "socket.socket(type=socket.SOCK_DGRAM).sendto(b'x', ('192.0.2.1', 53))": "socket.sendto 192.0.2.1:53",
    "socket.socket(type=socket.SOCK_DGRAM).sendmsg([b'x'], [], 0, ('192.0.2.1', 53))": "socket.sendmsg 192.0.2.1",
    "socket.socket(socket.AF_INET6).connect(('2001:db8::1', 80))": "socket.connect 2001:db8::1:80",
    "socket.getaddrinfo('example.org', 80)": "socket.getaddrinfo example.org",
    "socket.getaddrinfo(b'example.org', 80)": "socket.getaddrinfo example.org",
    "socket.gethostbyname('example.org')": "socket.gethostbyname example.org",
    "socket.gethostbyaddr('192.0.2.1')": "socket.gethostbyaddr 192.0.2.1",
    "socket.getnameinfo(('192.0.2.1', 80), 0)": "socket.getnameinfo 192.0.2.1",
    "asyncio.run(asyncio.open_connection('192.0.2.1', 80))": "socket.connect 192.0.2.1:80",
    "urllib.request.urlopen('http://example.org')": "socket.getaddrinfo example.org",
    "socket.create_connection(('huggingface.co', 443))": "socket.getaddrinfo huggingface.co",
}


def logged(code: str, log: Path, environment: dict[str, str] | None = None) -> tuple[str, list[str]]:
    """(what a Python process printed, what it was stopped from)."""
    guarded = (os.environ if environment is None else environment) | {LOG: str(log)}
    done = subprocess.run([sys.executable, "-c", code], env=guarded, cwd=log.parent, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip(), log.read_text().splitlines() if log.exists() else []


def test_every_attempt_is_stopped_and_logged_even_if_the_error_is_swallowed(tmp_path: Path) -> None:
    code = "\n".join(f"{SWALLOW}{attempt}\n    print('it was let through')" for attempt in ATTEMPTS)
    direct = {name: value for name, value in os.environ.items() if "proxy" not in name.lower()}
    out, lines = logged(code, tmp_path / "log", direct)
    assert out == "" and len(lines) == len(ATTEMPTS), (out, lines)
    for line, start in zip(lines, ATTEMPTS.values(), strict=True):
        assert line.startswith(start) and "test_every_attempt_is_stopped" in line


def test_sockets_of_this_machine_are_let_through(tmp_path: Path) -> None:
    code = """
import asyncio, socket, threading
with socket.create_server(("127.0.0.1", 0)) as server:
    address = server.getsockname()
    for host in ("127.0.0.1", "localhost"):
        with socket.create_connection((host, address[1])) as one:
            server.accept()[0].send(b"hello")
            assert one.recv(5) == b"hello"
    socket.socket(type=socket.SOCK_DGRAM).sendto(b"x", address)
    socket.gethostbyname(socket.gethostname())
    socket.getaddrinfo("192.0.2.1", 80)  # a number: nobody is asked
left, right = socket.socketpair()
left.send(b"hello")
print("all of it")
"""
    assert logged(code, tmp_path / "log") == ("all of it", [])


def test_processes_with_another_environment_and_their_children_are_guarded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(LOG, str(tmp_path / "log"))
    inner = f"{SWALLOW}socket.gethostbyname('example.org')"
    outer = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {inner!r}], env={{}}, check=True)"
    subprocess.run([sys.executable, "-c", outer], env={"PATH": "/usr/bin:/bin"}, check=True)
    spawned = (
        "import multiprocessing, socket\nif __name__ == '__main__':\n"
        "    with multiprocessing.get_context('spawn').Pool(1) as pool:\n"
        "        print(type(pool.apply_async(socket.gethostbyname, ['example.com']).wait()))"
    )
    subprocess.run([sys.executable, "-c", spawned], check=True, capture_output=True)
    events = [line.split("  ")[0] for line in (tmp_path / "log").read_text().splitlines()]
    assert events == ["socket.gethostbyname example.org", "socket.gethostbyname example.com"]


@pytest.mark.slow
@pytest.mark.parametrize("workers", ["0", "1"])
def test_session_with_an_attempt_fails_and_names_the_test(workers: str, tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text(
        "import contextlib, socket\n"
        "def test_good():\n    socket.gethostbyname('localhost')\n"
        "def test_bad():\n    with contextlib.suppress(OSError):\n        socket.gethostbyname('example.org')\n"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST")}
    environment |= {LOG: str(tmp_path / "log"), "PYTHONPATH": os.pathsep.join([str(HERE), str(HERE.parent)])}
    options = ["-q", "-p", "no_network.guarded_session", "-n", workers, "-c", "/dev/null"]
    command = [sys.executable, "-m", "pytest", *options, "."]
    for test, code, count in (("test_good", 0, 0), ("test_bad", 1, 1)):
        done = subprocess.run([*command, "-k", test], env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == code, done.stdout + done.stderr
        assert f"sockets to other hosts: {count} attempted" in done.stdout and "1 passed" in done.stdout
        assert ("socket.gethostbyname example.org  in test_it.py::test_bad (call)" in done.stdout) == bool(count)
        assert not (tmp_path / "log").exists()
