"""RLOO and GRPO: sampling, batches, seeds, and how near TRL's trainers come to the optimum."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from group_jobs import Job, config
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

import tiny
from eightball_ppo.config.methods import GRPOConfig, RLOOConfig
from eightball_ppo.errors import InputError
from eightball_ppo.functional import objective
from eightball_ppo.methods import groups
from eightball_ppo.models.loading import predict_logits_NK
from eightball_ppo.trl_adapters.group import GroupPolicyAdapter
from eightball_ppo.trl_adapters.prompt_ids import PromptEncoder, PromptVocabulary

BOTH = pytest.mark.parametrize("config_class", [RLOOConfig, GRPOConfig])


@BOTH
def test_a_seed_gives_the_same_bits_and_only_the_policy_changes(config_class: type, tmp_path: Path) -> None:
    model = tiny.classifier()
    before = tiny.state(model)

    def weights(seed: int) -> dict[str, Tensor]:
        job = Job(config(config_class, seed=seed, total_episodes=160), model, tiny.tokens(8), tiny.scores(8))
        job.train(tmp_path)
        for unchanged in (job.reference.backbone.classifier, model):
            assert all(torch.equal(weight, before[name]) for name, weight in unchanged.state_dict().items())
        return tiny.state(job.classifier)

    first, second, other = weights(0), weights(0), weights(1)
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert not all(torch.equal(first[name], before[name]) for name in first)


@pytest.mark.slow
def test_every_seed_and_every_process_samples_differently() -> None:
    def draw(seed: int, process: int) -> tuple[float, float]:
        drawn: list[tuple[float, float]] = []
        trainer = SimpleNamespace(
            accelerator=SimpleNamespace(process_index=process),
            train_or_resume=lambda: drawn.append((torch.rand(1).item(), np.random.rand())),
        )
        groups.run_trainer(trainer, seed)
        return drawn[0]

    assert draw(0, 0) == draw(0, 0)
    of_torch, of_numpy = zip(*[draw(seed, process) for seed in (0, 1) for process in (0, 1)], strict=True)
    assert len(set(of_torch)) == 4 == len(set(of_numpy))


class TabularWithDropout(tiny.Tabular):
    """With a dropout that TRL's `disable_dropout_in_model` does not know."""

    def forward(self, input_ids: Tensor, output_hidden_states: bool = False, return_dict: bool = True, **_: Any) -> Any:
        output = super().forward(input_ids, output_hidden_states)
        output.logits = nn.functional.dropout(output.logits, 0.5, training=self.training)
        return output if return_dict else output.to_tuple()


@BOTH
def test_classifier_stays_in_eval_mode_and_trl_is_restored(config_class: type, tmp_path: Path) -> None:
    from trl.trainer import grpo_trainer, rloo_trainer

    originals = rloo_trainer.selective_log_softmax, grpo_trainer.selective_log_softmax
    job = Job(config(config_class), TabularWithDropout(torch.randn(8, 3)), tiny.row_tokens(8), tiny.scores(8))
    modes: set[tuple[bool, bool]] = set()
    job.classifier.register_forward_hook(lambda *_: modes.add((job.policy.training, job.classifier.training)))
    job.train(tmp_path)
    assert (True, False) in modes and not any(trains for _, trains in modes)
    assert all(not p.requires_grad for p in job.reference.parameters())
    assert (rloo_trainer.selective_log_softmax, grpo_trainer.selective_log_softmax) == originals


def test_answers_are_sampled_and_weighted_at_the_temperature() -> None:
    """20,000 samples: each label's share within 4 standard errors; the pad column is never sampled."""
    ids, model, table = PromptVocabulary(3), tiny.classifier(), tiny.tokens(4)
    policy = GroupPolicyAdapter(model, PromptEncoder(table, ids))
    question_B1 = ids.question_ids(torch.full((20_000, 1), 2))
    logits_K = predict_logits_NK(model, table)[2]
    for temperature in (1.0, 3.0, 100.0):
        policy.temperature = temperature
        torch.manual_seed(0)
        sequences = policy.generate(question_B1, attention_mask=None)
        assert sequences.shape == (20_000, 2) and torch.equal(sequences[:, :1], question_B1)
        p_K = (logits_K / temperature).softmax(-1)
        share_K = torch.bincount(ids.actions(sequences), minlength=3) / 20_000
        assert ((share_K - p_K).abs() < 4 * (p_K * (1 - p_K) / 20_000).sqrt()).all()
        logp_B = policy.logp_B(torch.tensor([2, 2, 2]), torch.arange(3))
        torch.testing.assert_close(logp_B, p_K.log())
        assert not logp_B.requires_grad


@pytest.mark.parametrize(
    ("config_class", "options", "max_regret"),
    [
        pytest.param(RLOOConfig, {}, 0.01, marks=pytest.mark.slow),
        pytest.param(GRPOConfig, {"scale_rewards": "none"}, 0.01, marks=pytest.mark.slow),
        pytest.param(GRPOConfig, {"scale_rewards": "none", "kl_in_reward": False}, 0.01, marks=pytest.mark.slow),
        pytest.param(GRPOConfig, {}, 0.05, marks=pytest.mark.slow),
    ],
    ids=["rloo", "grpo", "grpo with KL in the loss", "grpo scaled by group"],
)
def test_table_nears_the_optimum(
    config_class: type,
    options: dict[str, Any],
    max_regret: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(groups, "INITIAL_TEMPERATURE", 2.0)
    score_NK = tiny.scores(32)
    options |= {"num_generations": 16, "steps_per_generation": 2, "num_iterations": 2, "total_episodes": 512 * 20}
    options |= {"learning_rate": 0.15, "anneal_fraction": 0.5, "epsilon": 0.2}
    job = Job(config(config_class, **options), tiny.Tabular(tiny.scores(32, seed=7)), tiny.row_tokens(32), score_NK)
    ref_logp_NK = job.logp_NK()
    job.train(tmp_path)
    fraction = objective.optimum_fraction(job.logp_NK(), ref_logp_NK, score_NK, 0.5)
    assert fraction is not None and 1 - fraction < max_regret


@given(st.integers(1, 400), st.integers(2, 9), st.integers(1, 6), st.integers(1, 3))
def test_default_batch_is_the_largest_that_fits(questions: int, group: int, parts: int, processes: int) -> None:
    settings = config(RLOOConfig, num_generations=group, steps_per_generation=parts)
    sizes = range(1, min(1200, questions * group) + 1)
    fitting = [batch for batch in sizes if batch % group == 0 and batch % (parts * processes) == 0]
    if fitting:
        assert groups.generation_batch_size(settings, questions, processes) == fitting[-1]
    else:
        with pytest.raises(InputError, match="too few for"):
            groups.generation_batch_size(settings, questions, processes)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"generation_batch_size": 25}, r"--generation_batch_size 25: must be a multiple of --num_generations 10 and"),
        ({"generation_batch_size": 30, "steps_per_generation": 4}, r"of --steps_per_generation 4 x 1 process"),
        ({"generation_batch_size": 90}, r"--generation_batch_size 90: .* fill at most 80"),
        ({"steps_per_generation": 81}, r"too few for --steps_per_generation 81"),
    ],
)
def test_impossible_batches_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        groups.generation_batch_size(config(RLOOConfig, **options), 8, 1)
