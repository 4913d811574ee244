"""The package's commands as the user of a Hub: in another process, since the client reads its settings once."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

from hub_server import WRITE as WRITE
from hub_server import Hub

_DRIVER = """
import contextlib, io, json, sys
from eightball_ppo.cli import commands
outcomes = []
for argv in json.loads(sys.argv[1]):
    out, err, code = io.StringIO(), io.StringIO(), 0
    sys.argv = ["eightball", *argv]
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            commands.main()
        except SystemExit as end:
            code = end.code
    outcomes.append([code or 0, out.getvalue(), err.getvalue()])
print(json.dumps(outcomes))
"""


class Outcome(NamedTuple):
    """How one command ended."""

    code: int
    out: str
    err: str


def settings(hub: Hub | None, home: Path, token: str) -> dict[str, str]:
    """The environment of a client: without the test session's, the hub's (None: the public one), and one token."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "HUGGING_FACE"))}
    client = {"HF_HOME": str(home), "HF_TOKEN": token, "HF_HUB_DISABLE_TELEMETRY": "1"}
    quiet = {"OMP_NUM_THREADS": "1", "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
    return {**kept, **client, **quiet, **(hub.environment if hub else {})}


def python(code: str, environment: dict[str, str], cwd: Path, *arguments: str) -> str:
    """What a fresh interpreter prints; the last line matters where libraries print, too."""
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, cwd=cwd, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def eightball(argvs: list[list[str]], environment: dict[str, str], cwd: Path) -> list[Outcome]:
    """Several `eightball` commands, one after the other, in one process."""
    return [Outcome(*one) for one in json.loads(python(_DRIVER, environment, cwd, json.dumps(argvs)).splitlines()[-1])]
