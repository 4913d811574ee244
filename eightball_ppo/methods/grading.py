"""The grades of a job, made before anything is trained: by the main process, through the store, within the budget."""

import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eightball_ppo.configs import GradedConfig
from eightball_ppo.data import Questions
from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.grader_options import GraderConfig
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.registry import load_graders
from eightball_ppo.graders.sources import STATUSES, Grades, GradeSource
from eightball_ppo.graders.store import GradeStore
from eightball_ppo.graders.table import GradeTable
from eightball_ppo.labels import LabelSet
from eightball_ppo.ranks import from_main_process

logger = logging.getLogger(__name__)

WEAK_GRADER_ACCURACY = 0.6
STORE_NAME = "grades.sqlite3"


@dataclass(frozen=True)
class JobGrades:
    """Grades by split, who made them, and what they took: `calls` rest in the grades, `record` is for results.json."""

    grades: dict[str, Grades]
    fingerprint: str
    calls: int
    record: dict[str, Any]


def store_path(config: GraderConfig) -> Path:
    """The grade store of a stage: the one named, or one for all runs beside this one."""
    return Path(config.grade_store or Path(config.output_dir).absolute().parent / STORE_NAME)


def budget_of(config: GraderConfig) -> Budget:
    return Budget(config.max_grader_calls, config.max_cost, config.price_per_1k_tokens, config.grading_timeout)


def estimate(config: GraderConfig, labels: LabelSet, texts: list[str]) -> str:
    """What grading `texts` would take, in words; asks no grader."""
    unique = list(dict.fromkeys(texts))
    if config.grade_table is not None:
        return f"{len(unique)} questions, all grades from {config.grade_table}: 0 calls"
    with GradeStore(store_path(config)) as store:
        source = load_graders(config, labels, store, budget_of(config))
        calls, tokens = source.outlook(unique)
    cost = (
        "" if config.price_per_1k_tokens is None else f", cost about {tokens / 1000 * config.price_per_1k_tokens:.4g}"
    )
    return (
        f"{len(unique)} questions for --grader {config.grader}: {calls} calls to make (the rest is in "
        f"{store_path(config)}), about {tokens} tokens{cost}"
    )


def grade_job(config: GradedConfig, labels: LabelSet, questions: Mapping[str, Questions]) -> JobGrades:
    """Grades of both splits, on every process; each question is asked once in the whole job, by the main one.

    The held-out questions come first, so that a grader that is too weak is found out before the rest is paid for.

    Raises:
        InputError: a bad grader or table, or a grader that is too weak or failed its audit.
        IncompleteError: too many grades failed.
    """
    return from_main_process(lambda: _grade_job(config, labels, questions))


def _grade_job(config: GradedConfig, labels: LabelSet, questions: Mapping[str, Questions]) -> JobGrades:
    if config.grade_table is not None:
        table = GradeTable(config.grade_table, labels)
        return _collect(config, table, questions, budget_of(config), audit=None)
    with GradeStore(store_path(config)) as store:
        budget = budget_of(config)
        source = load_graders(config, labels, store, budget)
        return _collect(config, source, questions, budget, store.audit_of(source.fingerprint))


def _collect(
    config: GradedConfig,
    source: GradeSource,
    questions: Mapping[str, Questions],
    budget: Budget,
    audit: dict[str, Any] | None,
) -> JobGrades:
    if not source.deliberate:
        _check_audit(config, audit)
    grades: dict[str, Grades] = {}
    for split in ("heldout", "train"):
        source.fill(questions[split].texts)
        grades[split] = source.read(questions[split].texts)
        if split == "heldout" and not source.deliberate:
            _check_accuracy(config, grades[split], questions[split])
    count: Counter[str] = sum((own.count() for own in grades.values()), Counter())
    check_failures(config, count, [detail for own in grades.values() for detail in own.details], budget)
    for split, own in grades.items():
        if not own.whole_N.any():
            raise IncompleteError(
                f"grader {config.grader}: no {split} question has a whole grade ({budget.stopped}); every good grade "
                f"is kept in {store_path(config)}; run the same command again to ask for what is missing"
            )
    dropped = {split: int((~own.whole_N).sum()) for split, own in grades.items()}
    record = {
        **{status: count[status] for status in STATUSES},
        "failure_rate": failure_rate(count),
        "dropped_questions": dropped,
        "calls_made": budget.calls,
        "tokens": budget.tokens,
        "cost": budget.cost if config.price_per_1k_tokens is not None else None,
        "stopped": budget.stopped,
        "grader_settings": source.settings,
    }
    if any(dropped.values()):
        logger.warning(
            "grader %s: %d training and %d held-out questions have no whole grade and are left out%s",
            *(config.grader, dropped["train"], dropped["heldout"]),
            f" ({budget.stopped})" if budget.stopped else "",
        )
    return JobGrades(grades, source.fingerprint, sum(own.calls for own in grades.values()), record)


def failure_rate(count: Counter[str]) -> float:
    """Share of the pairs that were asked whose grade failed or was refused."""
    asked = count.total() - count["skipped"]
    return (count["failed"] + count["refused"]) / asked if asked else 0.0


def check_failures(config: GraderConfig, count: Counter[str], details: Sequence[str], budget: Budget) -> None:
    """Raises IncompleteError if more grades failed than is allowed, or if there is none; what is good is kept.

    `count`: (question, label) pairs by status; `details`: some of what went wrong.
    """
    rate, asked = failure_rate(count), count.total() - count["skipped"]
    where = "" if config.grade_table is not None else f"; every good grade is kept in {store_path(config)}"
    again = "run the same command again to ask for what is missing"
    example = f", e.g. {details[0]}" if details else ""
    if rate > config.max_grade_failures:
        raise IncompleteError(
            f"grader {config.grader}: {rate:.1%} of {asked} grades failed ({count['failed']} failed, "
            f"{count['refused']} refused{example}), above --max_grade_failures {config.max_grade_failures}{where}; "
            f"{again}"
        )
    if not count["ok"]:
        why = f" ({budget.stopped})" if budget.stopped else example
        raise IncompleteError(f"grader {config.grader}: no grade was made{why}{where}; {again}")


def _check_audit(config: GradedConfig, audit: dict[str, Any] | None) -> None:
    if audit is None or not audit["failed_checks"]:
        return
    message = f"grader {config.grader}: failed its audit ({'; '.join(audit['failed_checks'])})"
    if not config.allow_weak_grader:
        raise InputError(f"{message}; see {audit['report']}, use another or pass --allow_weak_grader")
    logger.warning("%s (allowed by --allow_weak_grader)", message)


def _check_accuracy(config: GradedConfig, grades: Grades, heldout: Questions) -> None:
    """Raises InputError if the accuracy on the held-out wishes is not above 0.6, unless that is allowed."""
    whole_N = torch.from_numpy(grades.whole_N)
    if not whole_N.any():
        return  # `check_failures` says so
    gold_N = torch.tensor(heldout.label_ids)[whole_N]
    accuracy = (grades.logp_NK[whole_N].argmax(-1) == gold_N).float().mean().item()
    if accuracy <= WEAK_GRADER_ACCURACY:
        message = (
            f"grader {config.grader}: held-out accuracy {accuracy:.3f} is not above {WEAK_GRADER_ACCURACY}; "
            "it would teach its mistakes"
        )
        if not config.allow_weak_grader:
            raise InputError(f"{message}; train a better one or pass --allow_weak_grader")
        logger.warning("%s (allowed by --allow_weak_grader)", message)
