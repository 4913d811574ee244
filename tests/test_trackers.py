"""Real trackers, offline: what they hold, where they write it, and which secrets must not be in it."""

import importlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from transformers.integrations.integration_utils import TensorBoardCallback, TrackioCallback, WandbCallback

from conftest import REPOSITORY
from eightball_ppo.runtime.run import read_metrics
from eightball_ppo.training import trackers

SECRETS = {
    "EIGHTBALL_API_KEY": "sk-secret-of-the-judge",
    "HF_TOKEN": "hf_secretofthehub",
    "WANDB_API_KEY": "5ec2e7" * 7,
}
PASSWORD = "secret-of-the-address"
TRAINING = """
import sys
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.methods import sft
from eightball_ppo.methods.run_method import run_method
tracker, data = sys.argv[1:3]
shared = dict(dataset_name=data, report_to=tracker, disable_tqdm=True)
sft.train(SFTConfig(output_dir="runs/sft", num_train_epochs=1, **shared))
run_method(PPOConfig(output_dir="runs/ppo", grader="rule:No", total_episodes=240, **shared))
"""
Track = dict[str, list[dict[str, float]]]
"""The logged rows of every run, by the run's name."""


def tensorboard(directory: Path) -> Track:
    event_accumulator: Any = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")

    found: Track = {}
    for name in ("sft", "ppo"):
        events = event_accumulator.EventAccumulator(str(directory / "runs" / name / "tensorboard" / name))
        events.Reload()
        rows: dict[int, dict[str, float]] = {}
        for tag in events.Tags()["scalars"]:
            for event in events.Scalars(tag):
                rows.setdefault(event.step, {"train/global_step": event.step})[tag] = event.value
        found[name] = [rows[step] for step in sorted(rows)]
    return found


def trackio(directory: Path) -> Track:
    """The name without the time that keeps two runs of one name apart."""
    found: Track = {}
    with sqlite3.connect(directory / "trackio" / "eightball.db") as database:
        for name, metrics in database.execute("select run_name, metrics from metrics order by id"):
            found.setdefault(name.split()[0], []).append(json.loads(metrics))
    return found


READ: dict[str, Callable[[Path], Track]] = {"tensorboard": tensorboard, "trackio": trackio}


def assert_equal_metrics(found: Track, runs: Path, metrics: set[str]) -> None:
    """Of both runs, every row of metrics.jsonl but the summary of a training."""
    assert set(found) == {"sft", "ppo"} and metrics <= set(found["ppo"][-1])
    for name, rows in found.items():
        for row in (row for row in read_metrics(runs / name) if "train_runtime" not in row):
            logged = {f"train/{key}": row[key] for key in set(row) - {"stage", "step"} if row[key] is not None}
            (tracked,) = [one for one in rows if one["train/global_step"] == row["step"] and set(logged) <= set(one)]
            assert {key: tracked[key] for key in logged} == pytest.approx(logged, rel=1e-5, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", pytest.param("trackio", marks=pytest.mark.long)])
def test_two_stages_of_one_process_are_two_runs_with_all_metrics(
    tracker: str, small_data: Path, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "TRACKIO"))}
    environment |= SECRETS | {
        "PYTHONPATH": os.pathsep.join([str(REPOSITORY / "tests" / "no_network"), str(REPOSITORY)]),
        "EIGHTBALL_NETWORK_LOG": str(tmp_path / "calls.txt"),
        "OMP_NUM_THREADS": "1",
        "WANDB_MODE": "offline",
        "TRACKIO_DIR": str(tmp_path / "trackio"),
    }
    command = [sys.executable, "-c", TRAINING, tracker, str(small_data), f"http://me:{PASSWORD}@judge/v1"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "calls.txt").exists()  # nobody beyond this machine was called
    assert "Trackio" not in done.stdout and "wandb:" not in done.stdout  # results alone
    metrics = {"train/objective/scores", "train/exact/optimum_fraction", "train/grader_calls"}
    if tracker == "wandb":  # a format of its own, in which names are plain text
        contents = [file.read_bytes() for file in tmp_path.glob("wandb/offline-run-*/*.wandb")]
        assert len(contents) == 2 and all(b"eightball" in content for content in contents)
        assert any(all(name.encode() in content for name in metrics) for content in contents)
    else:
        assert_equal_metrics(READ[tracker](tmp_path), tmp_path / "runs", metrics)
    assert not list(tmp_path.glob("runs/*.unfinished")) and (tmp_path / "runs/ppo/results.json").is_file()
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", tracker, "trackio"}
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        content = file.read_bytes()
        for secret in (*SECRETS.values(), PASSWORD):
            assert secret.encode() not in content, f"{file.name} holds {secret}"


def test_project_of_the_user_is_kept_and_trackio_gets_unique_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACKIO_PROJECT", raising=False)
    assert trackers.project() == "eightball"
    monkeypatch.setenv("TRACKIO_PROJECT", "mine")
    assert trackers.project() == "mine"
    assert trackers.run_name("ppo", "tensorboard,wandb") == "ppo"
    assert trackers.run_name("ppo", "none") == "ppo"
    assert trackers.run_name("ppo", "wandb,trackio").startswith("ppo 20")


class Recorder:
    """A stand-in for the module of a tracker: what was called."""

    def __init__(self) -> None:
        self.run: Any = None
        self.calls: list[Any] = []

    def init(self, **options: Any) -> "Recorder":
        self.calls.append(("init", options, list(sys.argv)))
        return self

    def finish(self, **options: Any) -> None:
        self.calls.append(("finish", options))


def trainer_with(*callbacks: Any) -> Any:
    return SimpleNamespace(
        callback_handler=SimpleNamespace(callbacks=list(callbacks)), args=SimpleNamespace(run_name="ppo")
    )


def test_trackers_are_closed_when_training_fails(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recorder = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", recorder)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    monkeypatch.setattr(sys, "argv", ["ppo", f"http://me:{PASSWORD}@judge/v1"])
    board, trackio_, wandb_ = (kind.__new__(kind) for kind in (TensorBoardCallback, TrackioCallback, WandbCallback))
    closed: list[str] = []
    board.logging_dir, board.tb_writer = None, SimpleNamespace(close=lambda: closed.append("tensorboard"))
    trackio_._initialized, trackio_._trackio = True, SimpleNamespace(finish=lambda: closed.append("trackio"))
    with (
        pytest.raises(KeyboardInterrupt),
        trackers.tracker_session(trainer_with(board, trackio_, wandb_), tmp_path / "ppo.unfinished", "ppo"),
    ):
        raise KeyboardInterrupt
    assert closed == ["trackio", "tensorboard"]
    assert board.logging_dir == str(tmp_path / "ppo.unfinished" / "tensorboard" / "ppo")
    options = {"project": "mine", "name": "ppo"}
    assert recorder.calls == [("init", options, ["ppo", "http://***@judge/v1"]), ("finish", {"exit_code": 1})]
    assert sys.argv[1].endswith(f"{PASSWORD}@judge/v1")


def test_run_that_the_caller_has_opened_stays_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    recorder = Recorder()
    recorder.run = "the caller's"
    monkeypatch.setitem(sys.modules, "wandb", recorder)
    with trackers.tracker_session(trainer_with(WandbCallback.__new__(WandbCallback)), tmp_path, "ppo"):
        pass
    assert recorder.calls == []
