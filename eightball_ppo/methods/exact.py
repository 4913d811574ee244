"""The exact gradient of the objective, a sum over all labels: the ceiling of what any sampled gradient can reach."""

from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from eightball_ppo.config.methods import ExactConfig
from eightball_ppo.functional import objective
from eightball_ppo.methods.task import Task
from eightball_ppo.models.trainable import trainable_copy
from eightball_ppo.runtime.distributed import num_processes
from eightball_ppo.runtime.run import Run
from eightball_ppo.training.supervised import train_classifier

MIN_ANNEAL_FRACTION = 0.001  # the least share of 1/kl_coef that annealing starts from


class AnnealedObjective:
    """`-J / beta` of rows of a table, with a beta that falls to its own value: a loss for `fit`, called once a step.

    Where the reference hardly gives the best label, the gradient there is as small as its probability, and plain ascent
    gets stuck. While 1/beta rises linearly from 0 the optimum moves from the reference to its place, and the policy
    keeps up with it: `pi*_beta = ref * exp(score / beta)` raises a rare label before it counts on it.

    The tables move to `device`, that of the logits, once.
    """

    def __init__(
        self, ref_logp_NK: Tensor, score_NK: Tensor, beta: float, annealing_steps: float, device: torch.device
    ):
        self.ref_logp_NK, self.score_NK = ref_logp_NK.to(device), score_NK.to(device)
        self.beta, self.annealing_steps = beta, annealing_steps
        self.step = 0

    def state_dict(self) -> dict[str, Any]:
        return {"step": self.step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.step = state["step"]

    def __call__(self, logits_BK: Tensor, rows_B: Tensor) -> Tensor:
        share = (
            1.0 if not self.annealing_steps else min(1.0, max(self.step / self.annealing_steps, MIN_ANNEAL_FRACTION))
        )
        self.step += 1
        beta = self.beta / share
        ref_logp_BK, score_BK = self.ref_logp_NK[rows_B], self.score_NK[rows_B]
        objective_B = objective.objective_N(logits_BK.log_softmax(-1), ref_logp_BK, score_BK, beta)
        return -objective_B.mean() / (beta or 1.0)


def fit(task: Task[ExactConfig], run: Run) -> PreTrainedModel:
    """The policy that maximises the objective by its exact gradient.

    Raises:
        InputError: a budget that pays for no question.
    """
    config = task.config
    rows = task.train_scores.buy_full_rows()
    set_seed(config.seed)
    policy = trainable_copy(task.classifier, config)
    ref_logp_NK = task.ref_logits_NK["train"].log_softmax(-1)
    steps = config.num_train_epochs * -(-len(rows) // (config.per_device_train_batch_size * num_processes()))
    score_NK, device = task.train_scores.score_NK, PartialState().device
    loss = AnnealedObjective(ref_logp_NK, score_NK, config.kl_coef, config.anneal_fraction * steps, device)
    texts = [task.questions["train"].texts[row] for row in rows]
    resume = task.resume.with_states(("annealing", loss))
    measure = lambda: task.exact_metrics(policy)  # noqa: E731
    own = (texts, rows, config, run, run.method, measure, loss)
    train_classifier(policy, task.tokenizer, *own, resume=resume, callbacks=task.callbacks)
    run.results["anneal_fraction"] = config.anneal_fraction
    return policy
