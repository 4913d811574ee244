"""Whatever fails on the way: no wrong result stays, one line says what failed, and the same command then works."""

import errno
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from pytest import CaptureFixture

from eightball_ppo.cli import commands
from eightball_ppo.runtime.atomic_io import write_text
from faults import Fault, failing, full_at, nth_write

CUDA_FULL = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
CPU_FULL = RuntimeError("[enforce fail at alloc_cpu.cpp:130] . DefaultCPUAllocator: can't allocate memory: you tried")


class Injected(NamedTuple):
    """`message`: what the line names. `options`: beside those of every stage."""

    command: str
    name: str
    fault: Fault
    message: str
    options: str = ""


FULL, NO_MEMORY = "File too large", "out of memory"
NO_SPACE, BROKEN = "No space left on device", "Input/output error"
TRAIN = "eightball_ppo.methods.{}.train_classifier"
SAVED = "--save_steps 1 --total_episodes 240 --per_device_train_batch_size 120"
READ_ONLY = failing("os.rename", OSError(errno.EROFS, "x"), 1)
FAST = [
    Injected("sft", "no byte is written", full_at(0), FULL),
    Injected("sft", "the weights do not fit", full_at(1_000_000), FULL),
]
SLOW = [
    Injected("sft", "the first write", nth_write(1), NO_SPACE),
    Injected("exact", "a row of metrics", nth_write(20, errno.EIO), BROKEN),
    Injected("best_of_n", "the weights do not fit", full_at(1_000_000), FULL),
    Injected("grade", "the table does not fit", full_at(3_000), ""),
    Injected("ppo", "the rename of the run", READ_ONLY, "Read-only file system"),
    Injected("ppo", "the second checkpoint", failing("os.fsync", OSError(errno.ENOSPC, "x"), 8), NO_SPACE, SAVED),
]
LONG = [
    Injected("sft", "a full GPU", failing(TRAIN.format("sft"), CUDA_FULL), NO_MEMORY),
    Injected("reward", "the weights do not fit", full_at(10_000_000), FULL),
    Injected("grade", "the store does not fit", full_at(8_000), "--grade_store"),
    Injected("audit", "the fourth write", nth_write(4), NO_SPACE),
    Injected("rloo", "the weights do not fit", full_at(1_000_000), FULL, "--total_episodes 240"),
    Injected("grpo", "the fifth write", nth_write(5, errno.EIO), BROKEN, "--total_episodes 240"),
    Injected("ppo", "too little memory", failing("eightball_ppo.methods.ppo.run_trainer", CPU_FULL), NO_MEMORY),
    Injected("ppo", "a checkpoint does not fit", full_at(1_000_000), FULL, SAVED),
    Injected("distill", "the sixth write", nth_write(6, errno.EIO), BROKEN),
]


def flags(case: Injected, small_data: Path, sft_run: Path, reward_run: Path) -> list[str]:
    words = ["--dataset_name", str(small_data), "--labels", "Yes", "No", "Maybe", "--disable_tqdm"]
    words += ["--output_dir", "out/run", *case.options.split()]
    if case.command not in ("sft", "reward"):
        words += ["--reward_model_path", str(reward_run), "--grade_store", "store/grades.sqlite3"]
    if case.command not in ("sft", "reward", "grade", "audit"):
        words += ["--sft_model_path", str(sft_run)]
    epochs = {"sft": 1, "reward": 1, "exact": 2, "distill": 2}
    words += ["--num_train_epochs", str(epochs[case.command])] if case.command in epochs else []
    return words + (["--total_episodes", "120"] if case.command == "ppo" and not case.options else [])


def contents(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


@pytest.mark.parametrize(
    "case",
    [
        *FAST,
        *(pytest.param(case, marks=pytest.mark.slow) for case in SLOW),
        *(pytest.param(case, marks=pytest.mark.long) for case in LONG),
    ],
    ids=lambda case: f"{case.command}, {case.name}",
)
def test_a_fault_leaves_the_former_run_intact_and_the_same_command_then_works(
    case: Injected, small_data: Path, sft_run: Path, reward_run: Path, tmp_path: Path, capsys: CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    shutil.copytree(sft_run, out / "run")
    before = contents(out)
    arguments = [*flags(case, small_data, sft_run, reward_run), "--overwrite_output_dir"]
    with pytest.raises(SystemExit) as end, case.fault(out):
        commands.run(case.command, arguments)
    output = capsys.readouterr().err
    assert end.value.code == 3 and "Traceback" not in output, output
    line = output.splitlines()[-1]
    assert case.message in line and "run the same command again" in line, line
    left = contents(out)
    checkpoints = {name: file for name, file in left.items() if name.startswith("run.unfinished/checkpoint-")}
    assert {name: file for name, file in left.items() if name.startswith("run/")} == before
    assert checkpoints or left == before, sorted(set(left) - set(before))
    assert not checkpoints or case.options == SAVED
    commands.run(case.command, arguments)
    assert (out / "run" / "results.json").is_file() and contents(out) != before
    assert [path.name for path in out.iterdir()] == ["run"]


def test_a_file_that_cannot_be_replaced_keeps_its_contents(tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    write_text(file, "old")
    with full_at(3)(tmp_path), pytest.raises(OSError, match="File too large"):
        write_text(file, "new, and longer")
    assert contents(tmp_path) == {"report.html": b"old"}
