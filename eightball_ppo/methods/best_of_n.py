"""Best of n: nothing is trained; n answers are drawn from the reference, and the best-scored one is given.

The distribution of that answer is a closed form, so it is saved as a policy: `LookupForSequenceClassification`, which
holds it for the questions that were graded and answers all others as the reference does.
"""

import logging

import torch
from torch import Tensor
from transformers import PreTrainedModel

from eightball_ppo.config.methods import BestOfNConfig
from eightball_ppo.functional import objective
from eightball_ppo.methods.task import Task
from eightball_ppo.models.modeling_lookup import LookupForSequenceClassification
from eightball_ppo.models.tokenization import max_input_length, token_table
from eightball_ppo.runtime.run import Run

logger = logging.getLogger(__name__)
CANDIDATES = tuple(2.0**power for power in range(53))  # exact in float64; more draws change nothing
TIE = 1e-9  # of the gain of the best candidate, below which the smaller one wins


def fit(task: Task[BestOfNConfig], run: Run) -> PreTrainedModel:
    """Returns the best-of-n policy.

    Held-out questions are graded, too, as they would be in use. Under a budget no calls remain for them, and the policy
    answers them as the reference does.

    Raises:
        InputError: The budget does not pay for one question.
    """
    config = task.config
    rows = task.train_scores.buy_full_rows()
    ref_logp_NK = task.ref_logits_NK["train"].double().log_softmax(-1)[rows]
    score_NK = task.train_scores.known_score_NK().double()[rows]
    n = config.num_samples or choose_n(ref_logp_NK, score_NK, config.beta)
    texts = [task.questions["train"].texts[row] for row in rows]
    logp_NK = objective.best_of_n_logp_NK(ref_logp_NK, score_NK, n)
    if config.grader_call_budget is None:
        heldout = task.graded("heldout")
        texts += heldout.questions.texts
        run.results["grader_calls"] = task.train_scores.calls + heldout.score_NK.numel()
        heldout_logp_NK = objective.best_of_n_logp_NK(heldout.ref_logp_NK, heldout.score_NK, n)
        logp_NK = torch.cat([logp_NK, heldout_logp_NK])
    table = token_table(texts, task.tokenizer, max_input_length(task.tokenizer))
    token_ids = [ids.tolist() for ids in table.ids_S.split(table.length_N.tolist())]
    policy = LookupForSequenceClassification.from_base(task.classifier, token_ids, logp_NK.float())
    run.log({"stage": run.method, "step": 0, **task.exact_metrics(policy)})
    run.results["num_samples"] = n
    logger.info("best of %d answers of the reference", n)
    return policy


def choose_n(ref_logp_NK: Tensor, score_NK: Tensor, beta: float) -> int:
    """The power of 2 whose best-of-n policy has the highest mean objective; the smallest at a tie.

    Args:
        ref_logp_NK: Log-probabilities of the reference, shape [N, K], in nats.
        score_NK: Grader scores, shape [N, K].
        beta: The KL coefficient, in score units per nat.
    """

    def mean_objective(n: float) -> float:
        logp_NK = objective.best_of_n_logp_NK(ref_logp_NK, score_NK, n)
        return objective.objective_N(logp_NK, ref_logp_NK, score_NK, beta).mean().item()

    found = [mean_objective(n) for n in CANDIDATES]
    enough = max(found) - TIE * (max(found) - found[0])
    return int(next(n for n, value in zip(CANDIDATES, found, strict=True) if value >= enough))
