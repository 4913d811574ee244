"""Every stage but PPO resumes to the very bits of one that was not stopped; `test_resume.py` tests PPO."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from stopping import assert_same, stopped

from conftest import LABELS, without_figures
from eightball_ppo.config.methods import DistillConfig, ExactConfig, GRPOConfig, RLOOConfig
from eightball_ppo.config.stages import RewardConfig, SFTConfig
from eightball_ppo.methods import reward_model, sft
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.runtime.progress import checkpoints_in
from eightball_ppo.runtime.run import read_metrics

pytestmark = pytest.mark.usefixtures("no_figures")
GROUPS: dict[str, Any] = {"generation_batch_size": 120, "steps_per_generation": 2, "num_iterations": 2}
GROUPS |= {"total_episodes": 600}  # 3 updates are a pass over the questions
Stage = tuple[Callable[[Any], Path], type, dict[str, Any], int]  # the last: SIGTERM in this update
FAST: dict[str, Stage] = {
    "sft": (sft.train, SFTConfig, {"num_train_epochs": 2}, 13),
}
SLOW: dict[str, Stage] = {
    "rloo": (run_method, RLOOConfig, GROUPS, 4),
    "sft at the end of an epoch": (sft.train, SFTConfig, {"num_train_epochs": 2}, 20),
    "sft with lora": (sft.train, SFTConfig, {"num_train_epochs": 1, "use_peft": True}, 7),
    "sft after its last step": (sft.train, SFTConfig, {"num_train_epochs": 1.25}, 25),
    "reward in its second epoch": (
        reward_model.train,
        RewardConfig,
        {"num_train_epochs": 2, "per_device_train_batch_size": 16},
        14,
    ),
    "distill": (run_method, DistillConfig, {"num_train_epochs": 3, "threshold": 0.5}, 3),
    "exact": (run_method, ExactConfig, {"num_train_epochs": 4, "per_device_train_batch_size": 30}, 3),
    "rloo after its last update": (run_method, RLOOConfig, GROUPS, 5),
    "grpo": (run_method, GRPOConfig, {**GROUPS, "log_completions": True}, 2),
}


@pytest.mark.parametrize("stage", [*FAST, *(pytest.param(name, marks=pytest.mark.slow) for name in SLOW)])
def test_stopped_stage_resumes_to_the_same_bits(stage: str, ruled: dict[str, Any], tmp_path: Path) -> None:
    train, config_class, options, after = (FAST | SLOW)[stage]
    shared = ruled
    if config_class in (SFTConfig, RewardConfig):
        shared = {"dataset_name": ruled["dataset_name"], "labels": LABELS, "disable_tqdm": True}
    straight = train(config_class(output_dir=str(tmp_path / "straight"), **shared, **options))
    config = config_class(output_dir=str(tmp_path / "run"), **shared, **options)
    stopped(train, config, after)
    torch.manual_seed(99)  # the caller's generator plays no part
    assert_same(straight, train(replace(config, resume_from_checkpoint="true")))


# --- distillation, which trains several policies to choose a threshold


@pytest.fixture(scope="module")
def search(ruled: dict[str, Any], reward_run: Path) -> DistillConfig:
    """A distillation that tries several thresholds, which keep different questions."""
    short: dict[str, Any] = {"num_train_epochs": 2, "per_device_train_batch_size": 8, "save_steps": 4}
    grader = {"grader": "bert", "reward_model_path": str(reward_run), "label_noise": 0.3}
    return DistillConfig(**{**ruled, **grader, **short})


@pytest.fixture(scope="module")
def searched(search: DistillConfig, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[int]]:
    """(a run of it without interruption, the updates of each of its trainings)."""
    with without_figures():
        run = run_method(replace(search, output_dir=str(tmp_path_factory.mktemp("searched") / "run")))
    steps = {row["stage"]: row["step"] for row in read_metrics(run)}
    assert len(steps) > 3 and list(steps)[-1] == "distill"
    before, last = sum(list(steps.values())[:-1]), steps["distill"]
    # policies of the search stay not among the checkpoints
    expected = [f"checkpoint-{before + update}" for update in range(4, last + 1, 4)]
    assert [path.name for path in checkpoints_in(run)] == expected
    return run, list(steps.values())


@pytest.mark.slow
@pytest.mark.parametrize("where", ["in its first", "after its first", "in its second", "in the last"])
def test_distillation_resumes_within_its_threshold_search(
    where: str, search: DistillConfig, searched: tuple[Path, list[int]], tmp_path: Path
) -> None:
    straight, steps = searched
    first, last = steps[0], sum(steps[:-1])
    after = {"in its first": 3, "after its first": first, "in its second": first + 2, "in the last": last + 1}[where]
    config = replace(search, output_dir=str(tmp_path / "run"))
    message = str(stopped(run_method, config, after))
    assert (" of threshold 0.0" in message) == ("first" in where)
    assert (" of threshold" in message) == (where != "in the last")
    assert checkpoints_in(tmp_path / "run.unfinished")[-1].name == f"checkpoint-{after}"
    torch.manual_seed(99)
    resumed = run_method(replace(config, resume_from_checkpoint="true"))
    shutil.rmtree(resumed / f"checkpoint-{after}", ignore_errors=True)  # where it was stopped
    assert_same(straight, resumed)
