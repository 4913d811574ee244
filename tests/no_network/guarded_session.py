"""The session's side of the guard: its import switches it on; at the end, fail if anything was counted."""

import os
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
LOG = "EIGHTBALL_NETWORK_LOG"


def switch_on() -> None:
    """For this process and all that it starts; the workers of pytest-xdist inherit the log of their session."""
    if LOG not in os.environ:
        descriptor, os.environ[LOG] = tempfile.mkstemp(prefix="network-", suffix=".log")
        os.close(descriptor)
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if str(HERE) not in paths:
        os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE), *filter(None, paths)])
    from no_network import sitecustomize

    sitecustomize.install()


def attempts() -> list[str]:
    """What was stopped so far, by all processes."""
    log = Path(os.environ[LOG])
    return log.read_text(encoding="utf-8").splitlines() if log.exists() else []


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A session that asked for another host has failed, whatever its tests say."""
    if not hasattr(session.config, "workerinput") and attempts():
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The count, and who it was."""
    lines = attempts()
    for line in lines:
        terminalreporter.write_line(line, red=True)
    terminalreporter.write_line(f"sockets to other hosts: {len(lines)} attempted", red=bool(lines))


def pytest_unconfigure(config: pytest.Config) -> None:
    """The log of a session goes with it."""
    if not hasattr(config, "workerinput"):
        Path(os.environ[LOG]).unlink(missing_ok=True)


switch_on()
