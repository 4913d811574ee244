"""Programs of the tests: started, waited for, and what is left of them ended."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from conftest import REPOSITORY

BIN = Path(sys.executable).parent
PPO = str(REPOSITORY / "scripts" / "ppo.py")
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def environment(**more: str) -> dict[str, str]:
    """This process's environment without what a launcher would have left in it."""
    kept = {k: v for k, v in os.environ.items() if k not in LAUNCHERS and not k.startswith("ACCELERATE_")}
    kept |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1"}
    return {**kept, "PYTHONPATH": str(REPOSITORY), **more}


def ppo_flags(data: Path, sft: Path, **more: object) -> list[str]:
    """Flags of a PPO of seconds, with a grader that needs no model."""
    options = {
        "dataset_name": data,
        "sft_model_path": sft,
        "grader": "rule:Yes",
        "allow_weak_grader": True,
        "num_mini_batches": 2,
        "per_device_train_batch_size": 24,
        "total_episodes": 240,
        "disable_tqdm": True,
        "output_dir": "run",
        **more,
    }
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def run(command: list[str], cwd: Path, env: dict[str, str], timeout: int = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)


def torchrun(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    """A script of `tests/` on two ranks."""
    return run([*TORCHRUN, *arguments], cwd, environment(ACCELERATE_USE_CPU="true"))


def start(command: list[str], cwd: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    """In a session of its own; both streams go to files, so that nobody has to read them while it runs."""
    with (cwd / "out.txt").open("a") as out, (cwd / "err.txt").open("a") as err:
        return subprocess.Popen(command, cwd=cwd, env=env, stdout=out, stderr=err, text=True, start_new_session=True)


def until(condition: Callable[[], object], seconds: float, cwd: Path) -> None:
    """Waits for `condition`, or fails with what the program wrote to stderr."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, (cwd / "err.txt").read_text()[-3000:]
        time.sleep(0.05)
