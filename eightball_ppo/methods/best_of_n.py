"""Best of n: nothing is trained; n answers are drawn from the reference and the grader's favourite is given.

The distribution of that answer is a closed form, so it is saved as a policy: `LookupForSequenceClassification`, which
knows it for the questions that were graded and answers all others as the reference does.
"""

import torch
from torch import Tensor
from transformers import PreTrainedModel

from eightball_ppo.config.methods import BestOfNConfig
from eightball_ppo.evaluation import GradedSplit
from eightball_ppo.functional import objective
from eightball_ppo.methods.task import Task
from eightball_ppo.models.modeling_recall import LookupForSequenceClassification
from eightball_ppo.models.tokenization import max_input_length, token_table
from eightball_ppo.runtime.run import Run

CANDIDATES = tuple(2**power for power in range(8))


def fit(task: Task[BestOfNConfig], run: Run) -> PreTrainedModel:
    """The best-of-n policy.

    The grader is asked for held-out questions, too, as it would be in use; under a budget there are no calls left for
    them, and they get the reference's answers.

    Raises:
        InputError: a budget that pays for no question.
    """
    config = task.config
    rows = task.train_scores.buy_full_rows()
    ref_logp_NK, score_NK = task.ref_logits_NK["train"].double().log_softmax(-1)[rows], _train_score_NK(task)[rows]
    n = config.num_samples or choose_n(ref_logp_NK, score_NK, config.kl_coef)
    texts = [task.questions["train"].texts[row] for row in rows]
    logp_NK = objective.best_of_n_logp_NK(ref_logp_NK, score_NK, n)
    if config.grader_call_budget is None:
        heldout = task.graded("heldout")
        texts += heldout.questions.texts
        logp_NK = torch.cat([logp_NK, _best_of(heldout, n)])
    policy = LookupForSequenceClassification.around(task.classifier, _token_rows(task, texts), logp_NK.float())
    run.log({"stage": run.method, "step": 0, **task.exact_metrics(policy)})
    run.results["num_samples"] = n
    return policy


def _train_score_NK(task: Task) -> Tensor:
    return task.train_scores.score_NK.double()


def _best_of(split: GradedSplit, n: int) -> Tensor:
    return objective.best_of_n_logp_NK(split.ref_logp_NK, split.score_NK, n)


def _token_rows(task: Task, texts: list[str]) -> list[list[int]]:
    """The token ids under which the policy will meet each question."""
    table = token_table(texts, task.tokenizer, max_input_length(task.tokenizer))
    return [ids.tolist() for ids in table.ids_S.split(table.length_N.tolist())]


def choose_n(ref_logp_NK: Tensor, score_NK: Tensor, beta: float) -> int:
    """The candidate whose best-of-n has the highest mean objective; ties go to the smaller one."""

    def mean_objective(n: int) -> float:
        logp_NK = objective.best_of_n_logp_NK(ref_logp_NK, score_NK, n)
        return objective.objective_N(logp_NK, ref_logp_NK, score_NK, beta).mean().item()

    return max(CANDIDATES, key=mean_objective)
