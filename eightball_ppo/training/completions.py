"""Logs sampled answers: every few updates those of one update, as a file and as a printed table."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import Tensor, nn

from eightball_ppo.config.graded import RolloutConfig
from eightball_ppo.data import pairs
from eightball_ppo.report.tables import print_completions
from eightball_ppo.runtime.distributed import is_main_process
from eightball_ppo.trl_adapters.policy import PolicyAdapter, Scores

DIRECTORY = "completions"
NUM_COMPLETIONS_TO_PRINT = 8  # evenly spread over the update


@torch.no_grad()
def action_logp_B(policy: PolicyAdapter, rows_B: Tensor, actions_B: Tensor, temperature: float) -> Tensor:
    """Log-probabilities of answers as the policy samples them now, in nats. Draws nothing."""
    ids = policy.by_row.reader.ids
    device = next(policy.parameters()).device
    logits_BK1 = policy(ids.question_ids(rows_B.to(device)).unsqueeze(1)).logits[:, 0]
    logp_BK1 = (logits_BK1 / temperature).log_softmax(-1)
    return logp_BK1.gather(1, ids.action_ids(actions_B.to(device)).unsqueeze(1)).squeeze(1)


class CompletionLogger(nn.Module):
    """Returns what `scores` returns, and logs the sampled answers of some updates with it.

    A trainer asks for the scores of all answers of an update at once, before it changes the weights that sampled them;
    so the log holds the answers and scores that training itself uses. Nothing more is sampled, and no grader is asked.

    Args:
        scores: the scores of sampled answers.
        policy, reference: read for log-probabilities, never changed.
        temperature_and_beta: returns the temperature of the answers and the KL coefficient of the reward in the update
            at hand.
        updates: how many there will be; the first and the last are always logged.
        directory: that of the run.
    """

    def __init__(
        self,
        config: RolloutConfig,
        scores: Scores,
        policy: PolicyAdapter,
        reference: PolicyAdapter,
        temperature_and_beta: Callable[[], tuple[float, float]],
        questions: Sequence[str],
        labels: Sequence[str],
        updates: int,
        directory: Path,
    ):
        super().__init__()
        self.scores = scores
        self.config, self.questions, self.labels = config, questions, labels
        self.temperature_and_beta = temperature_and_beta
        self.updates, self.directory = updates, directory / DIRECTORY
        self.step = 0
        # not submodules of the reward model: it is moved, prepared and counted by the trainer
        self._policies = {"policy": policy, "reference": reference}

    def forward(self, rows_B: Tensor, actions_B: Tensor) -> Tensor:
        score_B = self.scores(rows_B, actions_B)
        self.step += 1
        due = self.step in (1, self.updates) or self.step % self.config.completions_steps == 0
        if due and is_main_process():
            self._log(self.table(rows_B, actions_B, score_B))
        return score_B

    def get_extra_state(self) -> dict[str, Any]:
        return {"step": self.step}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.step = state["step"]

    def table(self, rows_B: Tensor, actions_B: Tensor, score_B: Tensor) -> pd.DataFrame:
        """One row per answer: step, question (and text_pair), answer, probability, score, kl (a sample), reward."""
        temperature, beta = self.temperature_and_beta()
        logp_B, ref_logp_B = (
            action_logp_B(self._policies[name], rows_B, actions_B, temperature).double().cpu()
            for name in ("policy", "reference")
        )
        kl_B, score_B = logp_B - ref_logp_B, score_B.detach().double().cpu()
        return pd.DataFrame(
            {
                "step": self.step,
                **pairs.columns([self.questions[row] for row in rows_B.tolist()]),
                "answer": [self.labels[action] for action in actions_B.tolist()],
                "probability": logp_B.exp().tolist(),
                "score": score_B.tolist(),
                "kl": kl_B.tolist(),
                "reward": (score_B - beta * kl_B).tolist(),
            }
        )

    def _log(self, table: pd.DataFrame) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        table.to_parquet(self.directory / f"completions_{self.step:05d}.parquet")
        print_completions(table, NUM_COMPLETIONS_TO_PRINT)
