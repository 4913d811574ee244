"""What training observes of the scores, and what that costs: one grader call is one (question, label) cell.

A method that samples answers pays for the cells that it draws, once each. A method that learns from full rows pays for
all K labels of a question. On equal budgets the two can be compared, whatever the grader is and whatever it cost.
"""

import torch
from torch import Tensor, nn

from eightball_ppo.config.graded import MethodConfig
from eightball_ppo.errors import InputError
from eightball_ppo.runtime.distributed import num_processes


def check_budget_single_process(config: MethodConfig) -> None:
    """Raises InputError if several processes would sample against one budget: each counts its observed cells alone."""
    if config.grader_call_budget is not None and num_processes() > 1:
        raise InputError(
            f"--grader_call_budget {config.grader_call_budget}: with sampled answers on one process only; launch it so"
        )


class BudgetedScores(nn.Module):
    """Grader scores of the training texts, shape [N, K], with a budget on how many may be observed.

    `observed_NK` is True where a score was revealed to training.

    Args:
        score_NK: finite scores.
        budget: the most cells that may be observed; None: all.
        seed: decides which questions are bought where the budget is too small for all.

    Raises:
        ValueError: a score is not finite; TRL would whiten it into every weight.
    """

    score_NK: Tensor
    observed_NK: Tensor

    def __init__(self, score_NK: Tensor, budget: int | None = None, seed: int = 0):
        if not torch.isfinite(score_NK).all():
            raise ValueError("a score is not finite")
        super().__init__()
        self.budget, self.seed = budget, seed
        self.register_buffer("score_NK", score_NK, persistent=False)
        self.register_buffer("observed_NK", torch.zeros_like(score_NK, dtype=torch.bool))  # its state_dict

    def __len__(self) -> int:
        return len(self.score_NK)

    @property
    def calls(self) -> int:
        """Cells that were observed."""
        return int(self.observed_NK.sum())

    def buy_full_rows(self) -> list[int]:
        """Observe all labels of as many questions as the budget allows, drawn from the seed; returns their rows.

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
        self.observed_NK[bought] = True
        return sorted(bought.tolist())

    def forward(self, rows_B: Tensor, actions_B: Tensor) -> Tensor:
        """Scores of sampled answers, observing new cells in the order in which they come.

        Once the budget is spent, a cell that was not observed is scored as the mean of all observed ones: neither good
        nor bad news.
        """
        labels = self.score_NK.shape[1]
        cell_B = rows_B * labels + actions_B
        observed, score = self.observed_NK.view(-1), self.score_NK.view(-1)
        if self.budget is None:
            observed[cell_B] = True
            return score[cell_B]
        fresh = list(dict.fromkeys(cell_B[~observed[cell_B]].tolist()))[: self.budget - self.calls]
        observed[torch.tensor(fresh, dtype=torch.long, device=observed.device)] = True
        return torch.where(observed[cell_B], score[cell_B], score[observed].mean())

    def all_reduce_observed(self) -> None:
        """Marks the cells that any process of the launch observed as observed on all of them."""
        from accelerate import PartialState
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            observed_NK = self.observed_NK.to(PartialState().device, torch.uint8)  # NCCL reduces nothing on the CPU
            distributed.all_reduce(observed_NK, op=distributed.ReduceOp.MAX)
            self.observed_NK.copy_(observed_NK.bool())
