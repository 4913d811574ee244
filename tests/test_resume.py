"""A training that was stopped or killed goes on to the very bits of one that was not."""

import json
import logging
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from stopping import assert_same, stopped
from test_launches import environment, options, run, until
from test_ranks import torchrun

from conftest import LABELS, REPOSITORY
from eightball_ppo.config.methods import ExactConfig, PPOConfig
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.errors import InputError
from eightball_ppo.methods import sft
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models.loading import load_classifier
from eightball_ppo.runtime.atomic_io import DirectoryLock, _write_checksums
from eightball_ppo.runtime.progress import checkpoints_in
from eightball_ppo.runtime.run import Run, read_environment, read_metrics, read_results
from eightball_ppo.training.checkpoint import CheckpointWriter
from eightball_ppo.training.resume import ResumeContext, find_resume_point
from eightball_ppo.training.state import PerRankState, RNGState, StateDict, States, load_states, write_states

PPO = str(REPOSITORY / "scripts" / "ppo.py")


@pytest.fixture(scope="module")
def ppo_config(ruled: dict[str, Any]) -> PPOConfig:
    return PPOConfig(
        num_mini_batches=2,
        num_ppo_epochs=2,
        per_device_train_batch_size=24,
        total_episodes=240,
        save_steps=3,
        **ruled,
    )


@pytest.fixture(scope="module")
def half(tmp_path_factory: pytest.TempPathFactory, ppo_config: PPOConfig) -> PPOConfig:
    """A PPO that was stopped after update 5 of 10; do not change it."""
    root = tmp_path_factory.mktemp("half")
    options: dict[str, Any] = {"grade_store": str(root / "grades.sqlite3"), "log_completions": True}
    config = replace(ppo_config, output_dir=str(root / "run"), **options)
    told = stopped(run_method, config, after=5)
    assert str(told) == (
        "stopped by SIGTERM after update 5 of 10; go on by the same command with --resume_from_checkpoint true"
    )
    return replace(config, resume_from_checkpoint="true")


@pytest.fixture
def copied(half: PPOConfig, tmp_path: Path) -> PPOConfig:
    """The same in a place of its own, to be damaged or gone on with."""
    shutil.copytree(f"{half.output_dir}.unfinished", tmp_path / "run.unfinished")
    return replace(half, output_dir=str(tmp_path / "run"))


def test_ppo_that_goes_on_ends_as_if_it_had_never_stopped(copied: PPOConfig, tmp_path: Path) -> None:
    found = sorted(path.name for path in (tmp_path / "run.unfinished").glob("checkpoint-*"))
    assert found == ["checkpoint-3", "checkpoint-5"]
    straight = run_method(replace(copied, output_dir=str(tmp_path / "straight"), resume_from_checkpoint=None))
    # rows and a checkpoint that a killed successor has left
    with (tmp_path / "run.unfinished" / "metrics.jsonl").open("a") as file:
        file.write('{"stage": "ppo", "step": 6}\n{"sta')
    (tmp_path / "run.unfinished" / ".checkpoint-6").mkdir()
    resumed = run_method(copied)
    shutil.rmtree(resumed / "checkpoint-5")  # where it was stopped, which the other was not
    assert_same(straight, resumed)
    assert json.loads((resumed / "results.json").read_text())["grades"]["calls_made"] == 100  # before it was stopped
    assert [json.loads(line)["step"] for line in (resumed / "metrics.jsonl").open()] == list(range(1, 11))


def test_a_checkpoint_is_a_policy_and_holds_no_pickle(half: PPOConfig) -> None:
    checkpoint = Path(f"{half.output_dir}.unfinished") / "checkpoint-5"
    model, tokenizer = load_classifier(str(checkpoint), "--model_name_or_path")
    assert model.config.num_labels == 3 and tokenizer.pad_token_id is not None
    kinds = {path.suffix for path in checkpoint.rglob("*") if path.is_file()}
    assert kinds == {".json", ".safetensors", ".py"}


# --- what is refused


def refused(config: PPOConfig) -> str:
    with pytest.raises(InputError) as error:
        find_resume_point(config, "ppo")
    return str(error.value)


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes()[:-1] + bytes([file.read_bytes()[-1] ^ 1])),
        lambda file: file.unlink(),
    ],
    ids=["cut off", "a byte changed", "missing"],
)
@pytest.mark.parametrize("name", ["model.safetensors", "training/state.safetensors", "training/state.json"])
def test_a_damaged_checkpoint_is_named_and_an_older_one_is_taken_aloud(
    name: str, damage: Callable[[Path], object], copied: PPOConfig, caplog: pytest.LogCaptureFixture
) -> None:
    unfinished = Path(f"{copied.output_dir}.unfinished")
    file = unfinished / "checkpoint-5" / name
    damage(file)
    assert refused(replace(copied, resume_from_checkpoint=str(unfinished / "checkpoint-5"))).startswith(f"{file}: ")
    with caplog.at_level(logging.INFO):
        found = find_resume_point(copied, "ppo")
    assert found is not None and found.path.name == "checkpoint-3"
    assert f"{file}: " in caplog.text and f"going on from {unfinished / 'checkpoint-3'}" in caplog.text
    damage(unfinished / "checkpoint-3" / name)
    assert refused(copied).startswith(f"{file}: ")


def test_without_its_seal_or_its_rows_it_is_none(copied: PPOConfig) -> None:
    unfinished = Path(f"{copied.output_dir}.unfinished")
    (unfinished / "checkpoint-5" / "complete.json").unlink()
    assert "complete.json: missing or damaged" in refused(
        replace(copied, resume_from_checkpoint=str(unfinished / "checkpoint-5"))
    )
    metrics = unfinished / "metrics.jsonl"
    metrics.write_bytes(metrics.read_bytes()[:100])
    assert "metrics.jsonl: is shorter than it was at checkpoint-3" in refused(
        replace(copied, resume_from_checkpoint=str(unfinished / "checkpoint-3"))
    )


def test_another_training_is_refused_by_the_name_of_its_option(
    copied: PPOConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert "was made with --kl_coef 0.1, not 0.2; go on so, or remove " in refused(replace(copied, kl_coef=0.2))
    assert "was made with --seed 0, not 1" in refused(replace(copied, seed=1))
    assert find_resume_point(replace(copied, save_steps=7, report_to="tensorboard"), "ppo") is not None
    with pytest.raises(InputError, match="is of ppo, not of rloo"):
        find_resume_point(copied, "rloo")
    assert "name one of" in refused(replace(copied, resume_from_checkpoint=str(tmp_path)))
    monkeypatch.setattr("eightball_ppo.training.resume.num_processes", lambda: 2)
    assert "was made by 1 processes, and there are 2" in refused(copied)


def test_a_checkpoint_of_another_format_is_refused(copied: PPOConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("eightball_ppo.training.resume.FORMAT", 1000)
    assert "checkpoint-5: was written by another version of this program, and only that can go on" in refused(copied)


@pytest.mark.parametrize("damage", [{"progress": None}, {"config": []}, {"states": None}, {"inputs": 3}])
def test_a_header_that_was_edited_and_sealed_again_is_damage(copied: PPOConfig, damage: dict[str, Any]) -> None:
    for path in checkpoints_in(Path(f"{copied.output_dir}.unfinished")):
        file = path / "training" / "state.json"
        header = {**json.loads(file.read_text()), **damage}
        file.write_text(json.dumps({name: value for name, value in header.items() if value is not None}))
        (path / "complete.json").unlink()
        _write_checksums(path)
    assert "training/state.json is damaged" in refused(copied)


def test_another_reference_or_other_questions_are_refused(copied: PPOConfig, tmp_path: Path) -> None:
    other = tmp_path / "sft"
    shutil.copytree(copied.sft_model_path, other)
    weights = load_file(other / "model.safetensors")
    save_file({name: own + 1e-3 for name, own in weights.items()}, other / "model.safetensors", {"format": "pt"})
    state = Path(f"{copied.output_dir}.unfinished")
    for config, told in (
        (replace(copied, sft_model_path=str(other)), r"was made with --sft_model_path .*, not .*sft"),
        (replace(copied, grader="rule:No"), "was made with --grader rule:Yes, not rule:No"),
    ):
        with pytest.raises(InputError, match=told):
            run_method(config)
    shutil.move(copied.sft_model_path, tmp_path / "aside")
    try:
        shutil.copytree(other, copied.sft_model_path)
        with pytest.raises(InputError, match=r"checkpoint-5: was made with another reference \(--sft_model_path\)"):
            run_method(copied)
    finally:
        shutil.rmtree(copied.sft_model_path)
        shutil.move(tmp_path / "aside", copied.sft_model_path)
    assert [own.name for own in checkpoints_in(state)] == ["checkpoint-3", "checkpoint-5"]  # nothing is touched


def test_nothing_to_go_on_from_and_something_that_would_be_lost(copied: PPOConfig, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"new.unfinished holds no checkpoint; leave the flag out to start again"):
        run_method(replace(copied, output_dir=str(tmp_path / "new")))
    with pytest.raises(InputError, match="resume it by --resume_from_checkpoint true, move it away, or drop it"):
        run_method(replace(copied, resume_from_checkpoint=None))


def test_two_runs_in_one_directory(copied: PPOConfig, tmp_path: Path) -> None:
    lock = DirectoryLock(tmp_path / "run.unfinished")
    for config in (copied, replace(copied, resume_from_checkpoint=None, overwrite_output_dir=True)):
        with pytest.raises(InputError, match=r"run.unfinished: another run is at work there; wait for its end"):
            run_method(config)
    lock.close()
    DirectoryLock(tmp_path / "run.unfinished").close()


def test_what_training_sees_must_be_the_same(copied: PPOConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    told = refused(replace(copied, log_completions=False))
    assert "was made with --log_completions True, not False; go on so, or remove " in told
    monkeypatch.setattr("eightball_ppo.training.resume.mixed_precision", lambda: "bf16")
    assert "was made with --mixed_precision no, not bf16; launch it so, or remove " in refused(copied)


def test_what_a_run_was_gone_on_with_stands_beside_what_it_began_with(copied: PPOConfig, tmp_path: Path) -> None:
    began = read_environment(tmp_path / "run.unfinished")
    stopped(run_method, copied, after=7)
    told = read_environment(run_method(copied))
    assert [own.pop("after_update") for own in told["resumed"]] == [5, 7]
    assert told["resumed"] == [began, began] and {**began, "resumed": told["resumed"]} == told


def test_a_signal_in_the_update_that_target_kl_ends_loses_nothing(ppo_config: PPOConfig, tmp_path: Path) -> None:
    config = replace(ppo_config, stop_kl=0.01, learning_rate=0.002, save_steps=None)
    straight = run_method(replace(config, output_dir=str(tmp_path / "straight")))
    last = len(read_metrics(straight))
    assert read_results(straight)["ended_by"] == "stop_kl" and last > 1
    config = replace(config, output_dir=str(tmp_path / "run"))
    stopped(run_method, config, after=last)
    assert_same(straight, run_method(replace(config, resume_from_checkpoint="true")))


def test_a_model_that_is_trained_on_the_way_is_gone_on_with_by_the_same_command(
    small_data: Path, tmp_path: Path
) -> None:
    shared: dict[str, Any] = {"dataset_name": str(small_data), "grader": "rule:No", "disable_tqdm": True}
    config = PPOConfig(**shared, total_episodes=120)
    told = str(stopped(run_method, config, after=150))
    assert told == "stopped while runs/sft was trained; the same command resumes it"
    with pytest.raises(InputError, match=r"checkpoint-150: was made with --seed 0, not 1; go on so, or remove "):
        run_method(replace(config, seed=1))
    run_method(config)
    straight = sft.train(SFTConfig(dataset_name=str(small_data), disable_tqdm=True, output_dir="straight"))
    assert_same(straight, tmp_path / "runs" / "sft")


# --- the states of a training


def test_what_every_rank_has_is_gathered_from_the_cpu() -> None:
    """Or a process would open the card of another to look at it."""

    class OnCard(torch.Tensor):
        def cpu(self, *_: Any, **__: Any) -> torch.Tensor:
            return self.as_subclass(torch.Tensor)

    class Own:
        def state_dict(self) -> StateDict:
            return {"sum": torch.ones(2).as_subclass(OnCard), "steps": 3}

        def load_state_dict(self, state: StateDict) -> None:
            self.then = state

    part = Own()
    gathered = PerRankState(part).state_dict()
    assert type(gathered["0.sum"]) is torch.Tensor and gathered["0.steps"] == 3
    PerRankState(part).load_state_dict({**gathered, "1.steps": 4})
    assert part.then["steps"] == 3 and torch.equal(part.then["sum"], torch.ones(2))


def test_states_are_loaded_in_their_order_and_the_generators_go_on_where_they_were(tmp_path: Path) -> None:
    class Noisy:
        """Draws from every generator while it is loaded."""

        def state_dict(self) -> StateDict:
            return {"nested": {"rows": [1, 2.5, None]}, "half": torch.arange(3).half()}

        def load_state_dict(self, state: StateDict) -> None:
            self.then = state
            drawn()

    def drawn() -> list[Any]:
        return [torch.rand(3).tolist(), np.random.normal(), np.random.random(), random.gauss(0, 1), random.random()]

    drawn()  # numpy and Python have drawn a pair of normal numbers by now, and keep the second
    noisy = Noisy()
    states: States = [("noisy", noisy), ("rng", PerRankState(RNGState()))]
    write_states(tmp_path, {name: own.state_dict() for name, own in states}, {"format": 0})
    after = drawn()
    load_states(tmp_path, states)
    assert drawn() == after
    assert noisy.then["nested"] == {"rows": [1, 2.5, None]} and torch.equal(noisy.then["half"], torch.arange(3).half())


def test_the_scale_of_half_precision_gradients_comes_back(tmp_path: Path) -> None:
    scaler = torch.amp.GradScaler("cpu", init_scale=8.0, growth_interval=2)
    scaler.scale(torch.ones(1))
    scaler.update(4.0)
    write_states(tmp_path, {"scaler": scaler.state_dict()}, {})
    other = torch.amp.GradScaler("cpu")
    load_states(tmp_path, [("scaler", other)])
    assert other.state_dict() == scaler.state_dict() and other.get_scale() == 4.0


def test_checkpoints_of_a_later_training_of_a_run_are_numbered_on(sft_run: Path, tmp_path: Path) -> None:
    """Distillation trains several policies in one run: that of its third update must not take the first one's place."""
    config = ExactConfig(output_dir=str(tmp_path / "run"), labels=LABELS, save_steps=1)
    policy, tokenizer = load_classifier(str(sft_run), "--sft_model_path")
    with Run(config, "exact") as run:
        CheckpointWriter(config, run, policy, tokenizer, ResumeContext({}, updates_before=7)).write(2, 5)
        assert [path.name for path in run.path.glob("checkpoint-*")] == ["checkpoint-9"]


# --- by signals, as a program


def test_sigterm_to_the_script_ends_with_143_and_the_same_command_goes_on(
    small_data: Path, sft_run: Path, tmp_path: Path, ruled: dict[str, Any]
) -> None:
    flags = options(small_data, sft_run, total_episodes=24 * 100, num_ppo_epochs=1)
    command = [sys.executable, PPO, *flags, "--labels", *LABELS]
    more: dict[str, Any] = {"num_mini_batches": 2, "num_ppo_epochs": 1, "per_device_train_batch_size": 24}
    straight = run_method(PPOConfig(output_dir=str(tmp_path / "straight"), total_episodes=24 * 100, **more, **ruled))
    with (tmp_path / "err.txt").open("w") as err:
        job = subprocess.Popen(command, cwd=tmp_path, env=environment(), stdout=err, stderr=err)
        until(lambda: (tmp_path / "run.unfinished" / "metrics.jsonl").exists(), 200, tmp_path)
        job.send_signal(signal.SIGTERM)
        assert job.wait(60) == 143
    said = [line for line in (tmp_path / "err.txt").read_text().splitlines() if line.startswith("ppo.py: ")]
    assert len(said) == 1 and said[0].startswith("ppo.py: stopped by SIGTERM after update ")
    assert said[0].endswith("of 100; go on by the same command with --resume_from_checkpoint true")
    again = run([*command, "--resume_from_checkpoint", "true"], tmp_path, environment(), timeout=300)
    assert again.returncode == 0, again.stderr[-2000:]
    assert "going on from " in again.stderr
    assert_same(straight, tmp_path / "run")


SLEEPS = (
    "import signal, sys, time\nfrom eightball_ppo.runtime import signals\n"
    "try:\n    with signals.install_handlers():\n        with {}:\n            print('ready', flush=True)\n"
    "            for _ in range(600):\n                time.sleep(0.1)\n"
    "                if signals.pending_signal(): print('asked', flush=True)\n"
    "except KeyboardInterrupt as error:\n    sys.exit(error.number)\n"
)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, -15), (signal.SIGINT, -2)])
def test_the_first_signal_is_noted_and_the_second_ends_at_once(number: signal.Signals, code: int) -> None:
    job = subprocess.Popen(
        [sys.executable, "-c", SLEEPS.format("signals.defer_signals()")],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    job.send_signal(number)
    assert job.stdout.readline() == "asked\n"
    job.send_signal(number)
    assert job.wait(30) == code


def test_outside_a_training_the_first_signal_ends() -> None:
    command = [sys.executable, "-c", SLEEPS.format("__import__('contextlib').nullcontext()")]
    job = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    assert job.stdout is not None and job.stdout.readline() == "ready\n"
    job.send_signal(signal.SIGTERM)
    assert job.wait(30) == 15


# --- several processes


def test_two_processes_go_on_to_the_same_bits() -> None:
    done = torchrun("tests/two_ranks_resume.py")
    assert done.returncode == 0, done.stderr[-3000:]
    assert json.loads(done.stdout.strip().splitlines()[-1]) == {
        stage: {"stopped": [143, 143], "same": [True, True]} for stage in ("ppo", "sft", "reward", "distill")
    }
