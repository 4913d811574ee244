"""Distillation: cross-entropy to a grader's answers. Hard targets with a threshold are the usual alternative to RL."""

import dataclasses
import logging
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from eightball_ppo.config.fields import require
from eightball_ppo.config.methods import DistillConfig
from eightball_ppo.data import split_by_question
from eightball_ppo.errors import InputError
from eightball_ppo.functional import objective
from eightball_ppo.graders.budgeted_scores import calls_of_row
from eightball_ppo.methods.task import Task, train_on_rows
from eightball_ppo.models.loading import predict_logits_NK
from eightball_ppo.models.trainable import trainable_copy
from eightball_ppo.runtime.distributed import num_processes
from eightball_ppo.runtime.run import Run
from eightball_ppo.runtime.signals import defer_signals
from eightball_ppo.training.resume import ResumeContext

logger = logging.getLogger(__name__)
THRESHOLDS = (0.0, 0.5, 0.7, 0.9, 0.99)  # tried on the validation questions
ORIGINAL_QUESTIONS = 100  # of the original experiment, one a step


@dataclasses.dataclass
class ThresholdSearch:
    """State of the threshold search, kept in checkpoints so that no threshold is tried twice.

    Attributes:
        threshold: The threshold, once it is known.
        tried: Threshold, coverage and validation score of each policy trained so far.
        updates: Updates made so far, of all policies.
    """

    threshold: float | None
    tried: list[dict[str, float]] = dataclasses.field(default_factory=list)
    updates: int = 0

    def state_dict(self) -> dict[str, Any]:
        """The state that a checkpoint holds."""
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state of a checkpoint."""
        vars(self).update(state)


def check(config: DistillConfig, num_questions: int) -> None:
    """Raises InputError if several processes would run the original recipe, or no question remains for validation."""
    if config.preset == "original" and num_processes() > 1:
        raise InputError("--preset original: takes one question a step, so one process; launch it with one")
    if config.target == "hard" and config.threshold is None:
        if config.grader_call_budget is not None:  # a question takes a full row of calls at most
            calls = calls_of_row(len(config.label_set()), config.score_type != "raw")
            num_questions = min(num_questions, config.grader_call_budget // calls)
        validation = round(config.validation_fraction * num_questions)
        fits = 0 < validation < num_questions
        how = f"--validation_fraction {config.validation_fraction}; pass --threshold, or change the fraction"
        require(fits, f"{num_questions} questions cannot be split with {how}")


def fit(task: Task[DistillConfig], run: Run) -> PreTrainedModel:
    """Returns the policy that the grader was distilled into.

    Raises:
        InputError: No question reaches the threshold, or the budget does not pay for one question.
    """
    config = task.config
    rows = task.train_scores.buy_favourites(complete=config.target != "hard")
    logp_NK = task.known_logp_NK()
    if config.preset == "original":
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))
        rows = [rows[i] for i in order[:ORIGINAL_QUESTIONS].tolist()]
    search = ThresholdSearch(config.threshold)
    task.resume.load([("search", search)])
    resume = dataclasses.replace(task.resume.with_states(("search", search)), updates_before=search.updates)
    with defer_signals():
        if config.target == "hard" and search.threshold is None and config.score_type != "raw":
            resume = choose_threshold(search, task, rows, run, resume)
        confident = confident_rows(logp_NK, rows, search.threshold or 0.0, config.score_type == "raw")
        if not confident:
            best = confidence_N(logp_NK[rows], config.score_type == "raw").max().item()
            raise InputError(
                f"--threshold {search.threshold}: no question reaches it; the grader's maximum is {best:.3f}"
            )
        policy, _ = train_on_targets(task, confident, run, run.method, resume)
    run.obsolete_until = search.updates
    run.results |= {
        "target": config.target,
        "preset": config.preset,
        "threshold": search.threshold,
        "coverage": len(confident) / len(rows),
        "kept_questions": len(confident),
        "thresholds_tried": search.tried,
    }
    return policy


def confidence_N(grader_logp_NK: Tensor, raw: bool) -> Tensor:
    """How sure the grader is: the probability of its best label; of raw scores, the margin to the second; shape [N]."""
    best_N2 = grader_logp_NK.topk(2, -1).values
    return best_N2[:, 0] - best_N2[:, 1] if raw else grader_logp_NK.exp().max(-1).values


def confident_rows(grader_logp_NK: Tensor, rows: list[int], threshold: float, raw: bool = False) -> list[int]:
    """Those of `rows` whose confidence is at least `threshold`.

    Args:
        grader_logp_NK: Log-probabilities of the grader, shape [N, K], in nats, or its raw scores.
        rows: Indices into N.
        threshold: A probability, or a margin in the grader's unit.
        raw: Whether the scores are raw.
    """
    sure_N = confidence_N(grader_logp_NK, raw)
    return [row for row in rows if sure_N[row] >= threshold]


def targets_NK(task: Task[DistillConfig]) -> Tensor:
    """Target distributions of all training questions, shape [N, K]: one-hot, the grader's, or the optimum's.

    Raw scores are no distribution: their soft targets are the optimum's, too.
    """
    config = task.config
    logp_NK = task.known_logp_NK()
    if config.target == "hard":
        return torch.nn.functional.one_hot(logp_NK.argmax(-1), logp_NK.shape[1]).float()
    if config.target == "soft" and config.score_type != "raw":
        return logp_NK.exp()
    ref_logp_NK = task.ref_logits_NK["train"].log_softmax(-1)
    return objective.optimum_logp_NK(ref_logp_NK, task.train_scores.known_score_NK(), config.beta).exp()


class TargetLoss:
    """Cross-entropy to target distributions.

    Args:
        target_NK: Probabilities, shape [N, K].
        device: The device of the logits; the table is moved there once.
    """

    def __init__(self, target_NK: Tensor, device: torch.device):
        self.target_NK = target_NK.to(device)

    def __call__(self, logits_BK: Tensor, rows_B: Tensor) -> Tensor:
        """The mean loss of logits [B, K] for the questions with indices `rows_B`, shape [B]."""
        return torch.nn.functional.cross_entropy(logits_BK, self.target_NK[rows_B])


def train_on_targets(
    task: Task[DistillConfig], rows: list[int], run: Run, stage: str, resume: ResumeContext
) -> tuple[PreTrainedModel, int]:
    """Trains a copy of the reference on the targets of `rows`, logged as `stage`.

    Returns:
        The policy, and the number of its updates.
    """
    set_seed(task.config.seed)
    policy = trainable_copy(task.classifier, task.config)
    loss = TargetLoss(targets_NK(task), PartialState().device)
    return policy, train_on_rows(task, policy, rows, loss, run, stage, resume)


def choose_threshold(
    search: ThresholdSearch, task: Task[DistillConfig], rows: list[int], run: Run, resume: ResumeContext
) -> ResumeContext:
    """Finds the threshold whose policy has the best expected score on validation questions, a part of `rows`.

    For each threshold a policy is trained on the other questions, once for thresholds that select the same questions.
    The lower threshold, which selects more, wins a tie.

    Args:
        search: Gets the threshold; may have tried some before it was stopped.
        task: The task.
        rows: Indices of the training questions to use.
        run: Logs the trainings.
        resume: Where the first training resumes.

    Returns:
        The context of the training that follows.
    """
    questions = task.questions["train"]
    training, validation = split_by_question(questions.subset(rows), task.config.validation_fraction, task.config.seed)
    position = {text: row for row, text in enumerate(questions.texts)}
    train_rows, validation_rows = [position[t] for t in training.texts], [position[t] for t in validation.texts]
    logp_NK, score_NK = task.known_logp_NK(), task.train_scores.known_score_NK()[validation_rows]
    previous: list[int] = []
    if search.tried:
        previous = confident_rows(logp_NK, train_rows, search.tried[-1]["threshold"])
    for threshold in THRESHOLDS[len(search.tried) :]:
        confident = confident_rows(logp_NK, train_rows, threshold)
        if not confident:
            break
        if confident == previous:
            score = search.tried[-1]["validation_score"]
        else:
            policy, updates = train_on_targets(task, confident, run, f"threshold {threshold}", resume)
            policy_logp_NK = predict_logits_NK(policy, task.tokens["train"]).log_softmax(-1)[validation_rows]
            score = objective.expected_score_N(policy_logp_NK, score_NK).mean().item()
            search.updates += updates
            resume = dataclasses.replace(resume, point=None, updates_before=search.updates)
        previous = confident
        coverage = len(confident) / len(train_rows)
        search.tried.append({"threshold": threshold, "coverage": coverage, "validation_score": score})
    best = max(search.tried, key=lambda row: row["validation_score"])
    search.threshold = best["threshold"]
    logger.info(
        "--threshold %g: has the best of %d policies on %d validation questions; %.0f %% of the questions reach it",
        *(search.threshold, len(search.tried), len(validation), 100 * best["coverage"]),
    )
    return resume
