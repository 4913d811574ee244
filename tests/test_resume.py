"""A PPO that was stopped or killed resumes to the very bits of one that was not."""

import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from processes import exit_code, fork, killed_at_the_end, until
from stopping import assert_same, stopped

from conftest import LABELS, REPOSITORY, without_figures
from eightball_ppo.cli import commands
from eightball_ppo.config.methods import ExactConfig, PPOConfig
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods import sft
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models.loading import load_classifier
from eightball_ppo.runtime.progress import checkpoints_in
from eightball_ppo.runtime.run import Run, read_environment, read_metrics, read_results
from eightball_ppo.training.checkpoint import CheckpointWriter
from eightball_ppo.training.resume import ResumeContext
from eightball_ppo.training.state import load_states, write_states

pytestmark = pytest.mark.usefixtures("no_figures")


@pytest.fixture(scope="module")
def straight(stopped_ppo: PPOConfig, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same PPO without interruption."""
    directory = tmp_path_factory.mktemp("straight") / "run"
    with without_figures():
        return run_method(replace(stopped_ppo, output_dir=str(directory), resume_from_checkpoint=None))


def test_stopped_ppo_resumes_to_the_same_bits(copied_ppo: PPOConfig, straight: Path, tmp_path: Path) -> None:
    unfinished = tmp_path / "run.unfinished"
    assert sorted(path.name for path in unfinished.glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-5"]
    began = read_environment(unfinished)
    model, tokenizer = load_classifier(str(unfinished / "checkpoint-5"), "--model_name_or_path")
    assert model.config.num_labels == 3 and tokenizer.pad_token_id is not None
    kinds = {path.suffix for path in (unfinished / "checkpoint-5").rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors", ".py"}  # no pickle
    # rows and a checkpoint that a killed successor has left
    with (unfinished / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "ppo", "step": 6}\n{"sta')
    (unfinished / ".checkpoint-6").mkdir()
    resumed = run_method(copied_ppo)
    shutil.rmtree(resumed / "checkpoint-5")  # where it was stopped
    assert_same(straight, resumed)
    assert read_results(resumed)["grades"]["calls_made"] == 100  # before it was stopped
    assert [row["step"] for row in read_metrics(resumed)] == list(range(1, 11))
    assert read_environment(resumed) == {**began, "resumed": [{**began, "after_update": 5}]}


def test_scale_of_float16_gradients_is_restored(tmp_path: Path) -> None:
    saved, restored = torch.amp.GradScaler("cpu", init_scale=8.0), torch.amp.GradScaler("cpu")
    saved.scale(torch.ones(1))
    saved.update(4.0)
    write_states(tmp_path, {"scaler": saved.state_dict()}, {})
    load_states(tmp_path, [("scaler", restored)])
    assert restored.state_dict() == saved.state_dict() and restored.get_scale() == 4.0


@pytest.mark.slow
def test_killed_ppo_resumes_to_the_same_bits(stopped_ppo: PPOConfig, straight: Path, tmp_path: Path) -> None:
    config = replace(stopped_ppo, output_dir=str(tmp_path / "run"), resume_from_checkpoint=None)
    unfinished, output = tmp_path / "run.unfinished", tmp_path / "output.txt"
    training = fork(lambda: run_method(config), output)
    with killed_at_the_end([training]):
        until((unfinished / "checkpoint-3" / "complete.json").exists, 60, output)
    assert checkpoints_in(unfinished) and not (tmp_path / "run").exists(), output.read_text()
    assert_same(straight, run_method(replace(config, resume_from_checkpoint="true")))


@pytest.mark.slow
def test_sigterm_exits_with_143_and_the_command_resumes(stopped_ppo: PPOConfig, straight: Path, tmp_path: Path) -> None:
    names = ["dataset_name", "sft_model_path", "grader", "num_mini_batches", "num_ppo_epochs", "save_steps"]
    names += ["per_device_train_batch_size", "total_episodes", "log_completions", "allow_weak_grader", "disable_tqdm"]
    flags = [word for name in names for word in (f"--{name}", str(getattr(stopped_ppo, name)))]
    flags += ["--labels", *LABELS, "--output_dir", "run"]
    output, metrics = tmp_path / "output.txt", tmp_path / "run.unfinished" / "metrics.jsonl"

    training = fork(lambda: commands.run("ppo", flags), output)
    with killed_at_the_end([training]):
        until(metrics.exists, 60, output)
        os.kill(training, signal.SIGTERM)
        assert exit_code(training) == 143, output.read_text()
    (line,) = [line for line in output.read_text().splitlines() if "SIGTERM" in line]
    assert "stopped by SIGTERM after update " in line and "--resume_from_checkpoint true" in line
    stopped_at = checkpoints_in(tmp_path / "run.unfinished")[-1].name
    commands.run("ppo", [*flags, "--resume_from_checkpoint", "true"])
    if not (straight / stopped_at).exists():
        shutil.rmtree(tmp_path / "run" / stopped_at)
    assert_same(straight, tmp_path / "run")


@pytest.mark.slow
def test_a_signal_in_the_update_that_stop_kl_ends_loses_nothing(stopped_ppo: PPOConfig, tmp_path: Path) -> None:
    config = replace(stopped_ppo, stop_kl=0.01, learning_rate=0.002, save_steps=None, resume_from_checkpoint=None)
    straight = run_method(replace(config, output_dir=str(tmp_path / "straight")))
    last = len(read_metrics(straight))
    assert read_results(straight)["stopped_by"] == "stop_kl" and last > 1
    config = replace(config, output_dir=str(tmp_path / "run"))
    stopped(run_method, config, after=last)
    assert_same(straight, run_method(replace(config, resume_from_checkpoint="true")))


@pytest.mark.slow
def test_an_upstream_model_is_resumed_by_the_same_command(small_data: Path, tmp_path: Path) -> None:
    shared: dict[str, Any] = {"dataset_name": str(small_data), "grader": "rule:No", "disable_tqdm": True}
    config = PPOConfig(**shared, total_episodes=120)
    assert "stopped while runs/sft was trained" in str(stopped(run_method, config, after=150))
    with pytest.raises(InputError, match=r"checkpoint-150: was made with --seed 0, not 1"):
        run_method(replace(config, seed=1))
    run_method(config)
    straight = sft.train(SFTConfig(dataset_name=str(small_data), disable_tqdm=True, output_dir="straight"))
    assert_same(straight, tmp_path / "runs" / "sft")


def test_checkpoints_of_a_later_training_are_numbered_after_the_earlier_ones(sft_run: Path, tmp_path: Path) -> None:
    """Distillation trains several policies in one run."""
    config = ExactConfig(output_dir=str(tmp_path / "run"), labels=LABELS, save_steps=1)
    policy, tokenizer = load_classifier(str(sft_run), "--sft_model_path")
    with Run(config, "exact") as run:
        CheckpointWriter(config, run, policy, tokenizer, ResumeContext({}, updates_before=7)).write(2, 5)
        assert [path.name for path in run.path.glob("checkpoint-*")] == ["checkpoint-9"]


# --- signals

SLEEPING = """
import contextlib, sys, time
from eightball_ppo.runtime import signals
try:
    with signals.install_handlers(), {}:
        print("ready", flush=True)
        for _ in range(600):
            time.sleep(0.1)
            if signals.pending_signal():
                print("noted", flush=True)
except KeyboardInterrupt as error:
    sys.exit(error.number)
"""


def sleeping(context: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", SLEEPING.format(context)]
    job = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    return job


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, -2)])
def test_during_training_the_first_signal_is_noted_and_the_second_kills(number: signal.Signals, code: int) -> None:
    job = sleeping("signals.defer_signals()")
    job.send_signal(number)
    assert job.stdout is not None and job.stdout.readline() == "noted\n"
    job.send_signal(number)
    assert job.wait(30) == code


def test_outside_a_training_the_first_signal_ends_the_program() -> None:
    job = sleeping("contextlib.nullcontext()")
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 15
