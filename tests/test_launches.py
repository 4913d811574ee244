"""Real launches of more than one process and machine, on CPU over gloo."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import BIN, PPO, TORCHRUN, environment, fork_ranks, killed_at_the_end, ppo_flags, run, start, until

from conftest import REPOSITORY
from eightball_ppo.errors import InputError
from eightball_ppo.runtime import launch
from eightball_ppo.runtime.run import read_results
from hub_client import WRITE, settings
from hub_server import running_hub

RECIPES = REPOSITORY / "recipes" / "accelerate"
ACCELERATE = [str(BIN / "accelerate"), "launch"]


def descendants(pid: int) -> list[int]:
    """The living children of a process, and theirs."""
    try:
        children = [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [found for child in children for found in (child, *descendants(child))]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Launchers: what is left of one at the end is killed, with its ranks."""
    launchers: list[subprocess.Popen[str]] = []
    yield launchers
    for launcher in launchers:
        with killed_at_the_end([launcher.pid, *descendants(launcher.pid)]):
            pass


@pytest.mark.slow
def test_accelerate_launch_of_isolated_processes_ends_with_the_right_command(tmp_path: Path) -> None:
    done = run([*ACCELERATE, "--cpu", "--num_processes", "2", PPO], tmp_path, environment())
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("ppo.py: ")]
    assert done.returncode != 0 and "exit status 2" in done.stderr  # the launcher itself ends with 1
    assert "torchrun" in line and not (tmp_path / "runs").exists()


@pytest.mark.slow
def test_two_launched_processes_are_one_job(small_data: Path, sft_run: Path, tmp_path: Path) -> None:
    """One printer and writer, every question graded once, one upload."""
    with running_hub() as hub:
        env = {**environment(), **settings(hub, tmp_path / "home", WRITE), "ACCELERATE_USE_CPU": "true"}
        more = {"push_to_hub": True, "hub_model_id": "two-ranks", "save_steps": 2, "save_total_limit": 1}
        flags = ppo_flags(small_data, sft_run, log_completions=True, **more)
        done = run([*ACCELERATE, "--config_file", str(RECIPES / "cpu_2proc.yaml"), PPO, *flags], tmp_path, env)
        assert done.returncode == 0, done.stderr[-3000:]
        commits = [request for request in hub.log() if "/commit/" in request["path"]]
    results = read_results(tmp_path / "run")
    assert results["world_size"] == 2 and results["updates"] == 240 // (2 * 24)
    assert results["grades"]["calls"] == 100  # 60 training and 40 held-out questions
    assert done.stdout.count("before and after") == 1 and done.stdout.count("pushed run -> ") == 1
    assert len(commits) == 1
    assert [path.name for path in (tmp_path / "run").glob("*checkpoint*")] == ["checkpoint-4"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("rank", [0, 1])  # the one that listens, and the one that calls
def test_a_missing_process_is_an_error_within_ddp_timeout(rank: int, tmp_path: Path) -> None:
    def wait(this_rank: int) -> str:
        if this_rank != rank:
            return "never comes"
        with pytest.raises(InputError) as error:
            launch.init_process_group(2)
        return str(error.value)

    began = time.monotonic()
    pids = fork_ranks(wait, tmp_path)
    with killed_at_the_end(pids):
        until((tmp_path / f"rank-{rank}.json").exists, 40, tmp_path / f"rank-{rank}.txt")
        assert os.waitpid(pids[rank], 0)[1] == 0 and time.monotonic() - began < 40
    message = (tmp_path / f"rank-{rank}.json").read_text()
    assert "not all 2 processes came to 127.0.0.1:" in message and "--ddp_timeout 2 s" in message


def rank_processes(launcher: subprocess.Popen[str]) -> list[int]:
    """The process of each rank."""
    found: dict[int, int] = {}
    for pid in descendants(launcher.pid):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        found |= {int(word.removeprefix(b"RANK=")): pid for word in variables if word.startswith(b"RANK=")}
    return [found[0], found[1]]


@pytest.mark.parametrize("rank", [pytest.param(0, marks=pytest.mark.slow), pytest.param(1, marks=pytest.mark.long)])
def test_a_killed_rank_ends_the_job_and_its_last_checkpoint_answers(
    rank: int, small_data: Path, sft_run: Path, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    flags = ppo_flags(small_data, sft_run, total_episodes=10**7, save_steps=1, save_total_limit=2)
    env = environment(ACCELERATE_USE_CPU="true")
    started.append(start([*TORCHRUN, PPO, *flags], tmp_path, env))
    unfinished = tmp_path / "run.unfinished"
    until(lambda: len(list(unfinished.glob("checkpoint-*"))) == 2, 90, tmp_path / "err.txt")
    os.kill(rank_processes(started[0])[rank], signal.SIGKILL)
    assert started[0].wait(timeout=60) != 0
    newest = max(unfinished.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    predict = [str(BIN / "eightball"), "predict", "Will I be rich?", "--model_name_or_path", str(newest)]
    answered = run(predict, tmp_path, environment())
    assert answered.returncode == 0 and "Yes" in answered.stdout, answered.stderr
    again = run([sys.executable, PPO, *flags], tmp_path, env)
    assert again.returncode == 2 and "run.unfinished holds checkpoints" in again.stderr
    assert newest.is_dir()


# --- two machines: network namespaces


@pytest.fixture
def two_machines() -> Iterator[tuple[str, str]]:
    """Names of two network namespaces on one cable, 10.77.0.1 and 10.77.0.2."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and `ip`")
    names = (f"eb{os.getpid()}a", f"eb{os.getpid()}b")
    made = [subprocess.run(["ip", "netns", "add", name], capture_output=True).returncode == 0 for name in names]
    try:
        if not all(made):
            pytest.skip("this machine allows no new network namespaces")
        cable = ["link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1]]
        subprocess.run(["ip", "-n", names[0], *cable], check=True)
        for number, name in enumerate(names, 1):
            for words in (f"addr add 10.77.0.{number}/24 dev cable", "link set cable up", "link set lo up"):
                subprocess.run(["ip", "-n", name, *words.split()], check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


@pytest.mark.slow
def test_two_machines_are_one_job(
    two_machines: tuple[str, str], small_data: Path, sft_run: Path, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    env = environment(ACCELERATE_USE_CPU="true", GLOO_SOCKET_IFNAME="cable")
    shared = ["--main_process_ip", "10.77.0.1", "--main_process_port", "29521", PPO, *ppo_flags(small_data, sft_run)]
    config = ["--config_file", str(RECIPES / "multi_node.yaml")]
    for rank, name in enumerate(two_machines):
        command = [*ACCELERATE, *config, "--machine_rank", str(rank), *shared]
        started.append(start(["ip", "netns", "exec", name, *command], tmp_path, env))
    codes = [machine.wait(timeout=180) for machine in started]
    assert codes == [0, 0], (tmp_path / "err.txt").read_text()[-3000:]
    results = read_results(tmp_path / "run")
    assert results["world_size"] == 2 and (tmp_path / "out.txt").read_text().count("before and after") == 1


@pytest.mark.long
def test_two_processes_learn_as_one_with_twice_the_batch(small_data: Path, sft_run: Path, tmp_path: Path) -> None:
    fractions: dict[int, list[float]] = {1: [], 2: []}
    for processes, launcher in ((1, [sys.executable]), (2, TORCHRUN)):
        for seed in range(5):
            more: dict[str, Any] = {"grader": "noisy:0.3:rule:Yes", "seed": seed, "output_dir": f"{processes}-{seed}"}
            more |= {"total_episodes": 4800, "per_device_train_batch_size": 120 // processes, "num_mini_batches": 4}
            flags = ppo_flags(small_data, sft_run, kl_coef=0.5, **more)
            done = run([*launcher, PPO, *flags], tmp_path, environment(ACCELERATE_USE_CPU="true"))
            assert done.returncode == 0, done.stderr[-3000:]
            results = read_results(tmp_path / f"{processes}-{seed}")
            assert results["updates"] == 40
            fractions[processes].append(results["splits"]["train"]["optimum_fraction"])
    one, two = (torch.tensor(fractions[processes]) for processes in (1, 2))
    print(f"one process: {one.tolist()}\ntwo processes: {two.tolist()}")
    noise = ((one.var() + two.var()) / 5).sqrt().item()
    assert abs(one.mean() - two.mean()).item() < max(3 * noise, 0.01)


@pytest.mark.slow
def test_a_trainer_in_a_launched_script_is_one_job(sft_run: Path, tmp_path: Path) -> None:
    """No guard around the script; the main process alone writes, and both end with the trained policy."""
    script = tmp_path / "script.py"
    script.write_text(
        "from eightball_ppo import DistillConfig, DistillTrainer\nfrom eightball_ppo.runtime.distributed import rank\n"
        "texts = [f'Will there be {number} of them?' for number in range(20)]\n"
        "args = DistillConfig(num_train_epochs=1, threshold=0.0, disable_tqdm=True)\n"
        f"trainer = DistillTrainer({str(sft_run)!r}, 'rule:No', args, texts)\n"
        "before = trainer.predict(texts[:1])[0]['probabilities']['No']\ntrainer.train()\n"
        "after = trainer.predict(texts[:1])[0]['probabilities']['No']\n"
        "print('rank', rank(), trainer.results['grades']['ok'], after > before)\ntrainer.save_model('saved')\n"
    )
    env = {**environment(), "ACCELERATE_USE_CPU": "true", "TMPDIR": str(tmp_path)}
    done = run([*TORCHRUN, "--nproc_per_node", "2", str(script)], tmp_path, env)
    assert done.returncode == 0, done.stderr
    assert sorted(line for line in done.stdout.splitlines() if line.startswith("rank")) == [
        "rank 0 60 True",
        "rank 1 60 True",
    ]
    assert (tmp_path / "saved" / "model.safetensors").exists() and not list(tmp_path.glob("eightball-*"))
