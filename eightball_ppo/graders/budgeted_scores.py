"""The scores that training observes, and their cost: one (question, label) cell is one grader call.

A method that samples answers pays once for each cell that it draws; a method that learns from full rows pays for all K
labels of a question. So methods can be compared on equal budgets.
"""

import torch
from torch import Tensor, nn

from eightball_ppo.config.graded import MethodConfig
from eightball_ppo.errors import InputError
from eightball_ppo.runtime.distributed import num_processes


def check_budget_single_process(config: MethodConfig) -> None:
    """Checks that a budget for sampled answers is used by a single process: each process counts its cells alone.

    Raises:
        InputError: Several processes.
    """
    budget = config.grader_call_budget
    if budget is not None and num_processes() > 1:
        raise InputError(f"--grader_call_budget {budget}: with sampled answers on one process only; launch one process")


class BudgetedScores(nn.Module):
    """Grader scores of the training texts, shape [N, K], with a budget on how many may be observed.

    `observed_NK` is True where a score was revealed to training.

    Args:
        score_NK: Finite scores, shape [N, K].
        budget: Maximum number of observed cells; None for all.
        seed: Decides which questions are bought if the budget is too small for all.

    Raises:
        ValueError: A score is not finite; TRL's whitening would spread it to every weight.
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
        """Number of observed cells."""
        return int(self.observed_NK.sum())

    def buy_full_rows(self) -> list[int]:
        """Observes all labels of as many random questions as the budget allows; returns their sorted rows.

        Raises:
            InputError: The budget is below K.
        """
        rows, labels = self.score_NK.shape
        affordable = rows if self.budget is None else min(rows, self.budget // labels)
        if not affordable:
            reason = f"one question takes {labels} calls, a label each"
            raise InputError(f"--grader_call_budget {self.budget}: {reason}; raise it")
        bought = torch.randperm(rows, generator=torch.Generator().manual_seed(self.seed))[:affordable]
        self.observed_NK[bought] = True
        return sorted(bought.tolist())

    def forward(self, rows_B: Tensor, actions_B: Tensor) -> Tensor:
        """Scores of sampled answers; observes new cells in their order.

        Once the budget is spent, an unobserved cell gets the mean of the observed scores.

        Args:
            rows_B: Question rows, shape [B].
            actions_B: Label ids, shape [B].

        Returns:
            Scores, shape [B].
        """
        labels = self.score_NK.shape[1]
        cell_B = rows_B * labels + actions_B
        observed, score = self.observed_NK.view(-1), self.score_NK.view(-1)
        if self.budget is None:
            observed[cell_B] = True
            return score[cell_B]
        new_cells = list(dict.fromkeys(cell_B[~observed[cell_B]].tolist()))[: self.budget - self.calls]
        observed[torch.tensor(new_cells, dtype=torch.long, device=observed.device)] = True
        return torch.where(observed[cell_B], score[cell_B], score[observed].mean())

    def all_reduce_observed(self) -> None:
        """Marks cells that any process observed as observed on all processes."""
        from accelerate import PartialState
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            observed_NK = self.observed_NK.to(PartialState().device, torch.uint8)  # NCCL reduces nothing on the CPU
            distributed.all_reduce(observed_NK, op=distributed.ReduceOp.MAX)
            self.observed_NK.copy_(observed_NK.bool())
