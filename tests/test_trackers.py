"""Trackers, each for real and offline: what they hold, where it lies, what must not be in it, and whom they call."""

import importlib
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
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


def records(file: Path) -> Iterator[bytes]:
    """The records of a .wandb file: a LevelDB log of 32 KiB blocks behind 7 bytes of its own."""
    content, at, record = file.read_bytes(), 7, b""
    while at + 7 <= len(content):
        if 32768 - at % 32768 < 7:  # a header does not fit any more
            at += 32768 - at % 32768
            continue
        size, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        record = (b"" if kind in (1, 2) else record) + content[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # whole, or the last part
            yield record


def wandb(directory: Path) -> Track:
    from wandb.proto import wandb_internal_pb2

    found: Track = {}
    for file in directory.glob("wandb/offline-run-*/*.wandb"):
        name = ""
        for content in records(file):
            record = wandb_internal_pb2.Record.FromString(content)  # type: ignore[attr-defined]
            if record.run.display_name:
                name = record.run.display_name
                assert record.run.project == "eightball"
            if record.history.item:
                items = {"/".join(item.nested_key) or item.key: item.value_json for item in record.history.item}
                found.setdefault(name, []).append({key: json.loads(value) for key, value in items.items()})
    return found


READ: dict[str, Callable[[Path], Track]] = {"tensorboard": tensorboard, "trackio": trackio, "wandb": wandb}


@pytest.mark.parametrize("tracker", ["tensorboard", "wandb", pytest.param("trackio", marks=pytest.mark.slow)])
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

    found = READ[tracker](tmp_path)
    assert set(found) == {"sft", "ppo"}
    for name, rows in found.items():
        for row in read_metrics(tmp_path / "runs" / name):
            if "train_runtime" in row:  # the summary of a whole training
                continue
            wanted = {f"train/{key}" for key in set(row) - {"stage", "step"} if row[key] is not None}
            (tracked,) = [own for own in rows if own["train/global_step"] == row["step"] and wanted <= set(own)]
            for key in set(row) - {"stage", "step"}:
                if row[key] is not None:
                    assert tracked[f"train/{key}"] == pytest.approx(row[key], rel=1e-5, abs=1e-6), key
    assert {"train/objective/scores", "train/exact/optimum_fraction", "train/grader_calls"} <= set(found["ppo"][-1])

    own = {"config.yaml", "metrics.jsonl", "results.json"}
    assert not list(tmp_path.glob("runs/*.unfinished")) and own <= {
        file.name for file in (tmp_path / "runs/ppo").iterdir()
    }
    assert {path.name for path in tmp_path.iterdir()} <= {"runs", tracker, "trackio"}
    for file in (path for path in tmp_path.rglob("*") if path.is_file()):
        content = file.read_bytes()
        for secret in (*SECRETS.values(), PASSWORD):
            assert secret.encode() not in content, f"{file.name} holds {secret}"


def test_the_users_project_stands_and_trackio_gets_no_name_twice(monkeypatch: pytest.MonkeyPatch) -> None:
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
    own = Recorder()
    monkeypatch.setitem(sys.modules, "wandb", own)
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
    assert own.calls == [("init", options, ["ppo", "http://***@judge/v1"]), ("finish", {"exit_code": 1})]
    assert sys.argv[1].endswith(f"{PASSWORD}@judge/v1")


def test_a_run_that_the_caller_has_open_is_left_open(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = Recorder()
    own.run = "the caller's"
    monkeypatch.setitem(sys.modules, "wandb", own)
    with trackers.tracker_session(trainer_with(WandbCallback.__new__(WandbCallback)), tmp_path, "ppo"):
        pass
    assert own.calls == []
