"""A comparison by its worker processes: all methods, kills, two terminals, Ctrl-C, and the way over the Hub."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from comparing import Compare, flags, results, summary, times

from benchmarks import recompute
from conftest import REPOSITORY
from eightball_ppo.config.registry import METHODS
from hub_client import WRITE, eightball, python, settings
from hub_server import running_hub

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def compare(tmp_path_factory: pytest.TempPathFactory, small_data: Path, sft_run: Path, reward_run: Path) -> Compare:
    return Compare(small_data, sft_run, reward_run, tmp_path_factory.mktemp("store") / "grades.sqlite3")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, compare: Compare) -> Path:
    """All methods, one seed, one beta. To be read, or copied."""
    directory = tmp_path_factory.mktemp("compare") / "D"
    code, out, err = compare(directory, seeds=0, kl_coefs=0.1)
    assert (code, err) == (0, "") and "PPO" in out and "12 runs" in out, err
    return directory


def test_workers_make_a_run_of_every_method_whose_numbers_an_independent_script_finds(shared: Path) -> None:
    assert sorted(path.name for path in (shared / "runs").iterdir()) == sorted(f"{m}-beta0.1-seed0" for m in METHODS)
    frame = results(shared)
    assert set(frame["method"]) == set(METHODS) and len(frame) == 24
    assert list((shared / "figures").glob("*.png")) and list((shared / "figures").glob("*.svg"))
    assert "===training policy===" in (shared / "logs" / "ppo-beta0.1-seed0.txt").read_text()
    assert recompute.main([str(shared)]) == 0


def of_session(session: int) -> list[str]:
    """The running processes of a session, zombies left out."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            state, _, _, number = (process / "stat").read_text().rpartition(")")[2].split()[:4]
            found += [process.name] if int(number) == session and state != "Z" else []
    return found


def wait_until_gone(session: int) -> None:
    """Fails unless all processes of a session end within ten seconds."""
    deadline = time.monotonic() + 10
    while of_session(session):
        assert time.monotonic() < deadline
        time.sleep(0.1)


def started(argv: list[str], directory: Path, **options: Any) -> subprocess.Popen[str]:
    """The script in a new session, as soon as a run is under way."""
    command = [sys.executable, str(REPOSITORY / "scripts" / "compare.py"), *argv]
    process = subprocess.Popen(command, start_new_session=True, cwd=directory.parent, text=True, **options)
    while not list((directory / "runs").glob("*.unfinished")):
        assert process.poll() is None
        time.sleep(0.05)
    return process


@pytest.mark.long
def test_workers_end_with_their_killed_parent_and_the_next_call_makes_the_missing_runs(
    shared: Path, tmp_path: Path, compare: Compare
) -> None:
    copy = shutil.copytree(shared, tmp_path / "copy")
    before = times(copy, "runs", "reference", "grades.parquet")
    options: dict[str, Any] = {"methods": "distill_soft", "seeds": [0, 1], "kl_coefs": [0.1, 0.5]}
    argv = flags("copy", "--num_workers", 1, **{**compare.options, **options})
    process = started(argv, copy, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert len(of_session(process.pid)) >= 2
    process.kill()
    process.wait()
    wait_until_gone(process.pid)
    code, out, err = compare("copy", **options)
    assert (code, err) == (0, "") and out.startswith("4 runs, 0 failed\nSaved in copy/report.html\nNext: eightball ")
    after = times(copy, "runs", "reference", "grades.parquet")
    assert {name: after[name] for name in before} == before and len(results(copy)) == 8
    assert recompute.main(["copy"]) == 0


def test_a_second_terminal_is_refused_and_ctrl_c_ends_all_processes(tmp_path: Path, compare: Compare) -> None:
    settings = {**compare.options, "methods": ["exact", "sft"], "method_options": "exact.num_train_epochs=30000"}
    argv = flags("D", **settings)
    process = started(argv, tmp_path / "D", stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    command = [sys.executable, str(REPOSITORY / "scripts" / "compare.py"), *argv]
    second = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert second.returncode == 2 and second.stderr.startswith("compare.py: D: another run is at work there")
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert (process.returncode, out) == (130, "")
    assert err == "compare.py: interrupted; finished grades and runs are kept\n"
    wait_until_gone(process.pid)


def test_a_comparison_goes_to_the_hub_and_comes_back(shared: Path, tmp_path: Path) -> None:
    code = """
import json, sys
from datasets import load_dataset
from huggingface_hub import DatasetCard, ModelCard, hf_hub_download
DatasetCard.load("ball/compare").validate()
card = ModelCard.load("ball/ppo")
card.validate()
rows = load_dataset("ball/compare", split="train")
page = open(hf_hub_download("ball/compare", "report.html", repo_type="dataset")).read()
print(json.dumps([rows.num_rows, rows["optimum_fraction"][:], page, card.content]))
"""
    with running_hub() as hub:
        environment = settings(hub, tmp_path / "home", WRITE)
        run = f"{shared.name}/runs/ppo-beta0.1-seed0"
        argvs = [["push", shared.name, "--repo_id", "ball/compare"], ["push", run, "--repo_id", "ball/ppo"]]
        for outcome in eightball(argvs, environment, shared.parent):
            assert outcome.code == 0, outcome.err
        rows, fractions, page, card = json.loads(python(code, environment, tmp_path).splitlines()[-1])
    frame = results(shared)
    assert (rows, fractions) == (len(frame), frame["optimum_fraction"].tolist())
    assert "Comparison of methods" in page and str(shared.parent) not in page
    (value,) = {
        f"{row['estimate']:.3f}"
        for row in summary(shared)["intervals"]
        if (row["method"], row["split"], row["metric"]) == ("distill", "heldout", "gold_accuracy")
    }
    assert "## Compared with other methods" in card and value in card
