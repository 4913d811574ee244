"""Thresholded distillation, what people usually do instead of RL: keep the grader's confident labels, drop the rest."""

import copy
import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, set_seed

from eightball_ppo import objective
from eightball_ppo.configs import DistillConfig
from eightball_ppo.data import split_by_question
from eightball_ppo.errors import DryRun, InputError
from eightball_ppo.methods.fitting import fit
from eightball_ppo.methods.task import Task, finish, load_splits, load_task, outlook
from eightball_ppo.models.loading import table_logits_NK
from eightball_ppo.ranks import num_processes
from eightball_ppo.runs import Run, check_output_dir

THRESHOLDS = (0.0, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)  # tried on the validation questions

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


def train(config: DistillConfig) -> Path:
    """Distil the grader into the policy, write the run to `config.output_dir` and return it.

    Raises:
        DryRun: on a dry run, with what grading would cost.
        InputError: bad input as in `load_task`, or a threshold that no question reaches.
    """
    check_output_dir(config)
    config = with_preset(config)
    questions = load_splits(config)
    if config.dry_run:
        raise DryRun(outlook(config, questions))
    task = load_task(config, questions)
    with Run(config, "distill") as run:
        grader_logp_NK = task.grader_logp_NK["train"]
        rows = list(range(len(grader_logp_NK)))
        if config.preset == "original":
            order = torch.randperm(len(rows), generator=torch.Generator().manual_seed(config.seed))
            rows = order[:ORIGINAL_QUESTIONS].tolist()
        if config.threshold is None:
            threshold, tried = choose_threshold(task, grader_logp_NK, config, run)
        else:
            threshold, tried = config.threshold, []
        policy, kept = distil(task, grader_logp_NK, rows, threshold, config, run, "distill")
        extra = {
            "preset": config.preset,
            "threshold": threshold,
            "coverage": len(kept) / len(rows),
            "kept_questions": len(kept),
            "thresholds_tried": tried,
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


def distil(
    task: Task, grader_logp_NK: Tensor, rows: list[int], threshold: float, config: DistillConfig, run: Run, stage: str
) -> tuple[PreTrainedModel, list[int]]:
    """(a copy of the reference trained on the grader's best label of the kept rows, those rows)."""
    kept = kept_rows(grader_logp_NK, rows, threshold)
    if not kept:
        best = grader_logp_NK[rows].exp().max().item()
        raise InputError(
            f"--threshold {threshold}: no question reaches it, the grader's highest probability is {best:.3f}"
        )
    set_seed(config.seed)
    policy = copy.deepcopy(task.classifier)
    texts = [task.questions["train"].texts[row] for row in kept]
    wanted = grader_logp_NK[kept].argmax(-1).tolist()
    fit(policy, task.tokenizer, texts, wanted, config, run, stage, lambda: task.exact_metrics(policy))
    return policy, kept


def choose_threshold(
    task: Task, grader_logp_NK: Tensor, config: DistillConfig, run: Run
) -> tuple[float, list[dict[str, float]]]:
    """(threshold with the best expected score on validation questions, every one that was tried).

    The validation questions are a part of the training questions; for each threshold a policy is trained on the others.
    Ties go to the lower threshold, which keeps more questions.
    """
    texts = task.questions["train"].texts
    training, validation = split_by_question(task.questions["train"], config.validation_fraction, config.seed)
    position = {text: row for row, text in enumerate(texts)}
    train_rows, validation_rows = [position[t] for t in training.texts], [position[t] for t in validation.texts]
    graded = task.graded("train")
    tried: list[dict[str, float]] = []
    for threshold in THRESHOLDS:
        if not kept_rows(grader_logp_NK, train_rows, threshold):
            break
        policy, kept = distil(task, grader_logp_NK, train_rows, threshold, config, run, f"threshold {threshold}")
        logp_NK = table_logits_NK(policy, task.tokens["train"]).log_softmax(-1)[validation_rows]
        score = objective.expected_score_N(logp_NK, graded.score_NK[validation_rows]).mean().item()
        tried.append({"threshold": threshold, "coverage": len(kept) / len(train_rows), "validation_score": score})
    best = max(tried, key=lambda row: row["validation_score"])
    return best["threshold"], tried
