"""Distillation: cross-entropy to what a grader says. Hard targets with a threshold are what people do instead of RL."""

import dataclasses
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from eightball_ppo.config.methods import DistillConfig
from eightball_ppo.data import split_by_question
from eightball_ppo.errors import InputError
from eightball_ppo.functional import objective
from eightball_ppo.methods.task import Task
from eightball_ppo.models.loading import predict_logits_NK
from eightball_ppo.models.trainable import trainable_copy
from eightball_ppo.runtime.distributed import num_processes
from eightball_ppo.runtime.run import Run
from eightball_ppo.runtime.signals import defer_signals
from eightball_ppo.training.resume import ResumeContext
from eightball_ppo.training.supervised import no_metrics, train_classifier

THRESHOLDS = (0.0, 0.5, 0.7, 0.9, 0.99)  # tried on the validation questions

ORIGINAL_QUESTIONS = 100  # of the original experiment, one a step


@dataclasses.dataclass
class ThresholdSearch:
    """The threshold, once it is known, what was tried for it, and by how many updates; kept in checkpoints, so that
    nothing is tried twice."""

    threshold: float | None
    tried: list[dict[str, float]] = dataclasses.field(default_factory=list)
    updates: int = 0

    def state_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        vars(self).update(state)


def check(config: DistillConfig, num_questions: int) -> None:
    """Raises InputError if several processes were to follow the original recipe."""
    if config.preset == "original" and num_processes() > 1:
        raise InputError("--preset original: takes one question a step, so one process; launch it with one")


def fit(task: Task[DistillConfig], run: Run) -> PreTrainedModel:
    """The policy that the grader was distilled into.

    Raises:
        InputError: a threshold that no question reaches, or a budget below one question.
    """
    config = task.config
    rows = task.train_scores.buy_full_rows()
    if config.preset == "original":
        order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))
        rows = [rows[i] for i in order[:ORIGINAL_QUESTIONS].tolist()]
    search = ThresholdSearch(config.threshold)
    task.resume.load([("search", search)])
    resume = dataclasses.replace(task.resume.with_states(("search", search)), updates_before=search.updates)
    with defer_signals():
        if config.target == "hard" and search.threshold is None:
            resume = choose_threshold(search, task, rows, run, resume)
        kept = kept_rows(task.noisy_logp_NK, rows, search.threshold or 0.0)
        if not kept:
            best = task.noisy_logp_NK[rows].exp().max().item()
            raise InputError(
                f"--threshold {search.threshold}: no question reaches it, the grader's highest probability is "
                f"{best:.3f}"
            )
        policy, _ = train_on_targets(task, kept, run, run.method, resume)
    run.tried_only = search.updates
    run.results |= {
        "target": config.target,
        "preset": config.preset,
        "threshold": search.threshold,
        "coverage": len(kept) / len(rows),
        "kept_questions": len(kept),
        "thresholds_tried": search.tried,
    }
    return policy


def kept_rows(grader_logp_NK: Tensor, rows: list[int], threshold: float) -> list[int]:
    """Those of `rows` whose most probable label has at least probability `threshold` for the grader."""
    confidence_N = grader_logp_NK.exp().max(-1).values
    return [row for row in rows if confidence_N[row] >= threshold]


def targets_NK(task: Task[DistillConfig]) -> Tensor:
    """The distributions that are distilled, of all training questions: one-hot, the grader's, or the optimum's."""
    config = task.config
    logp_NK = task.noisy_logp_NK
    if config.target == "hard":
        return torch.nn.functional.one_hot(logp_NK.argmax(-1), logp_NK.shape[1]).float()
    if config.target == "soft":
        return logp_NK.exp()
    ref_logp_NK = task.ref_logits_NK["train"].log_softmax(-1)
    return objective.optimum_logp_NK(ref_logp_NK, task.train_scores.score_NK, config.kl_coef).exp()


class TargetLoss:
    """Cross-entropy to rows of a table of distributions, which moves to `device`, that of the logits, once."""

    def __init__(self, target_NK: Tensor, device: torch.device):
        self.target_NK = target_NK.to(device)

    def __call__(self, logits_BK: Tensor, rows_B: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits_BK, self.target_NK[rows_B])


def train_on_targets(
    task: Task[DistillConfig], kept: list[int], run: Run, stage: str, resume: ResumeContext
) -> tuple[PreTrainedModel, int]:
    """(a copy of the reference trained on the targets of the `kept` rows, by how many updates), logged as `stage`."""
    config = task.config
    set_seed(config.seed)
    policy = trainable_copy(task.classifier, config)
    texts = [task.questions["train"].texts[row] for row in kept]
    loss = TargetLoss(targets_NK(task), PartialState().device)
    measure = (lambda: task.exact_metrics(policy)) if stage == run.method else no_metrics
    own = (texts, kept, config, run, stage, measure, loss)
    updates = train_classifier(policy, task.tokenizer, *own, resume=resume, callbacks=task.callbacks)
    return policy, updates


def choose_threshold(
    search: ThresholdSearch, task: Task[DistillConfig], rows: list[int], run: Run, resume: ResumeContext
) -> ResumeContext:
    """Find the threshold with the best expected score on validation questions; returns the context of what comes next.

    The validation questions are a part of `rows`; for each threshold a policy is trained on the others, once for
    thresholds that keep the same questions. Ties go to the lower threshold, which keeps more. `search` may have tried
    some already; `resume` then resumes in the midst of the next.
    """
    texts = task.questions["train"].texts
    training, validation = split_by_question(
        task.questions["train"].subset(rows), task.config.validation_fraction, task.config.seed
    )
    position = {text: row for row, text in enumerate(texts)}
    train_rows, validation_rows = [position[t] for t in training.texts], [position[t] for t in validation.texts]
    score_NK = task.train_scores.score_NK[validation_rows]
    kept_before: list[int] = []
    if search.tried:
        kept_before = kept_rows(task.noisy_logp_NK, train_rows, search.tried[-1]["threshold"])
    for threshold in THRESHOLDS[len(search.tried) :]:
        kept = kept_rows(task.noisy_logp_NK, train_rows, threshold)
        if not kept:
            break
        if kept == kept_before:
            score = search.tried[-1]["validation_score"]
        else:
            policy, updates = train_on_targets(task, kept, run, f"threshold {threshold}", resume)
            logp_NK = predict_logits_NK(policy, task.tokens["train"]).log_softmax(-1)[validation_rows]
            score = objective.expected_score_N(logp_NK, score_NK).mean().item()
            search.updates += updates
            resume = dataclasses.replace(resume, point=None, updates_before=search.updates)
        kept_before = kept
        coverage = len(kept) / len(train_rows)
        search.tried.append({"threshold": threshold, "coverage": coverage, "validation_score": score})
    search.threshold = max(search.tried, key=lambda row: row["validation_score"])["threshold"]
    return resume
