"""Bad input to every command: exit code 2, one line on stderr that names the thing, nothing written."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from bad_inputs import BAD_INPUTS, BadInput
from conftest import REPOSITORY, write_rows
from eightball_ppo.cli import commands
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.labels import EIGHTBALL_LABELS


@pytest.fixture
def runs(small_data: Path, sft_run: Path, reward_run: Path) -> dict[str, Path]:
    return {"data": small_data, "sft": sft_run, "reward": reward_run}


def command_line(case: BadInput, runs: dict[str, Path]) -> list[str]:
    """The command of a case and its options, behind those that every stage gets."""
    words = case.argv.split() if isinstance(case.argv, str) else case.argv
    name, *given = [word.format(**runs, nines="9" * 30) if "{" in word else word for word in words]
    if name in ("predict", "report", "push", "demo"):
        return [name, *given]
    common = ["--dataset_name", str(runs["data"]), "--disable_tqdm"]
    common += ["--labels", *EIGHTBALL_LABELS] if case.labels else []
    if name not in ("sft", "reward"):
        common += ["--reward_model_path", str(runs["reward"]), "--grade_store", "grades.sqlite3"]
    if name not in ("sft", "reward", "grade", "audit"):
        common += ["--sft_model_path", str(runs["sft"])]
    return [name, *common, *given]


def write_files(case: BadInput, directory: Path, runs: dict[str, Path]) -> None:
    for name, content in case.files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if callable(content):
            content(path, runs)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def snapshot(directory: Path) -> dict[str, tuple[int, int]]:
    """Size and time of change of everything below a directory but the grade store, which keeps paid grades."""
    stats = {str(path.relative_to(directory)): path.lstat() for path in directory.rglob("*")}
    stats.pop("grades.sqlite3", None)
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


def assert_refused(case: BadInput, code: int | str | None, out: str, err: str) -> None:
    assert (code, out) == (2, ""), err
    assert err.endswith("\n") and len(err.splitlines()) == 1 and "Traceback" not in err, err
    for part in case.message.split(" | "):
        assert part in err, f"{part!r} is not in: {err}"


def refuse_here(case: BadInput, runs: dict[str, Path], directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name, *arguments = command_line(case, runs)
    before = snapshot(directory)
    capsys.readouterr()
    with pytest.raises(SystemExit) as exit_:
        commands.run(name, arguments)
    assert_refused(case, exit_.value.code, *capsys.readouterr())
    assert snapshot(directory) == before


def name_of(case: BadInput) -> str:
    return f"{case.argv if isinstance(case.argv, str) else ' '.join(case.argv)[:60]!r}, {case.message}"[:100]


@pytest.mark.parametrize("case", BAD_INPUTS, ids=name_of)
def test_bad_input(case: BadInput, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_files(case, tmp_path, runs)
    refuse_here(case, runs, tmp_path, capsys)


def test_bad_input_to_a_process(runs: dict[str, Path], tmp_path: Path) -> None:
    case = BadInput("ppo --kl_coef nan", "ppo.py: --kl_coef nan: must be a finite number")
    name, *arguments = command_line(case, runs)
    command = [sys.executable, str(REPOSITORY / "scripts" / f"{name}.py"), *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert_refused(case, done.returncode, done.stdout, done.stderr)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ("ppo --reward_model_path ./nowhere", "no such directory"),
        ("ppo --repeats_per_epoch 2 --per_device_train_batch_size 500", "fill at most 120"),
        ("distill --grader brt", "unknown grader"),
    ],
)
def test_everything_is_checked_before_a_missing_reference_is_trained(
    argv: str, message: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = BadInput(f"{argv} --sft_model_path {SFTConfig.output_dir}", message)
    refuse_here(case, runs, tmp_path, capsys)


@pytest.mark.parametrize("method", ["ppo", "distill"])
def test_weak_grader_is_refused(
    method: str, runs: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """With other gold labels the same reward model is wrong about most of the held-out questions."""
    data = Path(shutil.copytree(runs["data"], tmp_path / "data"))
    other = {"Yes": "No", "No": "Maybe", "Maybe": "Yes"}
    rows = [json.loads(line) for line in (data / "heldout.jsonl").read_text().splitlines()]
    write_rows(data / "heldout.jsonl", [{**row, "answer": other[row["answer"]]} for row in rows])
    case = BadInput(f"{method} --dataset_name {data}", "is not above 0.6 | --allow_weak_grader")
    refuse_here(case, runs, tmp_path, capsys)
