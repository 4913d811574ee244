"""What PPO, RLOO and GRPO log of their samples, computed again by hand: in plain Python over questions and labels, from
the weights, the sampled answers and the shuffles that were caught, without `objective.py` and `ppo_losses.py`."""

import dataclasses
import math
from pathlib import Path
from statistics import fmean, stdev, variance
from typing import Any

import pytest
import torch
from plain_formulas import clip, entropy, log_softmax
from test_groups import Job

import tiny
import trl_recording
from eightball_ppo.config.methods import GRPOConfig, PPOConfig, RLOOConfig
from eightball_ppo.methods import ppo
from eightball_ppo.methods.groups import run_trainer

BETA = 0.3


# --- PPO


@dataclasses.dataclass
class Weights:
    """Logits and values of all questions at one optimizer step."""

    logits: list[list[float]]
    value: list[float]


def caught_weights(trainer: Any, models: Any) -> list[Weights]:
    """A list that grows by what every minibatch was read with."""
    caught: list[Weights] = []

    def keep(*_: Any) -> None:
        trunk = models.value.trunk.by_row.classifier
        value_N = models.value.score(trunk.hidden.weight).squeeze(1)
        caught.append(Weights(models.policy.by_row.classifier.table.weight.tolist(), value_N.tolist()))

    trainer.optimizer.register_step_pre_hook(keep)
    return caught


def ppo_by_hand(
    settings: PPOConfig,
    steps: list[Weights],
    answers: list[tuple[int, int]],
    orders: list[list[int]],
    reference: list[list[float]],
    score: list[list[float]],
) -> dict[str, float]:
    """The metrics of one update."""
    beta, c, d = settings.kl_coef, settings.cliprange, settings.cliprange_value
    logp = [log_softmax(steps[0].logits[q])[a] for q, a in answers]
    kl = [own - log_softmax(reference[q])[a] for own, (q, a) in zip(logp, answers, strict=True)]
    value = [steps[0].value[q] for q, _ in answers]
    reward = [score[q][a] - beta * own for (q, a), own in zip(answers, kl, strict=True)]
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
            own = log_softmax(weights.logits[q])
            change, new = own[a] - logp[i], weights.value[q]
            free, held = -advantage[i] * math.exp(change), -advantage[i] * clip(math.exp(change), 1 - c, 1 + c)
            loose = (new - reward[i]) ** 2
            tight = (clip(new, value[i] - d, value[i] + d) - reward[i]) ** 2
            rows.append(
                {
                    "policy/entropy_avg": entropy(own),
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


def test_every_metric_of_ppo_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two updates of 2 epochs x 3 minibatches, with clipping of both kinds, a reference that is not the policy."""
    settings = tiny.config(
        num_generations=2,
        num_mini_batches=3,
        num_ppo_epochs=2,
        total_episodes=2 * 24,
        learning_rate=0.05,
        value_learning_rate=0.05,
        cliprange=0.03,
        cliprange_value=0.04,
    )
    logits_NK, reference_NK, score_NK = (tiny.scores(12, seed=seed).double() for seed in (1, 2, 3))
    logs = tiny.Logs()
    table = tiny.row_tokens(12)
    trainer, models = tiny.trainer(settings, tiny.Tabular(logits_NK), table, score_NK, tmp_path, [logs])
    models.reference.by_row.classifier.table.weight.data.copy_(reference_NK)
    recording, steps = trl_recording.record(models, monkeypatch), caught_weights(trainer, models)
    ppo.run_trainer(trainer, settings)
    assert len(logs.rows) == 2 and len(steps) == 12
    for update, logged in enumerate(logs.rows):
        answers = list(zip(recording.rows[update].tolist(), recording.actions[update].tolist(), strict=True))
        orders = [order.tolist() for order in recording.permutations[2 * update : 2 * update + 2]]
        mine = ppo_by_hand(
            settings, steps[6 * update : 6 * update + 6], answers, orders, reference_NK.tolist(), score_NK.tolist()
        )
        mine |= {"episode": 24 * (update + 1), "epoch": update + 1.0, "lr": 0.05 * (1 - update / 2)}
        assert set(mine) == set(logged) - {"eps"}
        for name, value in mine.items():  # TRL keeps its averages in float32
            assert value == pytest.approx(logged[name], rel=1e-5, abs=1e-6), name
        assert mine["policy/clipfrac_avg"] > 0 and mine["val/clipfrac_avg"] > 0


# --- RLOO and GRPO


def groups_by_hand(
    job: Job, steps: list[list[list[float]]], answers: list[tuple[int, int]], reference: list[list[float]]
) -> dict[str, float]:
    """The metrics of one update in which every step reads all answers."""
    config, beta, epsilon = job.config, job.config.kl_coef, job.config.epsilon
    score = job.task.train_scores.score_NK.tolist()
    logp = [log_softmax(steps[0][q])[a] for q, a in answers]
    ref_logp = [log_softmax(reference[q])[a] for q, a in answers]
    kl = [own - ref for own, ref in zip(logp, ref_logp, strict=True)]
    plain = [score[q][a] for q, a in answers]
    priced = [s - beta * k for s, k in zip(plain, kl, strict=True)]
    returned = priced if job.kl_in_reward else plain  # by our function
    reward = priced if job.kl_in_reward or job.method == "rloo" else plain
    members: dict[int, list[int]] = {}
    for i, (q, _) in enumerate(answers):
        members.setdefault(q, []).append(i)
    advantage, still = [0.0] * len(answers), []
    for group in members.values():
        assert len(group) == config.num_generations
        for i in group:
            others = [reward[j] for j in group if j != i]
            if job.method == "rloo":
                advantage[i] = reward[i] - fmean(others)
            else:
                own = [reward[j] for j in group]
                advantage[i] = (reward[i] - fmean(own)) / (stdev(own) + 1e-4)
        still.append(float(stdev([reward[j] for j in group]) < 1e-6))
    seen: dict[str, list[float]] = {}
    for logits in steps:
        rows = []
        for i, (q, a) in enumerate(answers):
            own = log_softmax(logits[q])
            ratio, gap = math.exp(own[a] - logp[i]), ref_logp[i] - own[a]
            low, high = ratio < 1 - epsilon and advantage[i] < 0, ratio > 1 + epsilon and advantage[i] > 0
            k3 = ratio * (math.exp(gap) - gap - 1)
            pays = 0.0 if job.kl_in_reward or job.method == "rloo" else beta
            held = clip(ratio, 1 - epsilon, 1 + epsilon)
            rows.append(
                {
                    "loss": -min(ratio * advantage[i], held * advantage[i]) + pays * k3,
                    "entropy": entropy(own),
                    "k3": k3,
                    "clip_ratio/low_mean": float(low),
                    "clip_ratio/high_mean": float(high),
                    "clip_ratio/region_mean": float(low or high),
                }
            )
        for name in rows[0]:
            seen.setdefault(name, []).append(fmean(row[name] for row in rows))
        for name, pick, single in (("low_min", min, "low_mean"), ("high_max", max, "high_mean")):
            seen.setdefault(f"clip_ratio/{name}", []).append(pick(row[f"clip_ratio/{single}"] for row in rows))
    mine = {name: fmean(values) for name, values in seen.items()} | {
        "rewards/reward/mean": fmean(returned),
        "rewards/reward/std": stdev(returned),
        "reward": fmean(returned),  # of RLOO, too, which learns from another
        "reward_std": stdev(returned),
        "frac_reward_zero_std": fmean(still),
    }
    k3 = mine.pop("k3")
    if job.method == "rloo":
        mine["kl"] = fmean(kl)
    elif not job.kl_in_reward:
        mine["kl"] = k3
    return mine


@pytest.mark.parametrize(
    ("config_class", "options"),
    [(RLOOConfig, {}), (GRPOConfig, {}), (GRPOConfig, {"kl_in_reward": False})],
    ids=["rloo", "grpo", "grpo, KL in the loss"],
)
def test_the_metrics_of_rloo_and_grpo_by_hand(
    config_class: type, options: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two updates of three steps on all answers; temperature 1, the price as asked for."""
    settings = config_class(
        num_generations=4,
        steps_per_generation=1,
        num_iterations=3,
        total_episodes=2 * 48,
        kl_coef=0.5,
        anneal_fraction=0.0,
        learning_rate=0.1,
        epsilon=0.02,
        disable_tqdm=True,
        **options,
    )
    logits_NK, reference_NK, score_NK = (2 * tiny.scores(12, seed=seed) for seed in (1, 2, 3))
    job = Job(settings, tiny.Tabular(logits_NK), tiny.row_tokens(12), score_NK)
    job.reference.by_row.classifier.table.weight.data.copy_(reference_NK)
    answers: list[list[tuple[int, int]]] = []
    generate = job.policy.generate

    def caught(input_ids: torch.Tensor, **how: Any) -> torch.Tensor:
        ids = generate(input_ids, **how)
        answers.append(list(zip(job.ids.rows(ids).tolist(), job.ids.actions(ids).tolist(), strict=True)))
        return ids

    monkeypatch.setattr(job.policy, "generate", caught)
    trainer, steps = job.trainer(tmp_path), []
    weight = job.classifier.table.weight
    trainer.optimizer.register_step_pre_hook(lambda *_: steps.append(weight.tolist()))
    run_trainer(trainer, settings.seed)
    rows = [row for row in job.rows if "train_runtime" not in row]
    assert len(rows) == len(answers) == 2 and len(steps) == 6
    for update, logged in enumerate(rows):
        mine = groups_by_hand(job, steps[3 * update : 3 * update + 3], answers[update], reference_NK.tolist())
        fixed = {"completions/clipped_ratio": 1, "num_tokens": 96 * (update + 1), "episode": 48 * (update + 1)}
        for name, value in (mine | fixed).items():
            assert value == pytest.approx(logged[name], rel=1e-4, abs=2e-6), name
        assert ("kl" in logged) == ("kl" in mine)
        assert 0 < mine["frac_reward_zero_std"] < 1 and mine["clip_ratio/region_mean"] > 0
