"""Launches of more than one process and machine, on CPU over gloo: refused, bounded in time, alike in the end."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch
import yaml

from conftest import REPOSITORY
from eightball_ppo.cli import parser
from eightball_ppo.config.methods import DistillConfig, GRPOConfig, PPOConfig, RLOOConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.runtime import launch
from hub_client import WRITE, settings
from hub_server import running_hub

RECIPES = REPOSITORY / "recipes" / "accelerate"
BIN = Path(sys.executable).parent
PPO = str(REPOSITORY / "scripts" / "ppo.py")
LAUNCHERS = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RUN_ID")
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def environment(**more: str) -> dict[str, str]:
    """This process's, without what a launcher would have left in it."""
    kept = {k: v for k, v in os.environ.items() if k not in LAUNCHERS and not k.startswith("ACCELERATE_")}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TRL_EXPERIMENTAL_SILENCE": "1", **more}


def options(data: Path, sft: Path, **more: object) -> list[str]:
    """Flags of a PPO of seconds, with a grader that needs no model."""
    given = {
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
    return [word for name, value in given.items() for word in (f"--{name}", str(value))]


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    """Launchers, each in a session of its own; what is left of one at the end is killed, its ranks, too."""
    launchers: list[subprocess.Popen[str]] = []
    yield launchers
    for launcher in launchers:
        with_ranks = [launcher.pid, *descendants(launcher.pid)]
        for pid in with_ranks:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        launcher.wait()


def start(command: list[str], cwd: Path, env: dict[str, str]) -> subprocess.Popen[str]:
    """Both streams go to files: nobody has to read them while it runs."""
    out, err = (cwd / "out.txt").open("a"), (cwd / "err.txt").open("a")
    with out, err:
        return subprocess.Popen(command, cwd=cwd, env=env, stdout=out, stderr=err, text=True, start_new_session=True)


def run(command: list[str], cwd: Path, env: dict[str, str], timeout: int = 120) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, timeout=timeout)


def descendants(pid: int) -> list[int]:
    """The living children of a process, and theirs; the ranks of a launcher, in order."""
    try:
        children = [int(own) for own in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []
    return [own for child in children for own in (child, *descendants(child))]


# --- the launcher did something else than it was asked for


@pytest.mark.parametrize(
    "flags",
    [
        ["--cpu", "--num_processes", "2"],
        ["--cpu", "--num_machines", "2", "--num_processes", "2", "--machine_rank", "1"],
        ["--config_file", "multi_cpu.yaml"],
    ],
    ids=["processes", "machines", "config file"],
)
def test_a_job_that_knows_of_no_other_is_refused(flags: list[str], tmp_path: Path) -> None:
    config = {"compute_environment": "LOCAL_MACHINE", "distributed_type": "MULTI_CPU", "num_machines": 1}
    config |= {"num_processes": 2, "use_cpu": True, "mixed_precision": "no"}
    (tmp_path / "multi_cpu.yaml").write_text(yaml.safe_dump(config))
    address = ["--main_process_ip", "10.77.0.1", "--main_process_port", "29511"] if "--num_machines" in flags else []
    done = run([str(BIN / "accelerate"), "launch", *flags, *address, PPO], tmp_path, environment())
    said = [line for line in done.stderr.splitlines() if line.startswith("ppo.py: ")]
    assert done.returncode != 0 and "exit status 2" in done.stderr  # the launcher itself ends with 1
    right = (
        f"--multi_gpu --num_machines 2 --num_processes 2 --machine_rank RANK {address[0]}" if address else "torchrun"
    )
    assert len(said) == 1 and "one that knows of no other" in said[0] and right in said[0]
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("launch", [[], [str(BIN / "accelerate"), "launch", "--cpu", "--num_processes", "1"]])
def test_one_process_is_not_refused(launch: list[str], tmp_path: Path) -> None:
    script = [PPO] if launch else [sys.executable, PPO]
    done = run([*launch, *script, "--no_such_flag"], tmp_path, environment())
    assert "unknown option --no_such_flag" in done.stderr


def test_what_a_launcher_leaves_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LAUNCHERS, *launch.SHARDING, "ACCELERATE_DYNAMO_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MASTER_ADDR", "127.0.0.1")  # of a cluster, say
    launch.check_launch()
    monkeypatch.setenv("ACCELERATE_DYNAMO_MODE", "default")
    with pytest.raises(InputError, match="ACCELERATE_USE_CPU=true torchrun --nproc_per_node 2"):
        launch.check_launch()
    monkeypatch.setenv("WORLD_SIZE", "1")
    with pytest.raises(InputError, match="knows of no other"):
        launch.check_launch()
    monkeypatch.setenv("WORLD_SIZE", "2")
    launch.check_launch()
    monkeypatch.setenv("WORLD_SIZE", "1")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")  # torchrun --nproc_per_node 1
    launch.check_launch()


@pytest.mark.parametrize(("variable", "name"), launch.SHARDING.items())
def test_sharding_on_cpu_is_refused(variable: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "true")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with pytest.raises(InputError, match=f"{name} was asked for, and there is no GPU"):
        launch.check_launch()


@pytest.mark.parametrize("method", ["ppo", "rloo", "grpo"])
def test_mixed_precision_is_refused_where_answers_are_sampled(
    method: str, small_data: Path, sft_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    config = {"ppo": PPOConfig, "rloo": RLOOConfig, "grpo": GRPOConfig}[method](
        output_dir=str(tmp_path / "run"), dataset_name=str(small_data), sft_model_path=str(sft_run), grader="rule:Yes"
    )
    with pytest.raises(
        InputError, match=r"--mixed_precision bf16: answers would be sampled in float32 .*--dtype bfloa"
    ):
        run_method(config)


def test_mixed_precision_is_recorded(
    small_data: Path, sft_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert json.loads((sft_run / "results.json").read_text())["mixed_precision"] == "no"
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    run = run_method(
        DistillConfig(
            output_dir=str(tmp_path / "run"), dataset_name=str(small_data), sft_model_path=str(sft_run),
            disable_tqdm=True, grader="rule:Yes", allow_weak_grader=True, num_train_epochs=1, threshold=0.0,
        )
    )  # fmt: skip
    assert json.loads((run / "results.json").read_text())["mixed_precision"] == "bf16"


def test_every_launch_file_is_read_by_accelerate_as_it_says() -> None:
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    kinds = {
        "multi_gpu": ("MULTI_GPU", 1),
        "cpu_2proc": ("MULTI_GPU", 1),
        "multi_node": ("MULTI_GPU", 2),
        "fsdp2": ("FSDP", 1),
        "deepspeed_zero2": ("DEEPSPEED", 1),
    }
    assert {file.stem for file in RECIPES.glob("*.yaml")} == set(kinds)
    for name, (kind, machines) in kinds.items():
        file = str(RECIPES / f"{name}.yaml")
        config = load_config_from_file(file)
        assert (str(config.distributed_type).rpartition(".")[2], config.num_machines) == (kind, machines)
        arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args(["--config_file", file, "x.py"]))
        assert arguments.num_processes == 2 and not arguments.use_cpu
        assert arguments.multi_gpu == (kind == "MULTI_GPU"), name
        assert bool(arguments.use_fsdp) == (kind == "FSDP") and bool(arguments.use_deepspeed) == (kind == "DEEPSPEED")
        if kind == "FSDP":
            assert int(arguments.fsdp_version) == 2
        if kind == "DEEPSPEED":
            assert arguments.zero_stage == 2
        if kind != "MULTI_GPU" or name == "multi_gpu":
            assert "eeds a GPU to verify" in Path(file).read_text()


def test_the_default_launch_is_read_by_accelerate(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

    (line,) = re.findall(r"accelerate launch (.*)", (REPOSITORY / "Makefile").read_text())
    line = line.replace("$${OMP_NUM_THREADS:-2}", "2")  # what the shell makes of it
    monkeypatch.chdir(REPOSITORY)
    arguments, _, _ = _validate_launch_command(launch_command_parser().parse_args([*line.split(), "scripts/ppo.py"]))
    assert (arguments.num_processes, arguments.num_cpu_threads_per_process, arguments.multi_gpu) == (1, 2, False)


@pytest.mark.parametrize(
    ("rank", "relayed", "said"),
    [
        ("0", False, "ppo.py: --kl_coef: no"),
        ("1", False, "ppo.py: rank 1 of 2: --kl_coef: no"),  # perhaps a path that only this machine lacks
        ("1", True, ""),  # the main process has said so
    ],
)
def test_an_error_of_any_process_is_told_once(
    rank: str, relayed: bool, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    error = InputError("--kl_coef: no")
    error.relayed = relayed
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(sys, "argv", ["ppo.py"])
    monkeypatch.setattr(parser, "check_launch", mock.Mock(side_effect=error))
    with pytest.raises(SystemExit) as ended:
        parser.main(PPOConfig, "nowhere:train", [])
    assert ended.value.code == 2 and capsys.readouterr().err.strip() == said


# --- two processes


def test_two_processes_are_one_job(small_data: Path, sft_run: Path, tmp_path: Path) -> None:
    """Equal weights (the product checks them), one printer and writer, every question graded once, one push."""
    with running_hub() as hub:
        env = {**settings(hub, tmp_path / "home", WRITE), "ACCELERATE_USE_CPU": "true"}
        flags = options(small_data, sft_run, push_to_hub=True, hub_model_id="two-ranks", save_steps=2)
        flags += ["--save_total_limit", "1"]
        file = str(RECIPES / "cpu_2proc.yaml")
        done = run([str(BIN / "accelerate"), "launch", "--config_file", file, PPO, *flags], tmp_path, env)
        assert done.returncode == 0, done.stderr[-3000:]
        commits = [asked for asked in hub.log() if "/commit/" in asked["path"]]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["world_size"] == 2 and results["updates"] == 240 // (2 * 24)
    assert results["grades"]["calls"] == 100  # 60 questions to learn from, 40 to measure on
    assert done.stdout.count("before and after") == 1 and done.stdout.count("pushed run -> ") == 1
    assert len(commits) == 1
    assert [own.name for own in sorted((tmp_path / "run").glob("*checkpoint*"))] == ["checkpoint-4"]
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]


def test_processes_that_end_with_different_weights_are_told(tmp_path: Path) -> None:
    (tmp_path / "unequal.py").write_text(
        "import os, sys, torch\nfrom types import SimpleNamespace\n"
        "from eightball_ppo.runtime import distributed, launch\n"
        "launch.init_process_group(60)\nmodel = torch.nn.Linear(2, 2)\nrank = int(os.environ['RANK'])\n"
        "torch.nn.init.constant_(model.weight, 1.0)\ntorch.nn.init.constant_(model.bias, 1.0)\n"
        "trainer = SimpleNamespace(model=model, accelerator=SimpleNamespace(distributed_type='MULTI_CPU'))\n"
        "launch.require_equal_ranks(trainer)\nmodel.weight.data[0, 0] += rank * 1e-6\ntold = 'nothing'\n"
        "try:\n    launch.require_equal_ranks(trainer)\nexcept RuntimeError as error:\n    told = str(error)\n"
        "if rank:\n    print(told)\ndistributed.part_processes()\n"
    )
    env = environment(PYTHONPATH=str(REPOSITORY))
    done = run([*TORCHRUN, "unequal.py"], tmp_path, env)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "the processes ended with different weights (rank 0 " in done.stdout


def test_a_process_that_never_comes_is_one_line_within_the_time_out(
    small_data: Path, sft_run: Path, tmp_path: Path
) -> None:
    for rank in ("0", "1"):  # the one that listens, and the one that calls
        env = environment(RANK=rank, WORLD_SIZE="2", LOCAL_RANK="0", MASTER_ADDR="127.0.0.1", MASTER_PORT="29577")
        began = time.monotonic()
        done = run([sys.executable, PPO, *options(small_data, sft_run, ddp_timeout=3)], tmp_path, env, timeout=60)
        said = [line for line in done.stderr.splitlines() if "ppo.py: " in line]
        assert done.returncode == 2 and time.monotonic() - began < 45
        who = "" if rank == "0" else "rank 1 of 2: "
        assert len(said) == 1
        assert said[0].startswith(f"ppo.py: {who}not all 2 processes came to 127.0.0.1:29577 within")
        assert "Traceback" not in done.stderr


WAITING = """
import os, sys, time
from pathlib import Path
from eightball_ppo.runtime import distributed, launch
from eightball_ppo.errors import InputError
rank = os.environ["RANK"]
launch.init_process_group(60)
def say(*words):
    os.write(1, (" ".join(map(str, words)) + "\\n").encode())  # in one piece: both write to one pipe
def work():
    Path("working").touch()
    time.sleep(float(sys.argv[1]))
    return "grades"
def refused():
    raise InputError("a weak grader")
try:
    say(rank, distributed.broadcast_from_main(work, int(sys.argv[2])))
    distributed.broadcast_from_main(refused, int(sys.argv[2]))
except InputError as error:
    say(rank, error, error.relayed)
except RuntimeError as error:
    say(rank, launch.peer_failure(error))
distributed.destroy_process_group()
"""


def test_a_long_work_of_the_main_process_outlasts_the_time_out(tmp_path: Path) -> None:
    (tmp_path / "waiting.py").write_text(WAITING)
    done = run([*TORCHRUN, "waiting.py", "4", "2"], tmp_path, environment(PYTHONPATH=str(REPOSITORY)))
    own = ["0 a weak grader False", "0 grades", "1 a weak grader True", "1 grades"]
    assert sorted(done.stdout.splitlines()) == own, done.stderr[-3000:]


@pytest.mark.parametrize("frozen", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_process_that_falls_silent_while_the_main_one_works_is_missed(
    frozen: int, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    """As when its machine vanishes: nobody closes the connection."""
    (tmp_path / "waiting.py").write_text(WAITING)
    command = [sys.executable, "waiting.py", "10", "4"]
    env = environment(PYTHONPATH=str(REPOSITORY), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT="29579")
    for rank in ("0", "1"):
        started.append(start(command, tmp_path, env | {"RANK": rank, "LOCAL_RANK": "0"}))
    until((tmp_path / "working").exists, 60, tmp_path)
    os.kill(started[frozen].pid, signal.SIGSTOP)
    other = 1 - frozen
    assert started[other].wait(timeout=60) == 0
    told = f"{other} rank {other} of 2: another process of the launch died or was silent for --ddp_timeout"
    assert (tmp_path / "out.txt").read_text().startswith(told), (tmp_path / "err.txt").read_text()[-3000:]


@pytest.mark.parametrize(
    ("method", "rank"), [("ppo", 0), *(pytest.param(method, 1, marks=pytest.mark.slow) for method in ("ppo", "rloo"))]
)
def test_a_rank_that_is_killed_ends_the_job_and_its_last_checkpoint_answers(
    method: str, rank: int, small_data: Path, sft_run: Path, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    script = str(REPOSITORY / "scripts" / "ppo.py") if method == "ppo" else "rloo.py"
    flags = options(small_data, sft_run, total_episodes=10**7, save_steps=1, save_total_limit=2)
    if method == "rloo":
        (tmp_path / script).write_text("from eightball_ppo.cli import commands\ncommands.run('rloo')\n")
        drop = {"--num_mini_batches", "--per_device_train_batch_size"}
        flags = [w for pair in zip(flags[::2], flags[1::2], strict=True) if pair[0] not in drop for w in pair]
    env = environment(PYTHONPATH=str(REPOSITORY), ACCELERATE_USE_CPU="true")
    launcher = start([*TORCHRUN, script, *flags], tmp_path, env)
    started.append(launcher)
    unfinished = tmp_path / "run.unfinished"
    until(lambda: len(list(unfinished.glob("checkpoint-*"))) == 2, 90, tmp_path)
    os.kill(ranks_of(launcher)[rank], signal.SIGKILL)
    assert launcher.wait(timeout=60) != 0
    newest = max(unfinished.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    ask = [str(BIN / "eightball"), "predict", "Will I be rich?", "--model_name_or_path", str(newest)]
    answered = run(ask, tmp_path, environment())
    assert answered.returncode == 0 and "Yes" in answered.stdout, answered.stderr
    again = run([sys.executable, script, *flags], tmp_path, env)
    assert again.returncode == 2 and "run.unfinished holds checkpoints of a run that did not end" in again.stderr
    assert newest.is_dir()


def ranks_of(launcher: subprocess.Popen[str]) -> list[int]:
    """The process of each rank."""
    own: dict[int, int] = {}
    for pid in descendants(launcher.pid):
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        own |= {int(word.removeprefix(b"RANK=")): pid for word in variables if word.startswith(b"RANK=")}
    assert sorted(own) == [0, 1]
    return [own[0], own[1]]


def until(holds: Any, seconds: float, cwd: Path) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, (cwd / "err.txt").read_text()[-3000:]
        time.sleep(0.05)


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
            pytest.skip("network namespaces may not be made here")
        cable = ["link", "add", "cable", "type", "veth", "peer", "name", "cable", "netns", names[1]]
        subprocess.run(["ip", "-n", names[0], *cable], check=True)
        for number, name in enumerate(names, 1):
            for words in (f"addr add 10.77.0.{number}/24 dev cable", "link set cable up", "link set lo up"):
                subprocess.run(["ip", "-n", name, *words.split()], check=True)
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True)


def test_two_machines_are_one_job(
    two_machines: tuple[str, str], small_data: Path, sft_run: Path, tmp_path: Path, started: list[subprocess.Popen[str]]
) -> None:
    env = environment(ACCELERATE_USE_CPU="true", GLOO_SOCKET_IFNAME="cable")
    shared = ["--main_process_ip", "10.77.0.1", "--main_process_port", "29521", PPO, *options(small_data, sft_run)]
    config = ["--config_file", str(RECIPES / "multi_node.yaml")]
    for rank, name in enumerate(two_machines):
        launch = [str(BIN / "accelerate"), "launch", *config, "--machine_rank", str(rank), *shared]
        started.append(start(["ip", "netns", "exec", name, *launch], tmp_path, env))
    codes = [machine.wait(timeout=180) for machine in started]
    assert codes == [0, 0], (tmp_path / "err.txt").read_text()[-3000:]
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert results["world_size"] == 2 and (tmp_path / "out.txt").read_text().count("before and after") == 1


# --- the same learning


@pytest.mark.slow
def test_two_processes_learn_as_one_with_twice_the_batch(small_data: Path, sft_run: Path, tmp_path: Path) -> None:
    fractions: dict[int, list[float]] = {1: [], 2: []}
    for processes, launcher in ((1, [sys.executable]), (2, TORCHRUN)):
        for seed in range(5):
            name = f"{processes}-{seed}"
            more: dict[str, Any] = {"grader": "noisy:0.3:rule:Yes", "seed": seed, "output_dir": name}
            batch = 120 // processes
            more |= {
                "total_episodes": 4800,
                "per_device_train_batch_size": batch,
                "num_mini_batches": 4,
                "kl_coef": 0.5,
            }
            flags = options(small_data, sft_run, **more)
            done = run([*launcher, PPO, *flags], tmp_path, environment(ACCELERATE_USE_CPU="true"))
            assert done.returncode == 0, done.stderr[-3000:]
            results = json.loads((tmp_path / name / "results.json").read_text())
            assert results["updates"] == 40
            fractions[processes].append(results["splits"]["train"]["optimum_fraction"])
    one, two = (torch.tensor(fractions[processes]) for processes in (1, 2))
    print(f"one process: {one.tolist()}\ntwo processes: {two.tolist()}")
    noise = ((one.var() + two.var()) / 5).sqrt().item()
    assert abs(one.mean() - two.mean()).item() < max(3 * noise, 0.01)
