"""Every stage but PPO goes on to the very bits of one that was not stopped; `test_resume.py` looks at PPO."""

import errno
import os
import shutil
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stopping import assert_same, rows, stopped

from conftest import LABELS
from eightball_ppo.config.methods import DistillConfig, ExactConfig, GRPOConfig, RLOOConfig
from eightball_ppo.config.stages import RewardConfig, SFTConfig
from eightball_ppo.errors import IncompleteError, TrainingDivergedError, TrainingInterrupted
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.methods import distill, reward_model, sft
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.runtime import signals
from eightball_ppo.runtime.progress import checkpoints_in
from eightball_ppo.runtime.run import read_metrics

# --- one training

STAGES: dict[str, tuple[Callable[[Any], Path], type, dict[str, Any], int]] = {
    "sft": (sft.train, SFTConfig, {"num_train_epochs": 2}, 13),
    "sft at the end of a pass": (sft.train, SFTConfig, {"num_train_epochs": 2}, 20),
    "sft with lora": (sft.train, SFTConfig, {"num_train_epochs": 1, "use_peft": True}, 7),
    "sft after its last step": (sft.train, SFTConfig, {"num_train_epochs": 1.25}, 25),
    "reward in its second pass": (reward_model.train, RewardConfig, {"num_train_epochs": 2}, 14),
    "distill": (run_method, DistillConfig, {"num_train_epochs": 3, "threshold": 0.5}, 3),
    "exact": (run_method, ExactConfig, {"num_train_epochs": 4, "per_device_train_batch_size": 30}, 3),
    "rloo": (run_method, RLOOConfig, {"total_episodes": 600}, 4),
    "rloo after its last update": (run_method, RLOOConfig, {"total_episodes": 600}, 5),
    "grpo": (run_method, GRPOConfig, {"total_episodes": 600, "log_completions": True}, 2),
}
FAST = ("sft", "sft after its last step", "rloo")


@pytest.mark.parametrize(
    "stage", [pytest.param(name, marks=[] if name in FAST else pytest.mark.slow) for name in STAGES]
)
def test_every_stage_goes_on_to_the_same_bits(stage: str, ruled: dict[str, Any], tmp_path: Path) -> None:
    train, config_class, more, after = STAGES[stage]
    if issubclass(config_class, SFTConfig | RewardConfig):
        more = {"dataset_name": ruled["dataset_name"], "labels": LABELS, "disable_tqdm": True, **more}
    else:
        more = {**ruled, **more}
    if config_class in (RLOOConfig, GRPOConfig):  # 3 updates are a pass over the questions
        more |= {"generation_batch_size": 120, "steps_per_generation": 2, "num_iterations": 2}
    straight = train(config_class(output_dir=str(tmp_path / "straight"), **more))
    config = config_class(output_dir=str(tmp_path / "run"), **more)
    stopped(train, config, after)
    torch.manual_seed(99)  # somebody else's numbers
    assert_same(straight, train(replace(config, resume_from_checkpoint="true")))


def test_a_score_that_is_not_finite_after_a_resumption_is_of_the_update_it_is_in(
    ruled: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    more: dict[str, Any] = {"generation_batch_size": 120, "steps_per_generation": 2, "num_iterations": 2}
    config = RLOOConfig(**ruled, **more, total_episodes=600, output_dir=str(tmp_path / "run"))
    stopped(run_method, config, after=2)
    monkeypatch.setattr(BudgetedScores, "forward", lambda _, rows_B, actions_B: torch.full(rows_B.shape, torch.inf))
    with pytest.raises(TrainingDivergedError, match=r"a score is not finite in update 3; its batch is in "):
        run_method(replace(config, resume_from_checkpoint="true"))


# --- distillation, which trains several policies for one


@pytest.fixture(scope="module")
def search(ruled: dict[str, Any], reward_run: Path) -> DistillConfig:
    """A distillation that tries several thresholds, which keep unlike questions."""
    short: dict[str, Any] = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "save_steps": 4}
    grader = {"grader": "bert", "reward_model_path": str(reward_run), "label_noise": 0.3}
    return DistillConfig(**{**ruled, **grader, **short})


@pytest.fixture(scope="module")
def searched(search: DistillConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """(a run of it that nobody stopped, the updates that each of its trainings made)."""
    done = run_method(replace(search, output_dir=str(tmp_path_factory.mktemp("searched") / "run")))
    steps = {row["stage"]: row["step"] for row in read_metrics(done)}
    assert len(steps) > 3 and list(steps)[-1] == "distill"
    return done, list(steps.values())


def test_no_policy_of_the_search_stays_among_the_checkpoints(searched: tuple[Path, list[int]]) -> None:
    done, steps = searched
    before = sum(steps[:-1])
    assert [path.name for path in checkpoints_in(done)] == [
        f"checkpoint-{before + update}" for update in range(4, steps[-1] + 1, 4)
    ]


SELDOM = [pytest.param(where, marks=pytest.mark.slow) for where in ("after its first", "in its second", "in the last")]


@pytest.mark.parametrize("where", ["in its first", *SELDOM])
def test_distillation_goes_on_in_the_midst_of_its_search(
    where: str, search: DistillConfig, searched: tuple[Path, list[int]], tmp_path: Path
) -> None:
    straight, steps = searched
    after = {
        "in its first": 3,
        "after its first": steps[0],
        "in its second": steps[0] + 2,
        "in the last": sum(steps[:-1]) + 1,
    }[where]
    config = replace(search, output_dir=str(tmp_path / "run"))
    told = str(stopped(run_method, config, after))
    assert ("of threshold 0.0;" in told) == ("first" in where) and (" of threshold" in told) == (where != "in the last")
    assert checkpoints_in(tmp_path / "run.unfinished")[-1].name == f"checkpoint-{after}"
    torch.manual_seed(99)
    resumed = run_method(replace(config, resume_from_checkpoint="true"))
    shutil.rmtree(resumed / f"checkpoint-{after}", ignore_errors=True)  # where it was stopped, which the other was not
    assert_same(straight, resumed)


def test_a_disk_that_is_full_at_the_end_leaves_what_the_search_was_stopped_at(
    search: DistillConfig, searched: tuple[Path, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, _ = searched
    config = replace(search, output_dir=str(tmp_path / "run"), save_steps=None)
    stopped(run_method, config, after=5)
    config = replace(config, resume_from_checkpoint="true")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch, pytest.raises(IncompleteError, match="_checkpoint true, from checkpoint-5"):
        patch.setattr("eightball_ppo.methods.run_method.save_policy", full)
        run_method(config)
    resumed = run_method(config)
    assert (straight / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    assert not checkpoints_in(resumed)


def test_a_signal_between_two_trainings_of_the_search_counts_for_the_next(
    search: DistillConfig, searched: tuple[Path, list[int]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    straight, steps = searched
    config, measured = replace(search, output_dir=str(tmp_path / "run")), distill.predict_logits_NK

    def asked_meanwhile(*given: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return measured(*given)

    monkeypatch.setattr(distill, "predict_logits_NK", asked_meanwhile)
    with (
        pytest.raises((TrainingInterrupted, signals.Interrupted), match=f"after update 1 of {steps[1]} of threshold"),
        signals.install_handlers(),
    ):
        run_method(config)
    monkeypatch.setattr(distill, "predict_logits_NK", measured)
    resumed = run_method(replace(config, resume_from_checkpoint="true"))
    assert (straight / "model.safetensors").read_bytes() == (resumed / "model.safetensors").read_bytes()
    assert rows(straight) == rows(resumed)
