"""Two processes on one machine: equal weights, shared work, one writer."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from conftest import REPOSITORY


def torchrun(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", *arguments]
    return subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=240)


def test_ranks_end_with_equal_weights_and_split_the_questions() -> None:
    done = torchrun("tests/two_ranks.py")
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = json.loads(done.stdout.strip().splitlines()[-1])
    assert first["processes"] == second["processes"] == 2
    for model in ("policy", "value", "reference"):
        assert first[model] == second[model]
    assert first["policy"] != first["reference"]
    # every question twice a pass, over both ranks together
    assert Counter(first["rows"] + second["rows"]) == dict.fromkeys(range(24), 2 * 4)
