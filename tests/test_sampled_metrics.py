"""What PPO logs of its samples, computed again by hand: in plain Python over questions and labels, from the recorded
weights, samples and permutations, without `functional/`."""

import dataclasses
import math
from pathlib import Path
from statistics import fmean, variance
from typing import Any

import pytest
from plain_formulas import clip, entropy, log_softmax
from pytest import MonkeyPatch

import tiny
import trl_recording
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.methods import ppo

BETA = 0.3


@dataclasses.dataclass
class Weights:
    """Logits and values of all questions at one optimizer step."""

    logits: list[list[float]]
    value: list[float]


def recorded_weights(trainer: Any, models: Any) -> list[Weights]:
    """Grows by the weights before every optimizer step."""
    recorded: list[Weights] = []

    def keep(*_: Any) -> None:
        trunk = models.value.trunk.backbone.classifier
        value_N = models.value.score(trunk.hidden.weight).squeeze(1)
        recorded.append(Weights(models.policy.backbone.classifier.table.weight.tolist(), value_N.tolist()))

    trainer.optimizer.register_step_pre_hook(keep)
    return recorded


Table = list[list[float]]  # of questions and labels


def ppo_by_hand(
    settings: PPOConfig,
    steps: list[Weights],
    answers: list[tuple[int, int]],
    orders: Any,
    reference: Table,
    score: Table,
) -> dict[str, float]:
    """The metrics of one update."""
    assert settings.cliprange is not None
    beta, c, d = settings.beta, settings.cliprange, settings.cliprange_value
    logp = [log_softmax(steps[0].logits[q])[a] for q, a in answers]
    kl = [logp_q - log_softmax(reference[q])[a] for logp_q, (q, a) in zip(logp, answers, strict=True)]
    value = [steps[0].value[q] for q, _ in answers]
    reward = [score[q][a] - beta * kl_q for (q, a), kl_q in zip(answers, kl, strict=True)]
    surprise = [r - v for r, v in zip(reward, value, strict=True)]
    middle, spread = fmean(surprise), math.sqrt(variance(surprise) + 1e-8)
    advantage = [(x - middle) / spread for x in surprise]
    size = len(answers) // settings.num_mini_batches
    batches = [order[at : at + size] for order in orders for at in range(0, len(order), size)]
    seen: dict[str, list[float]] = {}
    for weights, batch in zip(steps, batches, strict=True):
        rows = []
        for i in batch:
            q, a = answers[i]
            new_logp = log_softmax(weights.logits[q])
            change, new = new_logp[a] - logp[i], weights.value[q]
            free, held = -advantage[i] * math.exp(change), -advantage[i] * clip(math.exp(change), 1 - c, 1 + c)
            loose = (new - reward[i]) ** 2
            tight = (clip(new, value[i] - d, value[i] + d) - reward[i]) ** 2
            rows.append(
                {
                    "policy/entropy_avg": entropy(new_logp),
                    "policy/approxkl_avg": 0.5 * change**2,
                    "policy/clipfrac_avg": float(held > free),
                    "loss/policy_avg": max(free, held),
                    "loss/value_avg": 0.5 * max(loose, tight),
                    "val/clipfrac_avg": float(tight > loose),
                    "val/ratio": math.exp(change),
                }
            )
        for name in rows[0]:
            seen.setdefault(name, []).append(fmean(row[name] for row in rows))
    return {name: fmean(values) for name, values in seen.items()} | {
        "val/ratio_var": variance(seen["val/ratio"]),
        "val/num_eos_tokens": 0,
        "objective/scores": fmean(score[q][a] for q, a in answers),
        "objective/kl": fmean(kl),
        "objective/non_score_reward": -beta * fmean(kl),
        "objective/rlhf_reward": fmean(reward),
        "objective/entropy": -fmean(logp),
    }


def test_ppo_metrics_equal_hand_computed_numbers(tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    """Two updates of 2 epochs x 3 minibatches, with clipping of both kinds, a reference that is not the policy."""
    batch: dict[str, Any] = {"repeats_per_epoch": 2, "num_mini_batches": 3, "num_ppo_epochs": 2}
    rates = {"learning_rate": 0.05, "value_learning_rate": 0.05, "cliprange": 0.03, "cliprange_value": 0.04}
    settings = tiny.config(total_episodes=2 * 24, **batch, **rates)
    logits_NK, reference_NK, score_NK = (tiny.scores(12, seed=seed).double() for seed in (1, 2, 3))
    logs = tiny.Logs()
    table = tiny.row_tokens(12)
    trainer, models = tiny.trainer(settings, tiny.Tabular(logits_NK), table, score_NK, tmp_path, [logs])
    models.reference.backbone.classifier.table.weight.data.copy_(reference_NK)
    recording, steps = trl_recording.record(models, monkeypatch), recorded_weights(trainer, models)
    ppo.run_trainer(trainer, settings)
    assert len(logs.rows) == 2 and len(steps) == 12
    for update, logged in enumerate(logs.rows):
        answers = list(zip(recording.rows[update].tolist(), recording.actions[update].tolist(), strict=True))
        orders = [order.tolist() for order in recording.permutations[2 * update : 2 * update + 2]]
        update_steps = steps[6 * update : 6 * update + 6]
        mine = ppo_by_hand(settings, update_steps, answers, orders, reference_NK.tolist(), score_NK.tolist())
        mine |= {"episode": 24 * (update + 1), "epoch": update + 1.0, "lr": 0.05 * (1 - update / 2)}
        assert set(mine) == set(logged) - {"eps"}
        for name, value in mine.items():  # TRL keeps its averages in float32
            assert value == pytest.approx(logged[name], rel=1e-5, abs=1e-6), name
        assert mine["policy/clipfrac_avg"] > 0 and mine["val/clipfrac_avg"] > 0
