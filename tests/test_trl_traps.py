"""What TRL 1.12's PPOTrainer does wrong, and that it does not happen here."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytest import CaptureFixture

import tiny
from eightball_ppo.errors import InputError, TrainingDivergedError
from eightball_ppo.methods import ppo
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.grad_norm import GradNormCallback
from eightball_ppo.trl_adapters import batch_sizes


def run(tmp_path: Path, **overrides: Any) -> tuple[Any, list[dict[str, float]]]:
    """(trainer, logged rows) of three updates."""
    logs, settings = tiny.Logs(), tiny.config(total_episodes=3 * 24, **overrides)
    trainer, _ = tiny.trainer(settings, tiny.classifier(), tiny.tokens(24), tiny.scores(24), tmp_path, [logs])
    ppo.run_trainer(trainer, settings)
    return trainer, logs.rows


def test_too_few_questions_for_a_batch_are_refused() -> None:
    settings = tiny.config(per_device_train_batch_size=64)
    with pytest.raises(InputError, match="63 questions x --repeats_per_epoch 1 on 1 process"):
        batch_sizes.batch_size(settings, 63, world_size=1)
    with pytest.raises(InputError, match="on 2 process"):
        batch_sizes.batch_size(settings, 96, world_size=2)
    assert batch_sizes.batch_size(settings, 128, world_size=2) == 64


def test_learning_rate_falls_to_zero_for_policy_and_value(tmp_path: Path) -> None:
    trainer, rows = run(tmp_path, learning_rate=0.01, value_learning_rate=0.002, lr_scheduler_type="linear")
    assert [row["lr"] for row in rows] == pytest.approx([0.01, 0.01 * 2 / 3, 0.01 / 3])
    assert trainer.lr_scheduler.get_last_lr() == pytest.approx([0, 0])
    assert [group["initial_lr"] for group in trainer.optimizer.param_groups] == [0.01, 0.002]


def test_max_grad_norm_clips(tmp_path: Path) -> None:
    settings = tiny.config(total_episodes=48, num_mini_batches=2)
    watch, norms = GradNormCallback(1e-3, TrainingDivergedError), []
    trainer, _ = tiny.trainer(settings, tiny.classifier(), tiny.tokens(24), tiny.scores(24), tmp_path, [watch])
    optimizer = trainer.optimizer

    def norm(*_: Any) -> None:
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norms.append(torch.nn.utils.get_total_norm(gradients).item())

    optimizer.register_step_post_hook(norm)
    ppo.run_trainer(trainer, settings)
    assert len(norms) == 2 * 4 * 2 and max(norms) <= 1.001e-3
    before = watch.mean()
    assert before is not None and before > 1.001e-3


def test_metrics_are_strict_json_and_trl_saves_and_prints_nothing(tmp_path: Path, capsys: CaptureFixture[str]) -> None:
    """One epoch of one minibatch has a ratio variance of NaN, which is no JSON."""
    _, rows = run(tmp_path / "trl", num_ppo_epochs=1)
    assert np.isnan(rows[0]["val/ratio_var"])
    assert capsys.readouterr().out == "" and not [p for p in (tmp_path / "trl").rglob("*") if p.is_file()]
    with Run(tiny.config(output_dir=str(tmp_path / "run")), "ppo") as writer:
        writer.log(rows[0])
        done = writer.finish({})
    assert json.loads((done / "metrics.jsonl").read_text(), parse_constant=pytest.fail)["val/ratio_var"] is None
