"""What RLOO and GRPO log of their samples, computed again by hand: in plain Python over questions and labels, from the
recorded weights and samples, without `functional/`."""

import math
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import group_jobs
import pytest
from group_jobs import Job
from plain_formulas import clip, entropy, log_softmax
from pytest import MonkeyPatch
from torch import Tensor

import tiny
from eightball_ppo.config.methods import GRPOConfig, RLOOConfig
from eightball_ppo.methods import groups

Table = list[list[float]]  # of questions and labels
Answers = list[tuple[int, int]]  # question and label of every sample
ANSWERS, UPDATES, STEPS = 48, 2, 3


def advantages(reward: list[float], answers: Answers, method: str) -> tuple[list[float], float]:
    """(advantage of every answer, share of groups whose rewards are equal)."""
    members: dict[int, list[int]] = {}
    for i, (question, _) in enumerate(answers):
        members.setdefault(question, []).append(i)
    advantage, equal = [0.0] * len(answers), []
    for group in members.values():
        rewards = [reward[i] for i in group]
        assert len(rewards) == 4
        for i in group:
            others = [reward[j] for j in group if j != i]
            scaled = (reward[i] - fmean(rewards)) / (stdev(rewards) + 1e-4)
            advantage[i] = reward[i] - fmean(others) if method == "rloo" else scaled
        equal.append(float(stdev(rewards) < 1e-6))
    return advantage, fmean(equal)


def groups_by_hand(job: Job, steps: list[Table], answers: Answers, reference: Table, score: Table) -> dict[str, float]:
    """The metrics of one update in which every step reads all answers."""
    method, beta, epsilon = job.run.method, job.config.beta, job.config.epsilon
    kl_in_reward = getattr(job.config, "kl_in_reward", True)  # RLOO's always is
    logp = [log_softmax(steps[0][q])[a] for q, a in answers]
    ref_logp = [log_softmax(reference[q])[a] for q, a in answers]
    kl = [new - ref for new, ref in zip(logp, ref_logp, strict=True)]
    reward = [score[q][a] - (beta * k if kl_in_reward else 0) for (q, a), k in zip(answers, kl, strict=True)]
    plain = [score[q][a] for q, a in answers]
    returned = plain if method == "rloo" else reward  # TRL subtracts RLOO's KL itself
    advantage, equal = advantages(reward, answers, method)
    seen: dict[str, list[float]] = {}
    for logits in steps:
        rows = []
        for i, (q, a) in enumerate(answers):
            new = log_softmax(logits[q])
            ratio, gap = math.exp(new[a] - logp[i]), ref_logp[i] - new[a]
            low, high = ratio < 1 - epsilon and advantage[i] < 0, ratio > 1 + epsilon and advantage[i] > 0
            k3 = ratio * (math.exp(gap) - gap - 1)
            clipped = min(ratio * advantage[i], clip(ratio, 1 - epsilon, 1 + epsilon) * advantage[i])
            row = {"loss": -clipped + (0 if kl_in_reward else beta * k3), "entropy": entropy(new), "k3": k3}
            rows.append(row | {"low_mean": float(low), "high_mean": float(high), "region_mean": float(low or high)})
        for name in rows[0]:
            seen.setdefault(name, []).append(fmean(row[name] for row in rows))
    mean = {name: fmean(values) for name, values in seen.items()}
    shares = {f"clip_ratio/{name}": mean.pop(name) for name in ("low_mean", "high_mean", "region_mean")}
    k3 = mean.pop("k3")
    penalty = {"kl": fmean(kl)} if method == "rloo" else {} if kl_in_reward else {"kl": k3}
    spread = {"reward_std": stdev(returned), "rewards/reward/std": stdev(returned), "frac_reward_zero_std": equal}
    return mean | shares | penalty | spread | {"reward": fmean(returned), "rewards/reward/mean": fmean(returned)}


@pytest.mark.parametrize(
    ("config_class", "options"),
    [(RLOOConfig, {}), (GRPOConfig, {"kl_in_reward": True}), (GRPOConfig, {"kl_in_reward": False})],
    ids=["rloo", "grpo", "grpo with KL in the loss"],
)
def test_group_metrics_equal_hand_computed_numbers(
    config_class: type, options: dict[str, Any], tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """Two updates of three steps on all answers, with clipping, equal groups and a reference that is not the policy."""
    rates = {"num_generations": 4, "num_iterations": STEPS, "learning_rate": 0.1, "epsilon": 0.02}
    settings = group_jobs.config(config_class, total_episodes=UPDATES * ANSWERS, **rates, **options)
    logits_NK, reference_NK, score_NK = (2 * tiny.scores(12, seed=seed) for seed in (1, 2, 3))
    job = Job(settings, tiny.Tabular(logits_NK), tiny.row_tokens(12), score_NK)
    job.reference.backbone.classifier.table.weight.data.copy_(reference_NK)
    answers: list[Answers] = []
    steps: list[Table] = []
    generate = job.policy.generate

    def recorded(input_ids: Tensor, **kwargs: Any) -> Tensor:
        ids = generate(input_ids, **kwargs)
        answers.append(list(zip(job.ids.rows(ids).tolist(), job.ids.actions(ids).tolist(), strict=True)))
        return ids

    monkeypatch.setattr(job.policy, "generate", recorded)
    trainer, weight = job.trainer(tmp_path), job.classifier.table.weight
    trainer.optimizer.register_step_pre_hook(lambda *_: steps.append(weight.tolist()))
    groups.run_trainer(trainer, settings.seed)
    rows = [row for row in job.rows if "loss" in row]
    assert len(rows) == len(answers) == UPDATES and len(steps) == UPDATES * STEPS
    for update, logged in enumerate(rows):
        of_update = steps[STEPS * update : STEPS * (update + 1)]
        mine = groups_by_hand(job, of_update, answers[update], reference_NK.tolist(), score_NK.tolist())
        for name, value in (mine | {"episode": ANSWERS * (update + 1)}).items():
            assert value == pytest.approx(logged[name], rel=1e-4, abs=2e-6), name
        assert ("kl" in logged) == ("kl" in mine)
        assert 0 < mine["frac_reward_zero_std"] < 1 and mine["clip_ratio/region_mean"] > 0
