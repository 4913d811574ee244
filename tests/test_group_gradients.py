"""RLOO and GRPO: TRL's first gradient is the exact gradient of the objective, also while KL and temperature anneal."""

from pathlib import Path
from typing import Any

import group_jobs
import pytest
import torch
from group_jobs import Job
from pytest import MonkeyPatch
from torch import Tensor

import tiny
from eightball_ppo.config.methods import GroupBaselineConfig, GRPOConfig, RLOOConfig
from eightball_ppo.functional import objective
from eightball_ppo.methods import groups

PROPORTIONS = (0, 0, 0, 0, 0, 1, 1, 1, 2, 2)  # ten answers, distributed as the probabilities 0.5, 0.3, 0.2


def first_gradient(job: Job, tmp_path: Path, monkeypatch: MonkeyPatch) -> Tensor:
    """TRL's first gradient [N, K] of a table of logits if the answers to every question are `PROPORTIONS`."""
    gradients: list[Tensor] = []

    def in_proportion(input_ids: Tensor, **_: Any) -> Tensor:
        rows_B = job.ids.rows(input_ids)
        number_B = [rows_B[:i].tolist().count(row) for i, row in enumerate(rows_B.tolist())]
        action_B = torch.tensor([PROPORTIONS[number] for number in number_B])
        return torch.cat([input_ids, job.ids.action_ids(action_B)[:, None]], dim=1)

    monkeypatch.setattr(job.policy, "generate", in_proportion)
    trainer = job.trainer(tmp_path)
    weight = job.classifier.table.weight
    trainer.optimizer.register_step_pre_hook(lambda *_: gradients.append(weight.grad.clone()))
    groups.run_trainer(trainer, 0)
    return gradients[0]


def problem(config: GroupBaselineConfig, temperature: float = 1.0) -> tuple[Job, Tensor, Tensor, Tensor]:
    """(training, log-probabilities of policy and reference at the temperature, scores) of 8 questions [8, 3]."""
    logits_NK = temperature * torch.tensor([0.5, 0.3, 0.2]).log().expand(8, 3).clone()
    reference_NK, score_NK = tiny.scores(8, seed=1), tiny.scores(8, seed=2)
    job = Job(config, tiny.Tabular(logits_NK), tiny.row_tokens(8), score_NK)
    job.reference.backbone.classifier.table.weight.data.copy_(reference_NK)
    return job, (logits_NK / temperature).log_softmax(-1), (reference_NK / temperature).log_softmax(-1), score_NK


@pytest.mark.parametrize("temperature", [1.0, 4.0])
@pytest.mark.parametrize(
    ("config_class", "options", "factor"),
    [
        (RLOOConfig, {}, 10 / 9),  # RLOO's baseline is the mean of the nine other answers
        (GRPOConfig, {"scale_rewards": "none"}, 1.0),
        (GRPOConfig, {"scale_rewards": "none", "kl_in_reward": False}, 1.0),
    ],
    ids=["rloo", "grpo", "grpo with KL in the loss"],
)
def test_first_gradient_is_that_of_the_objective(
    config_class: type[GroupBaselineConfig],
    options: dict[str, Any],
    factor: float,
    temperature: float,
    tmp_path: Path,
    monkeypatch: MonkeyPatch,
) -> None:
    beta = 0.5
    if temperature > 1:  # the first of two updates: annealing starts at 50 times kl_coef
        monkeypatch.setattr(groups, "INITIAL_TEMPERATURE", temperature)
        options = {**options, "anneal_fraction": 1.0, "total_episodes": 160, "kl_coef": 0.1}
        beta = 5.0
    job, logp_NK, ref_logp_NK, score_NK = problem(group_jobs.config(config_class, **options), temperature)
    gradient_NK = first_gradient(job, tmp_path, monkeypatch)
    expected_NK = -objective.objective_gradient_NK(logp_NK, ref_logp_NK, score_NK, beta) / temperature
    assert expected_NK.abs().max() > 0.01
    torch.testing.assert_close(gradient_NK, factor * expected_NK, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("scale", ["group", "batch"])
def test_grpo_divides_by_the_configured_deviation(scale: str, tmp_path: Path, monkeypatch: MonkeyPatch) -> None:
    job, logp_NK, ref_logp_NK, score_NK = problem(group_jobs.config(GRPOConfig, scale_rewards=scale))
    gradient_NK = first_gradient(job, tmp_path, monkeypatch)
    reward_NG = (score_NK - 0.5 * (logp_NK - ref_logp_NK))[:, list(PROPORTIONS)]
    deviation = reward_NG.std(1, keepdim=True) if scale == "group" else reward_NG.std()
    exact_NK = objective.objective_gradient_NK(logp_NK, ref_logp_NK, score_NK, 0.5)
    torch.testing.assert_close(gradient_NK, -exact_NK / (deviation + 1e-4), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("anneal", [0.0, 0.05, 0.9, 1.0])
def test_annealing_ends_at_temperature_1_and_kl_coef(anneal: float) -> None:
    for updates in (1, 2, 3, 9, 10, 40):
        options = {"anneal_fraction": anneal, "total_episodes": 80 * updates}
        settings = group_jobs.config(RLOOConfig, **options)
        job = Job(settings, tiny.Tabular(torch.zeros(8, 3)), tiny.row_tokens(8), tiny.scores(8))
        assert job.updates == updates
        values = []
        for update in range(updates):
            job.anneal(update)
            assert job.policy.temperature == job.reference.temperature
            values.append((job.policy.temperature, job.beta))
            passed = update / (updates * anneal) if anneal and update < updates - 1 else 1.0
            assert job.policy.temperature == pytest.approx(max(1.0, 20 - 19 * passed))
            assert job.beta == pytest.approx(0.5 / min(1.0, max(passed, 0.02)))
        assert values == sorted(values, reverse=True) and values[-1] == (1.0, 0.5)
        assert values[0] == ((20.0, 25.0) if anneal and updates > 1 else (1.0, 0.5))


@pytest.mark.parametrize(
    ("config_class", "options"),
    [(RLOOConfig, {}), (GRPOConfig, {"kl_in_reward": True}), (GRPOConfig, {"kl_in_reward": False})],
)
def test_trl_reads_the_annealed_temperature_and_beta(
    config_class: type[GroupBaselineConfig], options: dict[str, Any], tmp_path: Path, monkeypatch: MonkeyPatch
) -> None:
    """At sampling and at every step; TRL's beta is 0 where KL is in the reward already."""
    monkeypatch.setattr(groups, "INITIAL_TEMPERATURE", 7.0)
    options |= {"anneal_fraction": 0.5, "total_episodes": 4 * 80}
    settings = group_jobs.config(config_class, steps_per_generation=2, num_iterations=3, **options)
    job = Job(settings, tiny.Tabular(torch.zeros(8, 3)), tiny.row_tokens(8), tiny.scores(8))
    trainer = job.trainer(tmp_path)
    sampled, steps = [], []
    generate = job.policy.generate

    def recorded(input_ids: Tensor, **kwargs: Any) -> Tensor:
        sampled.append((trainer.temperature, job.policy.temperature, trainer.beta))
        return generate(input_ids, **kwargs)

    monkeypatch.setattr(job.policy, "generate", recorded)
    trainer.optimizer.register_step_pre_hook(lambda *_: steps.append((trainer.temperature, job.policy.temperature)))
    groups.run_trainer(trainer, 0)
    betas = [0.0] * 4 if options.get("kl_in_reward") else [25.0, 1.0, 0.5, 0.5]
    temperatures = [7.0, 4.0, 1.0, 1.0]
    assert sampled == [(t, t, pytest.approx(beta)) for t, beta in zip(temperatures, betas, strict=True)]
    assert steps == [(t, t) for t in temperatures for _ in range(6)]
    assert job.beta == 0.5 and trainer.state.global_step == 24
    assert [row["episode"] for row in job.rows if "loss" in row] == [80, 160, 240, 320]
