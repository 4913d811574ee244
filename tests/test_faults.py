"""Whatever fails on the way: no result that is wrong, one line that says how to go on, and going on works."""

import errno
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from conftest import REPOSITORY
from eightball_ppo.cli import commands
from eightball_ppo.runtime.atomic_io import write_text
from faults import Fault, failing, full_at, nth_write

CUDA_FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
CPU_FULL = RuntimeError("[enforce fail at alloc_cpu.cpp:130] . DefaultCPUAllocator: can't allocate memory: you tried")


class Injected(NamedTuple):
    """`says`: what the line names. `options`: beside those that every stage gets."""

    command: str
    name: str
    fault: Fault
    says: str
    options: str = ""


FULL, SHORT = "File too large; make room", "out of memory; free some"
NO_SPACE, BROKEN = "No space left on device; make room", "Input/output error; make room"
SAVED = "--save_steps 1 --total_episodes 240 --per_device_train_batch_size 120"
FAST = [
    Injected("sft", "no byte gets through", full_at(0), FULL),
    Injected("sft", "the weights do not fit", full_at(1_000_000), FULL),
    Injected("sft", "the first write", nth_write(1), NO_SPACE),
    Injected("exact", "a row of metrics", nth_write(20, errno.EIO), BROKEN),
    Injected("best_of_n", "the weights do not fit", full_at(1_000_000), FULL),
    Injected("grade", "the table does not fit", full_at(3_000), "make room"),
    Injected(
        "ppo",
        "the name of the run",
        failing("os.rename", OSError(errno.EROFS, "x"), 1),
        "Read-only file system; make room",
    ),
]
SLOW = [
    Injected(
        "exact", "too little memory", failing("eightball_ppo.methods.exact.train_classifier", MemoryError()), SHORT
    ),
    Injected("sft", "the tokenizer does not fit", full_at(500_000), FULL),
    Injected("sft", "the tenth write", nth_write(10, errno.EDQUOT), "Disk quota exceeded; make room"),
    Injected("sft", "a full card", failing("eightball_ppo.methods.sft.train_classifier", CUDA_FULL), SHORT),
    Injected("reward", "no byte gets through", full_at(0), FULL),
    Injected("reward", "the weights do not fit", full_at(10_000_000), FULL),
    Injected("reward", "the third write", nth_write(3, errno.EIO), BROKEN),
    Injected(
        "reward", "too little memory", failing("eightball_ppo.methods.reward_model.train_classifier", CPU_FULL), SHORT
    ),
    Injected("grade", "the store does not fit", full_at(8_000), "--grade_store"),
    Injected("grade", "the second write", nth_write(2, errno.EDQUOT), "Disk quota exceeded"),
    Injected("audit", "no byte gets through", full_at(0), "make room"),
    Injected("audit", "the page does not fit", full_at(100_000), "make room"),
    Injected("audit", "the fourth write", nth_write(4), NO_SPACE),
    Injected("distill", "the questions do not fit", full_at(300), FULL),
    Injected("distill", "the weights do not fit", full_at(1_900_000), FULL),
    Injected("distill", "the sixth write", nth_write(6, errno.EIO), BROKEN),
    Injected("distill", "a full card", failing("eightball_ppo.methods.distill.train_classifier", CUDA_FULL), SHORT),
    Injected("rloo", "the weights do not fit", full_at(1_000_000), FULL, "--total_episodes 240"),
    Injected("rloo", "the twelfth write", nth_write(12), NO_SPACE, "--total_episodes 240"),
    Injected("grpo", "the fifth write", nth_write(5, errno.EIO), BROKEN, "--total_episodes 240"),
    Injected("ppo", "no byte gets through", full_at(0), FULL),
    Injected("ppo", "a picture does not fit", full_at(60_000), FULL),
    Injected("ppo", "the weights do not fit", full_at(1_000_000), FULL),
    Injected("ppo", "the second write", nth_write(2), NO_SPACE),
    Injected("ppo", "a row of metrics", nth_write(9, errno.EIO), BROKEN),
    Injected("ppo", "too little memory", failing("eightball_ppo.methods.ppo.run_trainer", CPU_FULL), SHORT),
    Injected("ppo", "a checkpoint does not fit", full_at(1_000_000), FULL, SAVED),
    Injected("ppo", "a checkpoint is not synced", failing("os.fsync", OSError(errno.EIO, "x")), BROKEN, SAVED),
    Injected("ppo", "the second checkpoint", failing("os.fsync", OSError(errno.ENOSPC, "x"), 8), NO_SPACE, SAVED),
]


def flags(case: Injected, small_data: Path, sft_run: Path, reward_run: Path) -> list[str]:
    own = ["--dataset_name", str(small_data), "--labels", "Yes", "No", "Maybe", "--disable_tqdm", *case.options.split()]
    own += ["--output_dir", "out/run"]
    if case.command not in ("sft", "reward"):
        own += ["--reward_model_path", str(reward_run), "--grade_store", "store/grades.sqlite3"]
    if case.command not in ("sft", "reward", "grade", "audit"):
        own += ["--sft_model_path", str(sft_run)]
    short = {"sft": 1, "reward": 1, "exact": 2, "distill": 2}
    own += ["--num_train_epochs", str(short[case.command])] if case.command in short else []
    return own + (["--total_episodes", "120"] if case.command == "ppo" and "--total_episodes" not in own else [])


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "case",
    [*FAST, *(pytest.param(own, marks=pytest.mark.slow) for own in SLOW)],
    ids=lambda own: f"{own.command}, {own.name}",
)
def test_a_fault_leaves_no_wrong_result_and_says_how_to_go_on(
    case: Injected,
    small_data: Path,
    sft_run: Path,
    reward_run: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """An earlier run stands at the name: it stays as it was, byte for byte, until the same command makes a new one."""
    out = tmp_path / "out"
    shutil.copytree(sft_run, out / "run")
    before = contents(out)
    arguments = [*flags(case, small_data, sft_run, reward_run), "--overwrite_output_dir"]
    with pytest.raises(SystemExit) as exit_, case.fault(out):
        commands.run(case.command, arguments)
    said = capsys.readouterr().err
    assert exit_.value.code == 3 and "Traceback" not in said, said
    line = said.splitlines()[-1]
    assert case.says in line and "run the same command again" in line, line
    left = contents(out)
    kept = {name: own for name, own in left.items() if name.startswith("run.unfinished/checkpoint-")}
    assert {name: own for name, own in left.items() if name.startswith("run/")} == before
    assert kept or left == before, sorted(set(left) - set(before))
    assert not kept or case.options == SAVED
    commands.run(case.command, arguments)
    assert (out / "run" / "results.json").is_file() and contents(out) != before
    assert [path.name for path in out.iterdir()] == ["run"]


def test_there_are_thirty_faults_of_all_stages() -> None:
    names = {(own.command, own.name) for own in [*FAST, *SLOW]}
    assert len(names) == len(FAST) + len(SLOW) >= 30
    assert {command for command, _ in names} == {
        *("sft", "reward", "grade", "audit", "distill", "rloo", "grpo", "exact", "best_of_n", "ppo")
    }


def test_a_file_that_cannot_be_written_anew_stands_as_it_was(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_text(file, "old")
    with full_at(3)(tmp_path), pytest.raises(OSError, match="File too large"):
        write_text(file, "new, and longer")
    assert contents(tmp_path) == {"report.html": b"old"}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("unshare") is None, reason="needs a mount of its own")
def test_a_disk_that_is_really_full(small_data: Path, tmp_path: Path) -> None:
    """A file system of 1 MiB, mounted for one process and gone with it."""
    script, disk = REPOSITORY / "scripts" / "sft.py", tmp_path / "disk"
    disk.mkdir()
    options = f"{script} --output_dir {disk}/run --dataset_name {small_data} --labels Yes No Maybe --num_train_epochs 1"
    sft = f"{sys.executable} {options}"
    command = f"mount -t tmpfs -o size=1m none {disk} && {sft}; echo exit $?; ls -A {disk}"
    done = subprocess.run(["unshare", "-rm", "sh", "-c", command], capture_output=True, text=True, cwd=tmp_path)
    if "mount:" in done.stderr or "unshare:" in done.stderr:
        pytest.skip("mounts are not allowed here")
    assert done.stdout == "exit 3\n", done.stdout + done.stderr
    assert "No space left on device; make room" in done.stderr and "Traceback" not in done.stderr
