"""TRL's PPO computes what the papers say: the exact gradient, and the weights of the plain loop in `examples/`."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pytest import MonkeyPatch
from torch import Tensor
from transformers.utils import ModelOutput

import ppo_loop
import tiny
import trl_recording
from eightball_ppo.functional import objective
from eightball_ppo.methods import ppo
from eightball_ppo.trl_adapters.speedups import vectorised_log_softmax

LAYERS = ("embedding", "attention", "hidden")


def test_first_gradient_is_the_exact_gradient_of_the_objective(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """Answers drawn in exact proportion to pi, value 0, reference != policy: TRL's first gradient is that of J."""
    questions, beta = 8, 0.5
    reference_NK = tiny.scores(questions, seed=1).double()
    policy_NK = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64).log().expand(questions, 3).clone()
    score_NK = tiny.scores(questions, seed=2).double()
    settings = tiny.config(kl_coef=beta, repeats_per_epoch=10, num_ppo_epochs=1, total_episodes=10 * questions)
    trainer, models = tiny.trainer(settings, tiny.Tabular(policy_NK), tiny.row_tokens(questions), score_NK, tmp_path)
    models.reference.backbone.classifier.table.weight.data.copy_(reference_NK)
    seen: dict[str, Any] = {}

    def in_proportion(input_ids: Tensor, **_: Any) -> ModelOutput:
        rows_B = models.ids.rows(input_ids)
        number_B = [rows_B[:i].tolist().count(row) for i, row in enumerate(rows_B.tolist())]
        action_B = torch.tensor([(0, 0, 0, 0, 0, 1, 1, 1, 2, 2)[number] for number in number_B])
        seen["row_B"], seen["action_B"] = rows_B, action_B
        sequences = torch.cat([input_ids, models.ids.action_ids(action_B)[:, None]], dim=1)
        return ModelOutput(sequences=sequences, scores=(models.policy(sequences).logits[:, 0],))

    monkeypatch.setattr(models.policy, "generate", in_proportion)
    weight = models.policy.backbone.classifier.table.weight
    trainer.optimizer.register_step_pre_hook(lambda *_: seen.update(gradient_NK=weight.grad.clone()))
    ppo.run_trainer(trainer, settings)

    logp_NK, ref_logp_NK = policy_NK.log_softmax(-1), reference_NK.log_softmax(-1)
    advantage_NK = score_NK - beta * (logp_NK - ref_logp_NK)
    sigma = (advantage_NK[seen["row_B"], seen["action_B"]].var() + 1e-8).sqrt()
    expected_NK = -objective.objective_gradient_NK(logp_NK, ref_logp_NK, score_NK, beta)
    assert expected_NK.abs().max() > 0.01
    torch.testing.assert_close(seen["gradient_NK"] * sigma, expected_NK, atol=1e-6, rtol=0)


def test_twenty_updates_equal_those_of_the_plain_loop(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """TRL's loop and the example's from the same weights in float64, on the same samples: the same weights."""
    batch: dict[str, Any] = {"repeats_per_epoch": 2, "num_mini_batches": 4, "num_ppo_epochs": 2}
    settings = tiny.config(total_episodes=20 * 48, value_learning_rate=0.004, **batch)
    table, score_NK = tiny.tokens(24), tiny.scores(24).double()
    trainer, models = tiny.trainer(settings, tiny.classifier(), table, score_NK, tmp_path)
    policy = ppo_loop.Network(copy.deepcopy(models.policy.backbone.classifier), table)
    value = ppo_loop.Network(ppo_loop.value_network(tiny.classifier()).double(), table)
    with torch.no_grad():
        ref_logits_NK = ppo_loop.Network(models.reference.backbone.classifier, table)(torch.arange(24))
    recording = trl_recording.record(models, monkeypatch)
    ppo.run_trainer(trainer, settings)
    replayed = recording.rows, recording.actions, recording.permutations
    assert len(list(ppo_loop.ppo(policy, value, ref_logits_NK, score_NK, settings, *replayed))) == 20
    trunk: Any = models.value.trunk
    pairs = [(policy.classifier, models.policy.backbone.classifier), (value.classifier.classifier, models.value.score)]
    pairs += [(getattr(value.classifier, name), getattr(trunk.backbone.classifier, name)) for name in LAYERS]
    for ours, trls in pairs:
        for name, weight in ours.state_dict().items():
            torch.testing.assert_close(weight, trls.state_dict()[name], atol=1e-8, rtol=0, msg=name)
    for trained, start in ((policy, tiny.classifier()), (value, ppo_loop.value_network(tiny.classifier()))):
        change = trained.classifier.classifier.weight - start.double().classifier.weight
        assert change.abs().max() > 0.05


def test_learning_rate_zero_changes_no_bit(tmp_path: Path) -> None:
    logs = tiny.Logs()
    settings = tiny.config(learning_rate=0.0, value_learning_rate=0.0, num_mini_batches=2, total_episodes=3 * 24)
    trainer, models = tiny.trainer(settings, tiny.classifier(), tiny.tokens(24), tiny.scores(24), tmp_path, [logs])
    before = tiny.state(models.policy)
    ppo.run_trainer(trainer, settings)
    for row in logs.rows:
        assert (row["val/ratio"], row["policy/approxkl_avg"], row["objective/kl"]) == (1, 0, 0)
    for name, weight in models.policy.state_dict().items():
        assert torch.equal(weight, before[name])


@pytest.mark.slow
def test_a_seed_gives_the_same_bits_whatever_the_callers_generators(tmp_path: Path) -> None:
    """TRL draws minibatches from numpy's generator and never seeds it."""

    def weights(seed: int, callers: int) -> dict[str, Tensor]:
        np.random.seed(callers)
        torch.manual_seed(callers)
        settings = tiny.config(seed=seed, repeats_per_epoch=2, num_mini_batches=2, total_episodes=5 * 48)
        trainer, models = tiny.trainer(settings, tiny.classifier(), tiny.tokens(24), tiny.scores(24), tmp_path)
        ppo.run_trainer(trainer, settings)
        return tiny.state(models.policy)

    first, second, other = weights(0, 1), weights(0, 2), weights(1, 1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def test_vectorised_log_softmax_equals_trls_bit_for_bit(monkeypatch: MonkeyPatch) -> None:
    from trl.experimental.ppo import ppo_trainer

    original = ppo_trainer.selective_log_softmax
    logits = torch.randn(300, 1, 4, generator=torch.Generator().manual_seed(0))
    logits[..., 0] = -1e4
    index = torch.randint(1, 4, (300, 1), generator=torch.Generator().manual_seed(1))
    with vectorised_log_softmax(object.__new__(ppo_trainer.PPOTrainer)):
        assert ppo_trainer.selective_log_softmax is not original
        ours = ppo_trainer.selective_log_softmax(logits, index)
    assert ppo_trainer.selective_log_softmax is original
    assert torch.equal(ours, original(logits, index))
