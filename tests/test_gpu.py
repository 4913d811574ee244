"""On a CUDA card: nothing meets a tensor of another device, and bfloat16 trains, and a pass waits for
nothing. Skipped where there is none; `-s` shows the speed and the memory of a MiniLM."""

from pathlib import Path
from typing import Any

import encoders
import pytest
import torch

from conftest import LABELS
from eightball_ppo.config.methods import DistillConfig, PPOConfig, RLOOConfig
from eightball_ppo.labels import LabelSet
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models.loading import load_classifier, load_new_classifier
from eightball_ppo.models.packaged import PACKAGED_MINILM
from eightball_ppo.runtime.run import read_environment, read_results

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA card")]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("use_peft", [False, True], ids=["all weights", "lora"])
def test_ppo(use_peft: bool, dtype: Any, small_data: Path, reward_run: Path, tmp_path: Path) -> None:
    policy = encoders.save("bert", tmp_path / "policy", tuple(LABELS))
    run = run_method(PPOConfig(learning_rate=5e-4, value_learning_rate=5e-4, use_peft=use_peft, dtype=dtype,
                              total_episodes=480, **options(policy, small_data, reward_run, tmp_path)))  # fmt: skip
    assert read_environment(run)["cuda"] and read_results(run)["splits"]["train"]["kl"] > 0


def test_distillation_and_groups(sft_run: Path, small_data: Path, reward_run: Path, tmp_path: Path) -> None:
    own = options(sft_run, small_data, reward_run, tmp_path)
    for name, run in (
        ("distill", run_method(DistillConfig(**{**own, "output_dir": str(tmp_path / "d")}, num_train_epochs=2))),
        ("rloo", run_method(RLOOConfig(**{**own, "output_dir": str(tmp_path / "r")}, total_episodes=600))),
    ):
        assert read_results(run)["splits"]["train"]["kl"] > 0, name


def test_minilm_under_lora(small_data: Path, reward_run: Path, tmp_path: Path) -> None:
    model, tokenizer, _ = load_new_classifier(PACKAGED_MINILM, "--model_name_or_path", LabelSet.of(LABELS))
    for part in (model, tokenizer):
        part.save_pretrained(tmp_path / "policy")
    torch.cuda.reset_peak_memory_stats()
    run = run_method(PPOConfig(use_peft=True, total_episodes=4800,
                              **options(tmp_path / "policy", small_data, reward_run, tmp_path)))  # fmt: skip
    results, peak = read_results(run), torch.cuda.max_memory_allocated() / 2**30
    print(f"MiniLM under LoRA: {results['episodes'] / results['seconds']:.0f} episodes/s, {peak:.2f} GiB at the peak")
    assert results["splits"]["train"]["kl"] > 0


@pytest.mark.parametrize("kind", encoders.KINDS)
def test_a_pass_waits_for_nothing(kind: str, tmp_path: Path) -> None:
    policy, tokenizer = load_classifier(
        str(encoders.save(kind, tmp_path / "policy", tuple(LABELS))), "--sft_model_path"
    )
    batch = {name: own.cuda() for name, own in tokenizer(["Will I be rich?"] * 4, return_tensors="pt").items()}
    policy.cuda()(**batch)  # whatever waits only once
    torch.cuda.set_sync_debug_mode("error")
    try:
        policy(**batch).logits.sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")


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
