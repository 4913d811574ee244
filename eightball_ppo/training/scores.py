"""The last wrapper between the scores and a trainer that samples answers: it records what is sampled and scored.

A grade becomes a reward on this path: grader -> `GradeStore` -> `ScoreTable` (with label noise, a source like any
other) -> `BudgetedScores` -> `RolloutRecorder` -> the trainer's reward model or reward function.
"""

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from eightball_ppo.config.graded import RolloutConfig
from eightball_ppo.data import pairs
from eightball_ppo.errors import TrainingDivergedError
from eightball_ppo.report.tables import print_completions
from eightball_ppo.runtime.atomic_io import write_json
from eightball_ppo.runtime.distributed import is_main_process, rank
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.state import StateDict
from eightball_ppo.trl_adapters.policy import PolicyAdapter, Scores

NUM_COMPLETIONS_TO_PRINT = 8  # evenly spread over the update
NAN_HINT = "lower --learning_rate; PPO also takes --max_grad_norm 1"


class RolloutRecorder(nn.Module):
    """Returns what `scores` returns, keeps the last batch for `fault`, and logs completions if `log_completions`.

    A trainer asks for the scores of all answers of an update at once, before it changes the weights that sampled them;
    so the log holds the answers and scores that training itself uses. Nothing more is sampled, and no grader is called.

    Args:
        config: The options that say whether, and how often, completions are logged.
        scores: Gives the scores of sampled answers; counts them against the budget.
        policy, reference: Read for log-probabilities, never changed.
        kl_coef: Returns the KL coefficient of the reward in the present update.
        questions: Texts of the rows.
        labels: Names of the actions.
        updates: Number of updates; the first and the last are always logged.
        run: Its directory gets the files.
        unit: What the scores were divided by; the log has them in the grader's unit.
    """

    def __init__(
        self,
        config: RolloutConfig,
        scores: Scores,
        policy: PolicyAdapter,
        reference: PolicyAdapter,
        kl_coef: Callable[[], float],
        questions: Sequence[str],
        labels: Sequence[str],
        updates: int,
        run: Run,
        unit: float = 1.0,
    ):
        super().__init__()
        self.config, self.scores, self.kl_coef, self.unit = config, scores, kl_coef, unit
        self.questions, self.labels, self.updates, self.run = questions, labels, updates, run
        self._policies = (policy, reference)  # no submodules: the trainer moves and counts those of the reward model
        self._batch: tuple[Tensor, Tensor, Tensor] | None = None
        self.update = 0

    def get_extra_state(self) -> StateDict:
        """The number of the present update."""
        return {"update": self.update}

    def set_extra_state(self, state: StateDict) -> None:
        """Restores the number of the present update."""
        self.update = state["update"]

    def forward(self, rows_B: Tensor, actions_B: Tensor) -> Tensor:
        """Scores [B] of the answers `actions_B` to the questions `rows_B`.

        Raises:
            TrainingDivergedError: A score is not finite.
        """
        score_B = self.scores(rows_B, actions_B)
        self._batch = rows_B, actions_B, score_B
        self.update += 1
        due = self.update in (1, self.updates) or self.update % self.config.completions_steps == 0
        if self.config.log_completions and due and is_main_process():
            table = self.table(rows_B, actions_B, score_B)
            directory = self.run.path / "completions"
            directory.mkdir(parents=True, exist_ok=True)
            table.to_parquet(directory / f"completions_{self.update:05d}.parquet")
            print_completions(table, NUM_COMPLETIONS_TO_PRINT)
        if not torch.isfinite(score_B).all():
            raise self.fault("a score")
        return score_B

    def table(self, rows_B: Tensor, actions_B: Tensor, score_B: Tensor) -> pd.DataFrame:
        """One row per answer: step, question (and text_pair), answer, probability, score, kl (a sample), reward."""
        logp_B, ref_logp_B = (policy.logp_B(rows_B, actions_B).double().cpu() for policy in self._policies)
        kl_B, score_B = logp_B - ref_logp_B, score_B.detach().double().cpu() * self.unit
        return pd.DataFrame(
            {
                "step": self.update,
                **pairs.columns([self.questions[row] for row in rows_B.tolist()]),
                "answer": [self.labels[action] for action in actions_B.tolist()],
                "probability": logp_B.exp().tolist(),
                "score": score_B.tolist(),
                "kl": kl_B.tolist(),
                "reward": (score_B - self.kl_coef() * self.unit * kl_B).tolist(),
            }
        )

    def fault(self, what: str) -> TrainingDivergedError:
        """The error to raise where `what` is not finite; each rank has written its last batch by then."""
        file = self.run.path / f"not-finite-{rank()}.json"
        write_json(file, {"what": what, "update": self.update, "answers": self._answers()})
        return TrainingDivergedError(
            f"{what} is not finite in update {self.update}; its batch is in {file}; {NAN_HINT}"
        )

    @torch.no_grad()
    def _answers(self) -> list[dict[str, Any]]:
        if self._batch is None:
            return []
        rows_B, actions_B, score_B = self._batch
        policy = self._policies[0]
        device = next(policy.parameters()).device
        logits_BK = policy.backbone.logits_BK(policy.ids.question_ids(rows_B.to(device)).unsqueeze(1))
        names = ("row", "question", "answer", "score", "logits")
        answers = zip(rows_B.tolist(), actions_B.tolist(), score_B.tolist(), logits_BK.tolist(), strict=True)
        return [
            dict(zip(names, (row, self.questions[row], self.labels[action], *numbers), strict=True))
            for row, action, *numbers in answers
        ]
