"""The exact gradient of the objective, a sum over all labels: the ceiling of what any sampled gradient can reach."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import set_seed

from eightball_ppo.config.methods import ExactConfig
from eightball_ppo.errors import DryRun
from eightball_ppo.functional import objective
from eightball_ppo.methods.prerequisites import outlook
from eightball_ppo.methods.resume_task import keeping_task
from eightball_ppo.methods.task import finish, load_splits, load_task
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.models.trainable import check_rates, trainable_copy
from eightball_ppo.runtime.distributed import num_processes
from eightball_ppo.runtime.run import Run, check_output_dir
from eightball_ppo.training.resume import resumption
from eightball_ppo.training.supervised import fit

DEAREST = 0.001  # the least share of 1/kl_coef that annealing starts from


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

    def state(self) -> dict[str, Any]:
        return {"step": self.step}

    def restore(self, state: dict[str, Any]) -> None:
        self.step = state["step"]

    def __call__(self, logits_BK: Tensor, rows_B: Tensor) -> Tensor:
        share = 1.0 if not self.annealing_steps else min(1.0, max(self.step / self.annealing_steps, DEAREST))
        self.step += 1
        beta = self.beta / share
        ref_logp_BK, score_BK = self.ref_logp_NK[rows_B], self.score_NK[rows_B]
        objective_B = objective.objective_N(logits_BK.log_softmax(-1), ref_logp_BK, score_BK, beta)
        return -objective_B.mean() / (beta or 1.0)


def train(config: ExactConfig) -> Path:
    """Maximise the objective by its exact gradient, write the run to `config.output_dir` and return it.

    Raises:
        DryRun: on a dry run, with what grading would cost.
        InputError: bad input as in `load_task`, or a budget that pays for no question.
    """
    check_output_dir(config)
    config = with_labels(config)
    questions = load_splits(config)
    if config.dry_run:
        raise DryRun(outlook(config, questions))
    resumed = resumption(config, "exact")
    task = load_task(config, questions)
    check_rates(task.classifier, config, learning_rate=config.learning_rate)
    keeping = keeping_task(task, resumed)
    with Run(config, "exact", keeping.progress) as run:
        rows = task.lessons.whole_rows()
        set_seed(config.seed)
        policy = trainable_copy(task.classifier, config)
        ref_logp_NK = task.ref_logits_NK["train"].log_softmax(-1)
        steps = config.num_train_epochs * -(-len(rows) // (config.per_device_train_batch_size * num_processes()))
        score_NK, device = task.lessons.score_NK, PartialState().device
        loss = AnnealedObjective(ref_logp_NK, score_NK, config.kl_coef, config.anneal * steps, device)
        texts = [task.questions["train"].texts[row] for row in rows]
        keeping = replace(keeping, parts={**keeping.parts, "annealing": loss})
        measure = lambda: task.exact_metrics(policy)  # noqa: E731
        fit(policy, task.tokenizer, texts, rows, config, run, "exact", measure, loss, keeping=keeping)
        return finish(task, policy, run, episodes=0, extra={"anneal": config.anneal})
