"""How often exact metrics are measured, how often questions repeat, and which questions an update samples."""

import pytest
import torch

import tiny
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.data import Questions
from eightball_ppo.evaluation import ExactMetrics, GradedSplit, evaluate
from eightball_ppo.labels import LabelSet
from eightball_ppo.trl_adapters.batch_sizes import repeats_per_epoch, updates_between_metrics
from eightball_ppo.trl_adapters.prompt_ids import PromptVocabulary
from eightball_ppo.trl_adapters.sampler import RolloutSampler


@pytest.mark.parametrize(
    ("batch", "questions", "measured", "every"),
    [
        (1200, 1200, 1200, 2),  # the default run: 1,200 + 3 x 4 x 8 x 150 = 15,600 passes, a twentieth is 780
        (64, 200, 200, 5),  # 64 + 3 x 4 x 64 = 832: 41.6 of 200
        (4096, 200, 200, 1),  # repeats are computed once: 200 + 3 x 4 x 8 x 200
        (256, 1_000_000, 8192, 50),  # 3,328: 166.4 of 8,192
    ],
)
def test_measuring_takes_a_twentieth_of_all_forwards(batch: int, questions: int, measured: int, every: int) -> None:
    config = tiny.config(num_mini_batches=8, num_ppo_epochs=4)
    assert updates_between_metrics(config, batch, questions, measured) == every


@pytest.mark.parametrize(
    ("questions", "options", "processes", "repeats"),
    [
        (1200, {}, 1, 2),  # 2,400 episodes, two batches
        (600, {}, 1, 2),
        (40, {"total_episodes": 100}, 1, 3),
        (10, {"per_device_train_batch_size": 16}, 2, 4),
        (600, {"repeats_per_epoch": 1}, 1, 1),
    ],
)
def test_few_questions_are_repeated_until_an_epoch_fills_a_batch(
    questions: int, options: dict[str, int], processes: int, repeats: int
) -> None:
    assert repeats_per_epoch(PPOConfig(**options), questions, processes) == repeats  # type: ignore[arg-type]


def test_exact_metrics_equal_the_evaluation_record() -> None:
    ref_NK, policy_NK, score_NK = (tiny.scores(30, seed=seed).double() for seed in (1, 2, 3))
    graded = GradedSplit(Questions("here", ["?"] * 30), score_NK, ref_NK.log_softmax(-1))
    record = evaluate(policy_NK.log_softmax(-1), graded, 0.3, LabelSet.of(["a", "b", "c"]))
    for name, value in ExactMetrics(graded, 0.3).metrics(policy_NK.float()).items():
        assert value == pytest.approx(record[name], abs=1e-6), name


def episodes(batch: int = 4, seed: int = 7, rank: int = 0, world_size: int = 1, next_update: int = 0) -> RolloutSampler:
    return RolloutSampler(PromptVocabulary(3), 10, 2, batch, seed, rank, world_size, next_update)


def test_an_epoch_shuffles_every_question_equally_often() -> None:
    sampler = episodes()
    first, second = (torch.cat([sampler.rows_B(update) for update in range(start, start + 5)]) for start in (0, 5))
    assert first.bincount().tolist() == second.bincount().tolist() == [2] * 10
    assert not torch.equal(first, second)
    assert not torch.equal(first, torch.cat([episodes(seed=8).rows_B(update) for update in range(5)]))


def test_a_resumed_sampler_continues_with_the_same_batches() -> None:
    straight = iter(episodes())
    batches = [next(straight)["input_ids"] for _ in range(12)]
    later = iter(episodes(next_update=7))
    torch.rand(1)  # torch's global generator is not used
    assert all(torch.equal(next(later)["input_ids"], batch) for batch in batches[7:])


def test_two_processes_split_the_batches_of_one() -> None:
    one, halves = episodes(batch=4), [episodes(batch=2, rank=rank, world_size=2) for rank in (0, 1)]
    for update in range(11):
        assert torch.equal(one.rows_B(update), torch.cat([half.rows_B(update) for half in halves]))
