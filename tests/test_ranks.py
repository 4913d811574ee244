"""Two processes on one machine, over gloo: equal weights, shared work, and waiting for each other."""

import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import encoders
import group_jobs
import pytest
import torch
from processes import exit_code, fork_ranks, killed_at_the_end, on_two_ranks, until
from processes import torchrun as torchrun
from processor_time import shared
from pytest import MonkeyPatch
from stopping import rows
from torch import Tensor

import tiny
from conftest import LABELS
from eightball_ppo.config.methods import DistillConfig, ExactConfig, PPOConfig, RLOOConfig
from eightball_ppo.config.stages import RewardConfig, SFTConfig
from eightball_ppo.errors import InputError, TrainingInterrupted
from eightball_ppo.functional.objective import optimum_fraction
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.methods import ppo, reward_model, sft
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.models.loading import load_classifier, predict_logits_NK
from eightball_ppo.models.saving import save_policy
from eightball_ppo.runtime import distributed, launch, signals
from eightball_ppo.runtime.run import read_results
from eightball_ppo.training import supervised
from eightball_ppo.training.checkpoint import CheckpointWriter
from eightball_ppo.trl_adapters import batch_sizes


@pytest.fixture(scope="module", autouse=True)
def _trl_is_imported() -> None:
    """Once, not in every rank."""
    with shared("imports of TRL"):
        import trl.experimental.ppo
        import trl.trainer.rloo_trainer  # noqa: F401


def train_ppo(base: Path | None, directory: Path) -> dict[str, Any]:
    """A short PPO; with `base`, of LoRA adapters on the classifier in it, which rank 0 saves to `base`/policy."""
    batch: dict[str, Any] = {"repeats_per_epoch": 2, "num_mini_batches": 2, "total_episodes": 2 * 48}
    settings = tiny.config(use_peft=base is not None, **batch)
    table = tiny.tokens(24)
    classifier, tokenizer = load_classifier(str(base), "--sft_model_path") if base else (tiny.classifier(), None)
    models = tiny.trl_models(classifier, table, tiny.scores(24), settings)
    sampled: list[int] = []
    generate = models.policy.generate

    def recorded(input_ids: Tensor, **kwargs: Any) -> Any:
        output = generate(input_ids, **kwargs)
        sampled.extend(models.ids.rows(output.sequences).tolist())
        return output

    models.policy.generate = recorded  # type: ignore[method-assign]
    trainer = ppo.build_trainer(settings, models, batch_sizes.batch_size(settings, 24, 2), directory, [])
    ppo.run_trainer(trainer, settings)
    launch.require_equal_ranks(trainer)
    if base and distributed.is_main_process():
        save_policy(models.policy.backbone.classifier, tokenizer, base / "policy")
    networks: dict[str, Any] = {"policy": models.policy, "value": models.value, "reference": models.reference}
    return {
        "processes": trainer.accelerator.num_processes,
        **{name: [p.double().sum().item() for p in network.parameters()] for name, network in networks.items()},
        "rows": sampled,
        "logits": predict_logits_NK(models.policy.backbone.classifier, table).tolist(),
    }


@pytest.mark.slow
@pytest.mark.parametrize("use_peft", [False, True], ids=["all weights", "lora"])
def test_ppo_on_two_ranks_ends_with_equal_weights_and_splits_the_questions(use_peft: bool, tmp_path: Path) -> None:
    tiny.classifier().save_pretrained(tmp_path)
    encoders.tokenizer("bert").save_pretrained(tmp_path)
    first, second = on_two_ranks(lambda _: train_ppo(tmp_path if use_peft else None, tmp_path), tmp_path)
    assert first["processes"] == second["processes"] == 2
    for network in ("policy", "value", "reference", "logits"):
        assert first[network] == second[network]
    before_NK = predict_logits_NK(tiny.classifier(), tiny.tokens(24))
    after_NK = torch.tensor(first["logits"])
    assert not torch.allclose(after_NK, before_NK, atol=1e-2)
    if use_peft:
        saved, _ = load_classifier(str(tmp_path / "policy"), "--sft_model_path")
        torch.testing.assert_close(predict_logits_NK(saved, tiny.tokens(24)), after_NK, atol=1e-5, rtol=0)
    else:
        assert first["policy"] != first["reference"]
    # every question is sampled twice an epoch, over both ranks together
    assert Counter(first["rows"] + second["rows"]) == dict.fromkeys(range(24), 2 * 2)


@pytest.mark.slow
def test_rloo_on_two_ranks_nears_the_optimum_with_a_group_on_both(tmp_path: Path) -> None:
    """Three questions, ten answers each: those of the second question are split between the ranks."""

    def train(rank: int) -> list[list[float]]:
        settings = group_jobs.config(RLOOConfig, total_episodes=30 * 20, learning_rate=0.15)
        job = group_jobs.Job(settings, tiny.Tabular(torch.zeros(3, 3)), tiny.row_tokens(3), tiny.scores(3))
        trainer = job.train(tmp_path)
        launch.require_equal_ranks(trainer)
        return job.logp_NK().tolist()

    first, second = on_two_ranks(train, tmp_path)
    assert first == second
    logp_NK = torch.tensor(first)
    fraction = optimum_fraction(logp_NK, torch.full_like(logp_NK, 1 / 3).log(), tiny.scores(3), 0.5)
    assert fraction is not None and fraction > 0.9


@pytest.mark.slow
def test_supervised_stages_end_with_equal_weights(small_data: Path, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """Each trains by DDP in more than one step, and compares its ranks: unequal weights are found afterwards."""
    require_equal, compared = supervised.require_equal_ranks, []

    def recorded(trainer: Any) -> None:
        require_equal(trainer)
        wrapped = isinstance(trainer.model_wrapped, torch.nn.parallel.DistributedDataParallel)
        weight = next(p for p in trainer.model.parameters() if p.requires_grad)
        torch.manual_seed(distributed.rank())
        weight.data.add_(1e-6 * torch.randn_like(weight))
        with pytest.raises(RuntimeError, match="different weights"):
            require_equal(trainer)
        compared.append((trainer.args.run_name, wrapped, trainer.state.global_step > 1))

    monkeypatch.setattr(supervised, "require_equal_ranks", recorded)
    encoder = str(encoders.save("bert", tmp_path / "encoder"))
    shared: dict[str, Any] = {"dataset_name": str(small_data), "num_train_epochs": 1, "disable_tqdm": True}
    graded: dict[str, Any] = {"grader": "rule:Yes", "sft_model_path": "sft", "learning_rate": 1e-3, **shared}

    def train(rank: int) -> list[Any]:
        launch.init_process_group(120)
        sft.train(SFTConfig(output_dir="sft", **shared))
        reward_model.train(RewardConfig(output_dir="reward", model_name_or_path=encoder, learning_rate=1e-4, **shared))
        run_method(DistillConfig(output_dir="distill", threshold=0.0, **graded))
        run_method(ExactConfig(output_dir="exact", **{**graded, "num_train_epochs": 2}))  # its batch is all questions
        return compared

    assert on_two_ranks(train, tmp_path)[0] == [[stage, True, True] for stage in ("sft", "reward", "distill", "exact")]


def test_unequal_weights_are_an_error(tmp_path: Path) -> None:
    def compare(rank: int) -> str:
        launch.init_process_group(60)
        model = torch.nn.Linear(2, 2)
        torch.nn.init.constant_(model.weight, 1.0), torch.nn.init.constant_(model.bias, 1.0)
        trainer = SimpleNamespace(model=model, accelerator=SimpleNamespace(distributed_type="MULTI_CPU"))
        launch.require_equal_ranks(trainer)
        model.weight.data[0, 0] += rank * 1e-6
        with pytest.raises(RuntimeError) as error:
            launch.require_equal_ranks(trainer)
        return str(error.value)

    for message in on_two_ranks(compare, tmp_path):
        assert "the processes ended with different weights (rank 0 " in message


# --- a rank that is stopped

PPO_BATCH: dict[str, Any] = {"num_mini_batches": 2, "per_device_train_batch_size": 24}
STAGES: dict[str, tuple[Callable[[Any], Path], type, dict[str, Any], int]] = {  # the last: SIGTERM in this update
    "ppo": (
        run_method,
        PPOConfig,
        {"total_episodes": 192, "num_mini_batches": 2, "per_device_train_batch_size": 24},
        2,
    ),
    "sft": (sft.train, SFTConfig, {"num_train_epochs": 2}, 13),  # of 20, in the second epoch
    "reward": (reward_model.train, RewardConfig, {"num_train_epochs": 3, "per_device_train_batch_size": 8}, 15),
    "distill": (run_method, DistillConfig, {"num_train_epochs": 2, "per_device_train_batch_size": 8}, 2),
}


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_two_ranks_resume_to_the_same_bits(stage: str, ruled: dict[str, Any], no_figures: None, tmp_path: Path) -> None:
    """One rank gets SIGTERM, and both stop."""
    train, config_class, options, after = STAGES[stage]
    shared = {"dataset_name": ruled["dataset_name"], "labels": LABELS, "disable_tqdm": True}
    if stage == "reward":
        encoder = str(encoders.save("bert", tmp_path / "bert"))
        options = {**options, "learning_rate": 1e-4, "model_name_or_path": encoder}
    config = config_class(**(shared if stage in ("sft", "reward") else ruled), **options)
    due, forward, answers = CheckpointWriter.due, BudgetedScores.forward, set[tuple[int, int]]()

    def recorded(self: BudgetedScores, rows_B: Tensor, actions_B: Tensor) -> Tensor:
        answers.update(zip(rows_B.tolist(), actions_B.tolist(), strict=True))
        return forward(self, rows_B, actions_B)

    def terminated(self: CheckpointWriter, update: int) -> bool:
        if update == after and distributed.rank() == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return due(self, update)

    def stop_and_resume(rank: int) -> dict[str, Any]:
        launch.init_process_group(120)
        BudgetedScores.forward = recorded  # type: ignore[method-assign]
        straight = train(replace(config, output_dir="straight"))
        with signals.install_handlers(), MonkeyPatch.context() as patch, pytest.raises(TrainingInterrupted) as stop:
            patch.setattr(CheckpointWriter, "due", terminated)
            train(replace(config, output_dir="run"))
        resumed = train(replace(config, output_dir="run", resume_from_checkpoint="true"))
        weights = [(path / "model.safetensors").read_bytes() for path in (straight, resumed)]
        assert weights[0] == weights[1] and rows(straight) == rows(resumed) and len(rows(straight)) > 3
        calls = read_results(straight).get("grader_calls")
        return {"signal": stop.value.signal_number, "calls": calls, "answers": sorted(answers)}

    first, second = on_two_ranks(stop_and_resume, tmp_path)
    assert first["signal"] == second["signal"] == 15
    if stage == "ppo":  # the answers of both ranks are counted
        together = {tuple(answer) for answer in first["answers"] + second["answers"]}
        assert first["calls"] == len(together) > len(first["answers"])


# --- ranks that wait


def wait_for_main(seconds: float, ddp_timeout: int) -> list[Any]:
    """What the main process hands to this one: a result after some seconds of work, and an error."""
    launch.init_process_group(60)

    def work() -> str:
        Path("working").touch()
        time.sleep(seconds)
        return "grades"

    def refuse() -> None:
        raise InputError("a weak grader")

    try:
        result = distributed.broadcast_from_main(work, ddp_timeout)
        distributed.broadcast_from_main(refuse, ddp_timeout)
    except InputError as error:
        return [result, str(error), error.relayed]
    except RuntimeError as error:
        return [str(launch.peer_failure(error))]
    return []


def test_long_work_of_the_main_process_outlasts_ddp_timeout(tmp_path: Path) -> None:
    assert on_two_ranks(lambda _: wait_for_main(2.5, 1), tmp_path) == [
        ["grades", "a weak grader", False],
        ["grades", "a weak grader", True],
    ]


@pytest.mark.parametrize("frozen", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_a_silent_rank_is_an_error_of_the_other(frozen: int, tmp_path: Path) -> None:
    """As when its machine vanishes: nobody closes the connection."""
    ranks = fork_ranks(lambda _: wait_for_main(4, 2), tmp_path)
    other = 1 - frozen
    with killed_at_the_end(ranks):
        until((tmp_path / "working").exists, 60, tmp_path / "rank-0.txt")
        os.kill(ranks[frozen], signal.SIGSTOP)
        assert exit_code(ranks[other]) == 0, (tmp_path / f"rank-{other}.txt").read_text()
    message = (tmp_path / f"rank-{other}.json").read_text()
    assert f"rank {other} of 2: another process of the launch died or was silent for --ddp_timeout" in message
