"""The scores that training observes, and their cost: one (question, label) cell is one grader call.

A method that samples answers pays once for each cell that it draws; a method that learns from full rows pays for all K
labels of a question. Where the probabilities of a row sum to one, all methods under a budget know what the observed
cells say of the others (`functional.partial_rows`): K - 1 cells are a full row, and its last cell costs nothing. So
methods can be compared on equal budgets.
"""

import torch
from torch import Tensor, nn

from eightball_ppo.config.fields import require
from eightball_ppo.config.graded import MethodConfig, ScoreType
from eightball_ppo.errors import InputError
from eightball_ppo.functional import partial_rows
from eightball_ppo.graders.base import convert_scores, log_probabilities
from eightball_ppo.runtime.distributed import num_processes


def check_budget_single_process(config: MethodConfig) -> None:
    """Checks that sampled answers are paid, or noised at every call, in one process: each counts its cells alone.

    Raises:
        InputError: Several processes.
    """
    budget = config.grader_call_budget
    if budget is not None and num_processes() > 1:
        raise InputError(f"--grader_call_budget {budget}: with sampled answers on one process only; launch one process")
    if config.differs_by_call and num_processes() > 1:
        raise InputError(f"{config.differs_by_call}: with sampled answers on one process only; launch one process")


class BudgetedScores(nn.Module):
    """Grader scores of the training texts, shape [N, K], with a budget on how many may be observed.

    `observed_NK` is True where a score was revealed to training.

    Args:
        score_NK: Finite scores, shape [N, K]. What training may use of them is `known_score_NK`.
        budget: Maximum number of observed cells; None for all.
        seed: Decides which questions are bought if the budget is too small for all, and in which order of labels.
        score_type: How the scores were made of log-probabilities.
        sums_to_one: Whether these are of probabilities that sum to one in each row. Raw scores and ratings do not, and
            a cell of them says nothing of the others.

    Raises:
        ValueError: A score is not finite; TRL's whitening would spread it to every weight.
    """

    score_NK: Tensor
    observed_NK: Tensor

    def __init__(
        self,
        score_NK: Tensor,
        budget: int | None = None,
        seed: int = 0,
        score_type: ScoreType = "raw",
        sums_to_one: bool = False,
    ):
        if not torch.isfinite(score_NK).all():
            raise ValueError("a score is not finite")
        super().__init__()
        self.budget, self.seed, self.score_type, self.sums_to_one = budget, seed, score_type, sums_to_one
        self.register_buffer("score_NK", score_NK, persistent=False)
        self.register_buffer("observed_NK", torch.zeros_like(score_NK, dtype=torch.bool))  # its state_dict

    def __len__(self) -> int:
        return len(self.score_NK)

    @property
    def calls(self) -> int:
        """Number of observed cells."""
        return int(self.observed_NK.sum())

    @property
    def calls_of_row(self) -> int:
        """Calls that a full row takes under a budget."""
        return calls_of_row(self.score_NK.shape[1], self.sums_to_one)

    def buy_full_rows(self) -> list[int]:
        """Observes all labels of as many random questions as the budget allows; returns their sorted rows.

        Where rows sum to one, the last label of each row is not asked: the others give it.

        Raises:
            InputError: The budget does not pay for one row.
        """
        rows, asked = len(self), self.calls_of_row
        if self.budget is None:
            self.observed_NK[:] = True
            return list(range(rows))
        affordable = min(rows, self.budget // asked)
        check_budget(self.budget, asked)
        order_N, label_NK = self._order()
        bought = order_N[:affordable]
        self.observed_NK[bought.unsqueeze(1), label_NK[bought, :asked]] = True
        return sorted(bought.tolist())

    def buy_favourites(self, complete: bool) -> list[int]:
        """Asks one random question after the other, label by label, until it is known which label is the best.

        That is once a label has more than all unobserved labels together. A budget that is left then buys the other
        labels of these questions, if `complete`. Without a budget, and where rows do not sum to one, it is
        `buy_full_rows`.

        Returns:
            The sorted rows whose best label is known.

        Raises:
            InputError: The budget does not pay for one row.
        """
        if self.budget is None or not self.sums_to_one:
            return self.buy_full_rows()
        check_budget(self.budget, self.calls_of_row)
        order_N, label_NK = self._order()
        logp_NK = self._logp_NK(self.score_NK)
        needed_N = partial_rows.cells_until_favourite_N(logp_NK.gather(1, label_NK))[order_N]
        asked_N = _spend(self.budget, needed_N)
        if complete:
            asked_N = asked_N + _spend(self.budget - int(asked_N.sum()), self.calls_of_row - asked_N)
        first_NK = torch.arange(label_NK.shape[1]) < asked_N.unsqueeze(1)
        self.observed_NK[order_N] = torch.zeros_like(first_NK).scatter(1, label_NK[order_N], first_NK)
        return partial_rows.favourite_known_N(logp_NK, self.observed_NK).nonzero().flatten().tolist()

    def _order(self) -> tuple[Tensor, Tensor]:
        """The order in which questions are bought, [N], and that of the labels of each question, [N, K]."""
        generator = torch.Generator().manual_seed(self.seed)
        order_N = torch.randperm(len(self), generator=generator)
        return order_N, torch.rand(self.score_NK.shape, generator=generator).argsort(-1)

    def known_score_NK(self) -> Tensor:
        """All that training may use, shape [N, K]: without a budget all scores, else `known_of` the observed cells."""
        return self.score_NK if self.budget is None else self._known(self.score_NK, self.observed_NK)

    def known_logp_NK(self) -> Tensor:
        """`known_score_NK` as log-probabilities in nats whose rows sum to one, shape [N, K]; raw scores unchanged."""
        score_NK = self.known_score_NK()
        return score_NK if self.score_type == "raw" else self._logp_NK(score_NK).log_softmax(-1).to(score_NK)

    def _logp_NK(self, score_NK: Tensor) -> Tensor:
        return log_probabilities(score_NK.double(), self.score_type)

    def _known(self, score_BK: Tensor, observed_BK: Tensor) -> Tensor:
        """Scores of rows [B, K]; those of unobserved cells are what the observed ones say of them.

        Where rows sum to one, the unobserved labels of a row share the probability that is left, in proportion to the
        mean of the observed probabilities of each label. Elsewhere they have the mean of the observed scores.
        """
        if not self.sums_to_one:
            return torch.where(observed_BK, score_BK, self.score_NK[self.observed_NK].mean())
        prior_K = partial_rows.label_prior_K(self._logp_NK(self.score_NK), self.observed_NK)
        logp_BK = partial_rows.posterior_logp_NK(self._logp_NK(score_BK), observed_BK, prior_K)
        return torch.where(observed_BK, score_BK, convert_scores(logp_BK, self.score_type).to(score_BK.dtype))

    def forward(self, rows_B: Tensor, actions_B: Tensor) -> Tensor:
        """Scores of sampled answers; observes new cells in their order.

        A cell that the others of its row give, and a cell once the budget is spent, is not observed; see `_known`.

        Args:
            rows_B: Question rows, shape [B].
            actions_B: Label ids, shape [B].

        Returns:
            Scores, shape [B].
        """
        if self.budget is None:
            self.observed_NK[rows_B, actions_B] = True
            return self.score_NK[rows_B, actions_B]
        self._buy(rows_B, actions_B)
        score_BK = self._known(self.score_NK[rows_B], self.observed_NK[rows_B])
        return score_BK.gather(1, actions_B.unsqueeze(1)).squeeze(1)

    def _buy(self, rows_B: Tensor, actions_B: Tensor) -> None:
        """Observes those of the cells, in their order, that are new, are not given by others, and are affordable."""
        assert self.budget is not None
        new_B = ~self.observed_NK[rows_B, actions_B]
        left = self.budget - self.calls
        cells = list(dict.fromkeys(zip(rows_B[new_B].tolist(), actions_B[new_B].tolist(), strict=True)))
        asked_N = dict(zip(rows_B.tolist(), self.observed_NK[rows_B].sum(-1).tolist(), strict=True))
        for row, action in cells:
            if left and asked_N[row] < self.calls_of_row:
                self.observed_NK[row, action] = True
                asked_N[row], left = asked_N[row] + 1, left - 1

    def all_reduce_observed(self) -> None:
        """Marks cells that any process observed as observed on all processes."""
        from accelerate import PartialState
        from torch import distributed

        if distributed.is_available() and distributed.is_initialized():
            observed_NK = self.observed_NK.to(PartialState().device, torch.uint8)  # NCCL reduces nothing on the CPU
            distributed.all_reduce(observed_NK, op=distributed.ReduceOp.MAX)
            self.observed_NK.copy_(observed_NK.bool())


def calls_of_row(num_labels: int, sums_to_one: bool) -> int:
    """Calls that a full row of labels takes under a budget."""
    return max(1, num_labels - 1) if sums_to_one else num_labels


def check_budget(budget: int | None, calls: int) -> None:
    """Raises InputError if `budget` is below the `calls` of a full row."""
    reason = f"one question takes {calls} calls" + (", a label each" if calls > 1 else "")
    require(budget is None or budget >= calls, f"--grader_call_budget {budget}: {reason}; raise it")


def _spend(budget: int, wanted_N: Tensor) -> Tensor:
    """How many of the `wanted_N` cells of each row a budget pays for, first row first; shape [N]."""
    before_N = wanted_N.cumsum(0) - wanted_N
    return (budget - before_N).clamp(min=0).minimum(wanted_N)
