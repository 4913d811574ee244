"""On a CUDA card: nothing meets a tensor of another device, and bfloat16 trains. Skipped where there is none."""

from pathlib import Path
from typing import Any

import encoders
import pytest
import torch

from conftest import LABELS
from eightball_ppo.configs import DistillConfig, PPOConfig, RLOOConfig
from eightball_ppo.methods import distill, ppo, rloo
from eightball_ppo.runs import read_environment, read_results

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("use_peft", [False, True], ids=["all weights", "lora"])
def test_ppo(use_peft: bool, dtype: Any, small_data: Path, reward_run: Path, tmp_path: Path) -> None:
    policy = encoders.save("bert", tmp_path / "policy", tuple(LABELS))
    run = ppo.train(PPOConfig(learning_rate=5e-4, value_learning_rate=5e-4, use_peft=use_peft, dtype=dtype,
                              total_episodes=480, **options(policy, small_data, reward_run, tmp_path)))  # fmt: skip
    assert read_environment(run)["cuda"] and read_results(run)["splits"]["train"]["kl"] > 0


def test_distillation_and_groups(sft_run: Path, small_data: Path, reward_run: Path, tmp_path: Path) -> None:
    own = options(sft_run, small_data, reward_run, tmp_path)
    for name, run in (
        ("distill", distill.train(DistillConfig(**{**own, "output_dir": str(tmp_path / "d")}, num_train_epochs=2))),
        ("rloo", rloo.train(RLOOConfig(**{**own, "output_dir": str(tmp_path / "r")}, total_episodes=600))),
    ):
        assert read_results(run)["splits"]["train"]["kl"] > 0, name


def options(policy: Path, data: Path, reward: Path, directory: Path) -> dict[str, Any]:
    return {
        "output_dir": str(directory / "run"),
        "sft_model_path": str(policy),
        "dataset_name": str(data),
        "reward_model_path": str(reward),
        "grade_store": str(directory / "grades.sqlite3"),
        "allow_weak_grader": True,
        "disable_tqdm": True,
    }
