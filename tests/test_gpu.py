"""On a CUDA card: every tensor is on the right device, bfloat16 trains, and a forward pass does not synchronise."""

from pathlib import Path
from typing import Any

import encoders
import pytest
import torch

from conftest import LABELS
from eightball_ppo.config.methods import DistillConfig, PPOConfig, RLOOConfig
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models.loading import load_classifier
from eightball_ppo.runtime.run import read_environment, read_results

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("use_peft", [False, True], ids=["all weights", "lora"])
def test_ppo_trains(use_peft: bool, dtype: Any, small_data: Path, reward_run: Path, tmp_path: Path) -> None:
    policy = encoders.save("bert", tmp_path / "policy", tuple(LABELS))
    run = run_method(PPOConfig(learning_rate=5e-4, value_learning_rate=5e-4, use_peft=use_peft, dtype=dtype,
                              total_episodes=480, **options(policy, small_data, reward_run, tmp_path)))  # fmt: skip
    assert read_environment(run)["cuda"] and read_results(run)["splits"]["train"]["kl"] > 0


def test_distillation_and_rloo_train(sft_run: Path, small_data: Path, reward_run: Path, tmp_path: Path) -> None:
    shared = options(sft_run, small_data, reward_run, tmp_path)
    for config in (DistillConfig(**shared, num_train_epochs=2), RLOOConfig(**shared, total_episodes=600)):
        config.output_dir = str(tmp_path / type(config).__name__)
        assert read_results(run_method(config))["splits"]["train"]["kl"] > 0


@pytest.mark.parametrize("kind", encoders.KINDS)
def test_forward_and_backward_do_not_synchronise(kind: str, tmp_path: Path) -> None:
    policy, tokenizer = load_classifier(str(encoders.save(kind, tmp_path / "policy", tuple(LABELS))), "gpu")
    batch = {name: ids.cuda() for name, ids in tokenizer(["Will I be rich?"] * 4, return_tensors="pt").items()}
    policy.cuda()(**batch)  # the first pass may wait
    torch.cuda.set_sync_debug_mode("error")
    try:
        policy(**batch).logits.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def options(policy: Path, data: Path, reward: Path, directory: Path) -> dict[str, Any]:
    paths = {
        "output_dir": directory / "run",
        "sft_model_path": policy,
        "dataset_name": data,
        "reward_model_path": reward,
    }
    return {**{name: str(path) for name, path in paths.items()}, "allow_weak_grader": True, "disable_tqdm": True}
