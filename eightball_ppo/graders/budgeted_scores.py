"""What training sees of the grades, and what that takes: one grader call is one (question, label) cell.

A method that samples answers pays for the cells that it draws, once each. A method that learns from whole rows pays for
all K labels of a question. On equal budgets the two can be compared, whoever the grader is and whatever it was paid.
"""

from typing import Any

import torch
from torch import Tensor, nn

from eightball_ppo.config.methods import GradedConfig
from eightball_ppo.errors import InputError
from eightball_ppo.runtime.distributed import num_processes


def check_one_till(config: GradedConfig) -> None:
    """Raises InputError if several processes would sample against one budget: each has a till of its own."""
    if config.grader_call_budget is not None and num_processes() > 1:
        raise InputError(
            f"--grader_call_budget {config.grader_call_budget}: with sampled answers on one process only; launch it so"
        )


class TrainingGrades(nn.Module):
    """Scores [N, K] of all training questions behind a till; `paid_NK` is True where training has looked.

    Args:
        score_NK: finite scores.
        budget: most cells that may be paid for; None: all.
        seed: which questions are bought where the budget is too small for all.

    Raises:
        ValueError: a score is not finite; TRL would whiten it into every weight.
    """

    score_NK: Tensor
    paid_NK: Tensor

    def __init__(self, score_NK: Tensor, budget: int | None = None, seed: int = 0):
        if not torch.isfinite(score_NK).all():
            raise ValueError("a score is not finite")
        super().__init__()
        self.budget, self.seed = budget, seed
        self.register_buffer("score_NK", score_NK, persistent=False)
        self.register_buffer("paid_NK", torch.zeros_like(score_NK, dtype=torch.bool), persistent=False)

    def __len__(self) -> int:
        return len(self.score_NK)

    @property
    def calls(self) -> int:
        """Cells that were paid for."""
        return int(self.paid_NK.sum())

    def whole_rows(self) -> list[int]:
        """Pay for all labels of as many questions as the budget allows, drawn from the seed; returns their rows.

        Raises:
            InputError: the budget does not pay for one.
        """
        rows, labels = self.score_NK.shape
        affordable = rows if self.budget is None else min(rows, self.budget // labels)
        if not affordable:
            raise InputError(
                f"--grader_call_budget {self.budget}: one question takes {labels} calls, a label each; raise it"
            )
        bought = torch.randperm(rows, generator=torch.Generator().manual_seed(self.seed))[:affordable]
        self.paid_NK[bought] = True
        return sorted(bought.tolist())

    def forward(self, rows_B: Tensor, actions_B: Tensor) -> Tensor:
        """Scores of sampled answers, paying for new cells in the order in which they come.

        Once the budget is spent an unpaid cell is scored as the mean of all paid ones: no news, good or bad.
        """
        labels = self.score_NK.shape[1]
        cell_B = rows_B * labels + actions_B
        paid, score = self.paid_NK.view(-1), self.score_NK.view(-1)
        if self.budget is None:
            paid[cell_B] = True
            return score[cell_B]
        fresh = list(dict.fromkeys(cell_B[~paid[cell_B]].tolist()))[: self.budget - self.calls]
        paid[torch.tensor(fresh, dtype=torch.long, device=paid.device)] = True
        return torch.where(paid[cell_B], score[cell_B], score[paid].mean())

    def join_processes(self) -> None:
        """Cells that any process of the launch paid for count as paid on all."""
        from accelerate import PartialState
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            paid = self.paid_NK.to(PartialState().device, torch.uint8)  # NCCL joins nothing that lies on the CPU
            distributed.all_reduce(paid, op=distributed.ReduceOp.MAX)
            self.paid_NK.copy_(paid.bool())


class Till:
    """What training has paid for, as a part of its state."""

    def __init__(self, lessons: TrainingGrades):
        self.lessons = lessons

    def state(self) -> dict[str, Any]:
        return {"paid_NK": self.lessons.paid_NK.cpu()}

    def restore(self, state: dict[str, Any]) -> None:
        self.lessons.paid_NK.copy_(state["paid_NK"])
