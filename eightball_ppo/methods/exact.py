"""The exact gradient of the objective, a sum over all labels: the limit of any sampled gradient."""

from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from eightball_ppo.config.methods import ExactConfig
from eightball_ppo.functional import objective
from eightball_ppo.methods.task import Task, train_on_rows
from eightball_ppo.models.trainable import trainable_copy
from eightball_ppo.runtime.distributed import num_processes
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.early_stop import PlateauCallback, early_stop_states

MIN_ANNEAL_FRACTION = 0.001  # the share of 1/kl_coef that annealing starts from


class AnnealedObjective:
    """The loss `-J / beta`, with a beta that falls to its final value; one call per optimizer step.

    Where the best label is improbable under the reference, the gradient is as small as its probability, and plain
    ascent gets stuck. While 1/beta rises linearly from 0, the optimum `pi*_beta = ref * exp(score / beta) / Z` moves
    from the reference to its final place, and the policy can follow it.

    Args:
        ref_logp_NK: Log-probabilities of the reference, shape [N, K], in nats.
        score_NK: Grader scores, shape [N, K].
        beta: The final KL coefficient, in score units per nat.
        annealing_steps: Optimizer steps over which beta falls; 0 is off.
        device: The device of the logits; the tables are moved there once.
    """

    def __init__(
        self, ref_logp_NK: Tensor, score_NK: Tensor, beta: float, annealing_steps: float, device: torch.device
    ):
        self.ref_logp_NK, self.score_NK = ref_logp_NK.to(device), score_NK.to(device)
        self.beta, self.annealing_steps = beta, annealing_steps
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        """The state that a checkpoint holds."""
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        self.step = state["step"]

    def __call__(self, logits_BK: Tensor, rows_B: Tensor) -> Tensor:
        """The loss of logits [B, K] for the questions with indices `rows_B`, shape [B]; counts a step."""
        passed = self.step / self.annealing_steps if self.annealing_steps else 1.0
        self.step += 1
        beta = self.beta / min(1.0, max(passed, MIN_ANNEAL_FRACTION))
        ref_logp_BK, score_BK = self.ref_logp_NK[rows_B], self.score_NK[rows_B]
        objective_B = objective.objective_N(logits_BK.log_softmax(-1), ref_logp_BK, score_BK, beta)
        return -objective_B.mean() / (beta or 1.0)


def fit(task: Task[ExactConfig], run: Run) -> PreTrainedModel:
    """Returns the policy that maximises the objective by its exact gradient.

    Raises:
        InputError: The budget does not pay for one question.
    """
    config = task.config
    rows = task.train_scores.buy_full_rows()
    set_seed(config.seed)
    policy = trainable_copy(task.classifier, config)
    ref_logp_NK = task.ref_logits_NK["train"].log_softmax(-1)
    assert config.num_train_epochs is not None
    steps = config.num_train_epochs * -(-len(rows) // (config.per_device_train_batch_size * num_processes()))
    score_NK, device = task.train_scores.known_score_NK(), PartialState().device
    loss = AnnealedObjective(ref_logp_NK, score_NK, config.beta, config.anneal_fraction * steps, device)
    plateau = PlateauCallback(config)
    resume = task.resume.with_states(("annealing", loss), *early_stop_states(plateau))
    train_on_rows(task, policy, rows, loss, run, run.method, resume, [plateau])
    stopped_by = plateau.stopped_by or "num_train_epochs"
    run.results |= {"anneal_fraction": config.anneal_fraction, "stopped_by": stopped_by}
    return policy
