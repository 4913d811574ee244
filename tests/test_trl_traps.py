"""The traps of TRL 1.12's PPOTrainer that could reach us, each with the cure that keeps it away."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import tiny
from eightball_ppo.errors import InputError, TrainingDivergedError
from eightball_ppo.methods import ppo
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.grad_norm import GradNormCallback
from eightball_ppo.trl_adapters import batch_sizes
from eightball_ppo.trl_adapters.prompt_ids import PromptVocabulary


def run(tmp_path: Path, questions: int = 24, **overrides: Any) -> tuple[Any, Any, list[dict[str, float]]]:
    """(trainer, models, logged rows) of a short run."""
    logs = tiny.Logs()
    settings = tiny.config(**{"total_episodes": 3 * questions, **overrides})
    trainer, models = tiny.trainer(
        settings, tiny.classifier(), tiny.tokens(questions), tiny.scores(questions), tmp_path, [logs]
    )
    ppo.run_trainer(trainer, settings)
    return trainer, models, logs.rows


def test_the_private_names_we_rely_on_exist() -> None:
    """PPO is gone from trl 1.13: everything taken from 1.12 by name is here or this test says so."""
    import trl
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    assert trl.__version__ == "1.12.0"
    assert callable(ppo_trainer.selective_log_softmax) and callable(ppo_trainer.masked_whiten)
    assert PPOTrainer.train is ppo_trainer.PPOTrainer.train and PPOConfig.kl_coef == 0.05


def test_a1_too_few_questions_never_hang() -> None:
    settings = tiny.config(per_device_train_batch_size=64)
    with pytest.raises(InputError, match="63 questions x --repeats_per_epoch 1 on 1 process"):
        batch_sizes.batch_size(settings, 63, world_size=1)
    with pytest.raises(InputError, match="on 2 process"):
        batch_sizes.batch_size(settings, 96, world_size=2)
    assert batch_sizes.batch_size(settings, 128, world_size=2) == 64


def test_a1_the_default_batch_fits_any_number_of_questions() -> None:
    for questions in (8, 100, 601, 5000):
        settings = tiny.config(repeats_per_epoch=2, num_mini_batches=8)
        batch = batch_sizes.batch_size(settings, questions, world_size=1)
        assert batch % 8 == 0 and 8 <= batch <= min(1200, 2 * questions)


def test_a2_b8_eos_and_pad_are_numbers_and_no_action() -> None:
    ids = PromptVocabulary(3)
    assert isinstance(ids.eos_token_id, int) and ids.pad_token_id == 0
    assert not {ids.eos_token_id, ids.pad_token_id} & {1, 2, 3}


def test_b12_b14_the_callers_classifier_is_left_alone(tmp_path: Path) -> None:
    model = tiny.classifier()
    before = tiny.state(model)
    settings = tiny.config(total_episodes=48)
    trainer, models = tiny.trainer(settings, model, tiny.tokens(24), tiny.scores(24), tmp_path)
    ppo.run_trainer(trainer, settings)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert not models.policy.training and not models.reward.training and not models.value.training
    reference = models.reference.by_row.classifier.state_dict()
    assert all(torch.equal(value, before[name]) for name, value in reference.items())


def test_b18_the_learning_rate_falls_to_zero_for_policy_and_value(tmp_path: Path) -> None:
    trainer, _, rows = run(tmp_path, learning_rate=0.01, value_learning_rate=0.002, lr_scheduler_type="linear")
    assert [row["lr"] for row in rows] == pytest.approx([0.01, 0.01 * 2 / 3, 0.01 / 3])
    assert trainer.lr_scheduler.get_last_lr() == pytest.approx([0, 0])
    assert [group["initial_lr"] for group in trainer.optimizer.param_groups] == [0.01, 0.002]


def test_b23_c_the_result_depends_on_the_seed_and_not_on_the_callers_random_state(tmp_path: Path) -> None:
    """TRL draws minibatches from numpy's generator and never seeds it."""
    weights = []
    for callers in (1, 2):
        np.random.seed(callers)
        torch.manual_seed(callers)
        _, models, _ = run(tmp_path, num_mini_batches=3)
        weights.append(tiny.state(models.policy))
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_c_max_grad_norm_really_clips(tmp_path: Path) -> None:
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


def test_steps_per_update_are_epochs_times_minibatches(tmp_path: Path) -> None:
    settings = tiny.config(total_episodes=5 * 24, num_ppo_epochs=3, num_mini_batches=2)
    trainer, _ = tiny.trainer(settings, tiny.classifier(), tiny.tokens(24), tiny.scores(24), tmp_path)
    steps: list[int] = []
    trainer.optimizer.register_step_post_hook(lambda *_: steps.append(1))
    ppo.run_trainer(trainer, settings)
    assert len(steps) == 5 * 3 * 2


def test_e_nothing_of_trls_own_saving_happens(tmp_path: Path) -> None:
    """Its checkpoints miss the value model, break under DDP, and come with a model card for text generation."""
    run(tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").rglob("*") if path.is_file()] == []


def test_e9_metrics_are_strict_json(tmp_path: Path) -> None:
    """One epoch of one minibatch has a ratio variance of NaN, which is no JSON."""
    _, _, rows = run(tmp_path / "trl", num_ppo_epochs=1)
    assert np.isnan(rows[0]["val/ratio_var"])
    with Run(tiny.config(output_dir=str(tmp_path / "run")), "ppo") as writer:
        writer.log(rows[0])
        done = writer.finish({})
    assert json.loads((done / "metrics.jsonl").read_text(), parse_constant=pytest.fail)["val/ratio_var"] is None


def test_f_stdout_stays_clean(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(tmp_path)
    assert capsys.readouterr().out == ""


def test_f_sampled_metrics_agree_with_exact_ones(tmp_path: Path) -> None:
    """At learning rate 0 the sampled score and entropy of 20 updates lie within 4 standard errors of the exact sums."""
    settings = tiny.config(repeats_per_epoch=50, learning_rate=0.0, value_learning_rate=0.0, total_episodes=20 * 1200)
    logs, model, table, score_NK = tiny.Logs(), tiny.classifier(), tiny.tokens(24), tiny.scores(24)
    trainer, _ = tiny.trainer(settings, model, table, score_NK, tmp_path, [logs])
    ppo.run_trainer(trainer, settings)
    logp_NK = model(**table.rows(torch.arange(24))).logits.log_softmax(-1).detach()
    for key, value_NK in (("objective/scores", score_NK), ("objective/entropy", -logp_NK)):
        mean_N = (logp_NK.exp() * value_NK).sum(1)
        variance_N = (logp_NK.exp() * (value_NK - mean_N[:, None]) ** 2).sum(1)
        error = (variance_N.mean() / (20 * 1200)).sqrt().item()
        sampled = float(np.mean([row[key] for row in logs.rows]))
        assert abs(sampled - mean_N.mean().item()) < 4 * error, key
