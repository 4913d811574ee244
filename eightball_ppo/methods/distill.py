"""Distillation: cross-entropy to what a grader says. Hard targets with a threshold are what people do instead of RL."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from accelerate import PartialState
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from eightball_ppo.config.methods import DistillConfig
from eightball_ppo.data import split_by_question
from eightball_ppo.errors import DryRun, InputError
from eightball_ppo.functional import objective
from eightball_ppo.methods.prerequisites import outlook
from eightball_ppo.methods.resume_task import keeping_task
from eightball_ppo.methods.task import Task, finish, load_splits, load_task
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.models.loading import table_logits_NK
from eightball_ppo.models.trainable import check_rates, trainable_copy
from eightball_ppo.runtime.distributed import num_processes
from eightball_ppo.runtime.run import Run, check_output_dir
from eightball_ppo.runtime.signals import finishing
from eightball_ppo.training.resume import Keeping, resumption
from eightball_ppo.training.supervised import fit, nothing

THRESHOLDS = (0.0, 0.5, 0.7, 0.9, 0.99)  # tried on the validation questions

METHODS = {"hard": "distill", "soft": "distill_soft", "boltzmann": "distill_boltzmann"}

# The original experiment: one question a step, 100 steps, AdamW 2e-5, skip where the grader's best is below 0.4.
ORIGINAL_QUESTIONS = 100
ORIGINAL: dict[str, Any] = {
    "threshold": 0.4,
    "learning_rate": 2e-5,
    "lr_scheduler_type": "constant",
    "weight_decay": 0.01,
    "num_train_epochs": 1,
    "per_device_train_batch_size": 1,
}


@dataclasses.dataclass
class Search:
    """The threshold, once it is known, what was tried for it, and by how many updates; a part of the training's state,
    so that nothing is tried twice."""

    threshold: float | None
    tried: list[dict[str, float]] = dataclasses.field(default_factory=list)
    updates: int = 0

    def state(self) -> dict[str, Any]:
        return dataclasses.asdict(self)

    def restore(self, state: dict[str, Any]) -> None:
        self.threshold, self.tried, self.updates = state["threshold"], state["tried"], state["updates"]


def train(config: DistillConfig) -> Path:
    """Distil the grader into the policy, write the run to `config.output_dir` and return it.

    Raises:
        DryRun: on a dry run, with what grading would cost.
        InputError: bad input as in `load_task`, a threshold that no question reaches, or a budget below one question.
    """
    check_output_dir(config)
    config = with_labels(config)
    config = with_preset(config)
    questions = load_splits(config)
    if config.dry_run:
        raise DryRun(outlook(config, questions))
    resumed = resumption(config, METHODS[config.target])
    task = load_task(config, questions)
    check_rates(task.classifier, config, learning_rate=config.learning_rate)
    keeping = keeping_task(task, resumed)
    with Run(config, METHODS[config.target], keeping.progress) as run:
        rows = task.lessons.whole_rows()
        if config.preset == "original":
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))
            rows = [rows[i] for i in order[:ORIGINAL_QUESTIONS].tolist()]
        search = Search(config.threshold)
        if resumed is not None:
            resumed.restore({"search": search})
        keeping = dataclasses.replace(keeping, parts={**keeping.parts, "search": search}, before=search.updates)
        with finishing():
            if config.target == "hard" and search.threshold is None:
                keeping = choose_threshold(search, task, rows, config, run, keeping)
            kept = kept_rows(task.lessons_logp_NK, rows, search.threshold or 0.0)
            if not kept:
                best = task.lessons_logp_NK[rows].exp().max().item()
                raise InputError(
                    f"--threshold {search.threshold}: no question reaches it, the grader's highest probability is "
                    f"{best:.3f}"
                )
            policy, _ = distil(task, kept, config, run, run.method, keeping)
        run.tried_only = search.updates
        extra = {
            "target": config.target,
            "preset": config.preset,
            "threshold": search.threshold,
            "coverage": len(kept) / len(rows),
            "kept_questions": len(kept),
            "thresholds_tried": search.tried,
        }
        return finish(task, policy, run, episodes=0, extra=extra)


def with_preset(config: DistillConfig) -> DistillConfig:
    """`config` with the numbers of its preset.

    Raises:
        InputError: a flag that the preset fixes was given another value.
    """
    if config.preset != "original":
        return config
    if num_processes() > 1:
        raise InputError("--preset original: takes one question a step, so one process; launch it with one")
    defaults = DistillConfig()
    for name, value in ORIGINAL.items():
        if getattr(config, name) not in (getattr(defaults, name), value):
            raise InputError(
                f"--{name} {getattr(config, name)}: --preset original fixes it at {value}; drop one of the two"
            )
    return dataclasses.replace(config, **ORIGINAL)


def kept_rows(grader_logp_NK: Tensor, rows: list[int], threshold: float) -> list[int]:
    """Those of `rows` whose most probable label has at least probability `threshold` for the grader."""
    confidence_N = grader_logp_NK.exp().max(-1).values
    return [row for row in rows if confidence_N[row] >= threshold]


def targets_NK(task: Task, config: DistillConfig) -> Tensor:
    """The distributions that are distilled, of all training questions: one-hot, the grader's, or the optimum's."""
    logp_NK = task.lessons_logp_NK
    if config.target == "hard":
        return torch.nn.functional.one_hot(logp_NK.argmax(-1), logp_NK.shape[1]).float()
    if config.target == "soft":
        return logp_NK.exp()
    ref_logp_NK = task.ref_logits_NK["train"].log_softmax(-1)
    return objective.optimum_logp_NK(ref_logp_NK, task.lessons.score_NK, config.kl_coef).exp()


class TargetLoss:
    """Cross-entropy to rows of a table of distributions, which moves to `device`, that of the logits, once."""

    def __init__(self, target_NK: Tensor, device: torch.device):
        self.target_NK = target_NK.to(device)

    def __call__(self, logits_BK: Tensor, rows_B: Tensor) -> Tensor:
        return torch.nn.functional.cross_entropy(logits_BK, self.target_NK[rows_B])


def distil(
    task: Task, kept: list[int], config: DistillConfig, run: Run, stage: str, keeping: Keeping
) -> tuple[PreTrainedModel, int]:
    """(a copy of the reference trained on the targets of the `kept` rows, by how many updates), logged as `stage`."""
    set_seed(config.seed)
    policy = trainable_copy(task.classifier, config)
    texts = [task.questions["train"].texts[row] for row in kept]
    loss = TargetLoss(targets_NK(task, config), PartialState().device)
    measure = (lambda: task.exact_metrics(policy)) if stage == run.method else nothing
    updates = fit(policy, task.tokenizer, texts, kept, config, run, stage, measure, loss, keeping=keeping)
    return policy, updates


def choose_threshold(
    search: Search, task: Task, rows: list[int], config: DistillConfig, run: Run, keeping: Keeping
) -> Keeping:
    """Find the threshold with the best expected score on validation questions. Returns the keeping of what comes next.

    The validation questions are a part of `rows`; for each threshold a policy is trained on the others, once for
    thresholds that keep the same questions. Ties go to the lower threshold, which keeps more. `search` may have tried
    some already; `keeping` then goes on in the midst of the next.
    """
    texts = task.questions["train"].texts
    training, validation = split_by_question(
        task.questions["train"].subset(rows), config.validation_fraction, config.seed
    )
    position = {text: row for row, text in enumerate(texts)}
    train_rows, validation_rows = [position[t] for t in training.texts], [position[t] for t in validation.texts]
    score_NK = task.lessons.score_NK[validation_rows]
    kept_before: list[int] = []
    if search.tried:
        kept_before = kept_rows(task.lessons_logp_NK, train_rows, search.tried[-1]["threshold"])
    for threshold in THRESHOLDS[len(search.tried) :]:
        kept = kept_rows(task.lessons_logp_NK, train_rows, threshold)
        if not kept:
            break
        if kept == kept_before:
            score = search.tried[-1]["validation_score"]
        else:
            policy, updates = distil(task, kept, config, run, f"threshold {threshold}", keeping)
            logp_NK = table_logits_NK(policy, task.tokens["train"]).log_softmax(-1)[validation_rows]
            score = objective.expected_score_N(logp_NK, score_NK).mean().item()
            search.updates += updates
            keeping = dataclasses.replace(keeping, resumed=None, before=search.updates)
        kept_before = kept
        coverage = len(kept) / len(train_rows)
        search.tried.append({"threshold": threshold, "coverage": coverage, "validation_score": score})
    search.threshold = max(search.tried, key=lambda row: row["validation_score"])["threshold"]
    return keeping
