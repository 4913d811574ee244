"""Processes of the tests: programs that are started, and ranks that are forked, which saves their imports."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch

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
    options: dict[str, object] = {"dataset_name": data, "sft_model_path": sft, "grader": "rule:Yes"}
    options |= {"allow_weak_grader": True, "num_mini_batches": 2, "per_device_train_batch_size": 24}
    options |= {"total_episodes": 240, "disable_tqdm": True, "output_dir": "run", **more}
    return [word for name, value in options.items() for word in (f"--{name}", str(value))]


def run(command: list[str], cwd: Path, env: dict[str, str], timeout: int = 240) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)


def torchrun(*arguments: str, cwd: Path = REPOSITORY) -> subprocess.CompletedProcess[str]:
    """A script on two ranks."""
    return run([*TORCHRUN, *arguments], cwd, environment(ACCELERATE_USE_CPU="true"))


def start(command: list[str], cwd: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    """Both streams go to files, so that nobody has to read them while it runs."""
    with (cwd / "out.txt").open("a") as out, (cwd / "err.txt").open("a") as err:
        return subprocess.Popen(command, cwd=cwd, env=env, stdout=out, stderr=err, text=True, start_new_session=True)


def until(condition: Callable[[], object], seconds: float, output: Path) -> None:
    """Waits for `condition`, or fails with what the process wrote to `output`."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, output.read_text()[-3000:]
        time.sleep(0.05)


def fork(work: Callable[[], object], output: Path) -> int:
    """The id of a process that does `work` and exits with 0 or as it says; its streams go to `output`."""
    pid = os.fork()
    if pid:
        return pid
    code = 1
    try:
        file = output.open("w", buffering=1)
        os.dup2(file.fileno(), 1), os.dup2(file.fileno(), 2)
        sys.stdout = sys.stderr = file
        work()
        code = 0
    except SystemExit as end:
        code = int(end.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def exit_code(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def fork_ranks(work: Callable[[int], Any], directory: Path) -> list[int]:
    """The ids of two ranks, on CPU over gloo, which write what `work(rank)` returns to `directory`, as JSON."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": "2"}

    def on_rank(rank: int) -> None:
        from accelerate.state import AcceleratorState, GradientState

        AcceleratorState._reset_state(reset_partial_state=True)  # an earlier test may have trained in this process
        GradientState._reset_state()
        os.environ.update(address, RANK=str(rank), LOCAL_RANK=str(rank), ACCELERATE_USE_CPU="true")
        (directory / f"rank-{rank}.json").write_text(json.dumps(work(rank)))
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()

    return [fork(partial(on_rank, rank), directory / f"rank-{rank}.txt") for rank in (0, 1)]


@contextmanager
def killed_at_the_end(pids: list[int]) -> Iterator[None]:
    """Whatever fails inside, the processes do not outlive it."""
    try:
        yield
    finally:
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
            except (ProcessLookupError, ChildProcessError):
                continue


def on_two_ranks(work: Callable[[int], Any], directory: Path) -> list[Any]:
    """What `work(rank)` returns on each of two ranks."""
    pids = fork_ranks(work, directory)
    running, failed, end = set(pids), set[int](), time.monotonic() + 600
    with killed_at_the_end(pids):
        while running and not failed and time.monotonic() < end:
            for pid in list(running):
                if os.waitpid(pid, os.WNOHANG)[0]:
                    running.remove(pid)
            time.sleep(0.02)
            failed = {rank for rank, pid in enumerate(pids) if pid not in running} - {
                rank for rank in (0, 1) if (directory / f"rank-{rank}.json").is_file()
            }
    texts = [(directory / f"rank-{rank}.txt").read_text()[-3000:] for rank in (0, 1)]
    assert not running and not failed, texts
    return [json.loads((directory / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
