"""Wrappers between the scores and a trainer return the scores, and a checkpoint holds their state."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

import tiny
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.errors import TrainingDivergedError
from eightball_ppo.graders.budgeted_scores import BudgetedScores
from eightball_ppo.training.scores import compose_scores
from eightball_ppo.trl_adapters.build import build_models, build_policies

ROWS, LABELS, BUDGET = 6, ["Yes", "No", "Maybe"], 8
BATCHES = [
    (torch.tensor([0, 1, 1, 5]), torch.tensor([2, 0, 0, 1])),
    (torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 2])),
]


def settings(**options: Any) -> PPOConfig:
    return tiny.config(completions_steps=1, **options)


def composed(config: PPOConfig, train_scores: BudgetedScores, run_path: Path) -> tuple[Any, Any]:
    """(the wrapped scores, the reward model) of a PPO on six questions."""
    policy, reference = build_policies(tiny.classifier(), tiny.tokens(ROWS), config)
    run: Any = SimpleNamespace(path=run_path)
    questions = [f"Question {row}?" for row in range(ROWS)]
    scores = compose_scores(config, train_scores, policy, reference, lambda: (1.0, 0.5), questions, LABELS, 9, run)
    return scores, build_models(policy, reference, train_scores, scores, config).reward


@pytest.mark.parametrize("log_completions", [False, True])
def test_wrappers_return_the_scores_and_restore_their_state(log_completions: bool, tmp_path: Path) -> None:
    config = settings(log_completions=log_completions)
    bare = BudgetedScores(tiny.scores(ROWS), BUDGET)
    expected = [bare(*batch) for batch in BATCHES]
    first = BudgetedScores(tiny.scores(ROWS), BUDGET)
    scores, reward = composed(config, first, tmp_path)
    assert reward.lookup.scores is scores
    assert torch.equal(scores(*BATCHES[0]), expected[0]) and first.calls == 3
    state = scores.state_dict()
    assert len(state) == (3 if log_completions else 2) and all("score_NK" not in name for name in state)

    second = BudgetedScores(tiny.scores(ROWS), BUDGET)
    scores, _ = composed(config, second, tmp_path)
    scores.load_state_dict(state)
    assert torch.equal(scores(*BATCHES[1]), expected[1]) and torch.equal(second.observed_NK, bare.observed_NK)
    files = sorted(file.name for file in (tmp_path / "completions").glob("*")) if log_completions else []
    assert files == [f"completions_{step:05d}.parquet" for step in (1, 2) if log_completions]
    with pytest.raises(TrainingDivergedError, match="a number is not finite in update 2"):
        raise scores.fault("a number")


def test_a_score_that_is_not_finite_stops_training_and_the_answers_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two sequences, row 4 answered by No and row 0 by Yes."""

    def broken(self: BudgetedScores, rows_B: Tensor, actions_B: Tensor) -> Tensor:
        return torch.full(rows_B.shape, torch.inf)

    monkeypatch.setattr(BudgetedScores, "forward", broken)
    _, reward = composed(settings(), BudgetedScores(tiny.scores(ROWS)), tmp_path)
    rows_B, actions_B = torch.tensor([4, 0]), torch.tensor([1, 0])
    sequences_B2 = torch.stack([reward.lookup.ids.question_ids(rows_B), reward.lookup.ids.action_ids(actions_B)], dim=1)
    with pytest.raises(TrainingDivergedError, match="a score is not finite in update 1"):
        reward.lookup(sequences_B2)
    answers = json.loads((tmp_path / "not-finite-0.json").read_text())["answers"]
    assert [(row["question"], row["answer"]) for row in answers] == [("Question 4?", "No"), ("Question 0?", "Yes")]
