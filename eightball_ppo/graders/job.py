"""Grades all questions of a run before training: on the main process, through the store, within the budget."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from eightball_ppo.config.graded import GraderTrainingConfig, MethodConfig
from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.data import Questions
from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.graders.base import Grader
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.prompts import Prompt
from eightball_ppo.graders.registry import load_graders
from eightball_ppo.graders.storage.score_table import STATUSES, ScoreTable, missing_mass
from eightball_ppo.graders.storage.sources import GradeSource, LabelNoiseSource, StoredGrader
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.graders.storage.table import GradeTable
from eightball_ppo.graders.storage.texts import first_occurrence_N
from eightball_ppo.labels import LabelSet
from eightball_ppo.runtime.distributed import broadcast_from_main

logger = logging.getLogger(__name__)

WEAK_GRADER_ACCURACY = 0.6


@dataclass(frozen=True)
class GradingResult:
    """The scores of both splits, the grader's fingerprint, and `record`, what grading cost, for results.json.

    `tables`: the grader's scores by split ("train", "heldout"), which results are measured with. `training`: the scores
    that training observes: those of "train", with `--label_noise` applied.
    """

    tables: dict[str, ScoreTable]
    training: ScoreTable
    fingerprint: str
    record: dict[str, Any]


def store_path(config: GraderConfig) -> Path:
    """The grade store of a stage."""
    return Path(config.grade_store)


def resume_hint(config: GraderConfig) -> str:
    """What becomes of the grades of a run that stops, and how to go on, for the end of its message."""
    if config.grade_table is not None:
        return "grade what is missing (scripts/grade.py), or allow more with --max_grade_failures"
    return f"every good grade is kept in {config.grade_store}; run the same command again to ask for what is missing"


def make_budget(config: GraderConfig) -> Budget:
    """What a stage may spend on its grader."""
    return Budget(config.max_grader_calls, config.max_cost, config.price_per_1k_tokens, config.grading_timeout)


def cost_record(config: GraderConfig, budget: Budget) -> dict[str, Any]:
    """What a run's calls took, for its results."""
    cost = budget.cost if config.price_per_1k_tokens is not None else None
    return {"calls_made": budget.calls, "tokens": budget.tokens, "cost": cost}


def make_source(
    config: GraderConfig, labels: LabelSet, store: GradeStore, budget: Budget, judge: Grader | None = None
) -> GradeSource:
    """The grade table that is named, or the grader behind the store: `judge`, or the one that is named."""
    if judge is not None:
        labels.require_same(judge.labels, "--labels", f"grader {judge.fingerprint}")
        return StoredGrader(judge, store, budget, config.max_grade_failures, not config.disable_tqdm)
    if config.grade_table is not None:
        return GradeTable(config.grade_table, labels)
    return load_graders(config, labels, store, budget)


def check_grades(config: GraderConfig, labels: LabelSet, texts: Sequence[str], judge: Grader | None = None) -> None:
    """What can be said against the grade table or the grade store before anything is trained or asked.

    Raises:
        InputError: a table that is none or lacks a question, or a file that is no store.
    """
    if judge is None and config.grade_table is not None:
        GradeTable(config.grade_table, labels).grade_missing(texts)
    else:
        GradeStore(store_path(config)).close()


def estimate_cost(config: GraderConfig, labels: LabelSet, texts: Sequence[str], judge: Grader | None = None) -> str:
    """What grading `texts` would take, in words; asks no grader."""
    unique = int(first_occurrence_N(texts).sum())
    if judge is None and config.grade_table is not None:
        return f"{unique} questions, all grades from {config.grade_table}: 0 calls"
    judge_name = f"--grader {config.grader}" if judge is None else f"grader {judge.fingerprint}"
    with GradeStore(store_path(config)) as store:
        source = make_source(config, labels, store, make_budget(config), judge)
        calls, tokens = source.estimate_cost(texts)
    cost = (
        "" if config.price_per_1k_tokens is None else f", cost about {tokens / 1000 * config.price_per_1k_tokens:.4g}"
    )
    return (
        f"{unique} questions for {judge_name}: {calls} calls to make (the rest is in "
        f"{config.grade_store}), about {tokens} tokens{cost}"
    )


def grade_job(
    config: MethodConfig, labels: LabelSet, questions: Mapping[str, Questions], judge: Grader | None = None
) -> GradingResult:
    """Scores of both splits, on every process; each question is asked once in the whole run, by the main process.

    `judge` makes them, or else the grader or table that `config` names. The held-out questions come first, so that a
    grader that is too weak is found out before the rest is paid for.

    Raises:
        InputError: a bad grader or table, or a grader that is too weak or failed its audit.
        IncompleteError: too many grades failed.
    """
    return broadcast_from_main(lambda: _grade_job(config, labels, questions, judge), config.ddp_timeout)


def _grade_job(
    config: MethodConfig, labels: LabelSet, questions: Mapping[str, Questions], judge: Grader | None
) -> GradingResult:
    budget = make_budget(config)
    with GradeStore(store_path(config)) as store:
        source = make_source(config, labels, store, budget, judge)
        if not source.deliberate:
            _check_audits(config, store.audits_of(source.fingerprints))
        tables: dict[str, ScoreTable] = {}
        for split in ("heldout", "train"):
            tables[split] = source.fill(questions[split].texts)
            if split == "heldout" and not source.deliberate:
                _check_accuracy(config, tables[split], questions[split])
        record, training = _record(config, source, tables, budget), tables["train"]
        if config.label_noise:
            training = LabelNoiseSource(source, config.label_noise, config.seed).read(questions["train"].texts)
    return GradingResult(tables, training, source.fingerprint, record)


def _record(
    config: GraderTrainingConfig, source: GradeSource, tables: Mapping[str, ScoreTable], budget: Budget
) -> dict[str, Any]:
    """What grading a run cost, in numbers, for results.json.

    Raises:
        IncompleteError: too many grades failed, or a split has no whole one.
    """
    count: Counter[str] = sum((table.count for table in tables.values()), Counter())
    check_failures(config, count, [detail for table in tables.values() for detail in table.details], budget)
    for split, table in tables.items():
        if not table.whole_N.any():
            raise IncompleteError(
                f"grader {config.grader}: no {split} question is fully graded ({budget.stopped}); {resume_hint(config)}"
            )
    dropped = {split: int((~table.whole_N).sum()) for split, table in tables.items()}
    if any(dropped.values()):
        logger.warning(
            "grader %s: %d training and %d held-out questions have no whole grade and are left out%s",
            *(config.grader, dropped["train"], dropped["heldout"]),
            f" ({budget.stopped})" if budget.stopped else "",
        )
    return {
        **{status: count[status] for status in STATUSES},
        "failure_rate": failure_rate(count),
        "missing_mass": missing_mass(tables.values()),
        "dropped_questions": dropped,
        "calls": sum(table.calls for table in tables.values()),
        **cost_record(config, budget),
        "stopped": budget.stopped,
        "grader_settings": source.settings,
        "prompt": _prompt(config, source),
    }


def _prompt(config: GraderTrainingConfig, source: GradeSource) -> str | None:
    """The text of the prompt that a judge was given; None for graders that read none."""
    if "prompt_sha256" not in json.dumps(source.settings):
        return None
    return Prompt.load(config.grader_prompt, config.label_set()).source


def failure_rate(count: Counter[str]) -> float:
    """Share of the pairs that were asked whose grade failed or was refused."""
    asked = count.total() - count["skipped"]
    return (count["failed"] + count["refused"]) / asked if asked else 0.0


def check_failures(config: GraderConfig, count: Counter[str], details: Sequence[str], budget: Budget) -> None:
    """Raises IncompleteError if more grades failed than is allowed, or if there is none; what is good is kept.

    `count`: (question, label) pairs by status; `details`: some of what went wrong.
    """
    rate, asked = failure_rate(count), count.total() - count["skipped"]
    example = f", e.g. {details[0]}" if details else ""
    if rate > config.max_grade_failures:
        raise IncompleteError(
            f"grader {config.grader}: {rate:.1%} of {asked} grades failed ({count['failed']} failed, "
            f"{count['refused']} refused{example}), above --max_grade_failures {config.max_grade_failures}; "
            f"{resume_hint(config)}"
        )
    if budget.broken:
        raise IncompleteError(f"grader {config.grader}: {budget.stopped}; {resume_hint(config)}")
    if not count["ok"]:
        why = f" ({budget.stopped})" if budget.stopped else example
        raise IncompleteError(f"grader {config.grader}: no grade was made{why}; {resume_hint(config)}")


def _check_audits(config: GraderTrainingConfig, audits: list[dict[str, Any]]) -> None:
    """Raises InputError if a grader failed its last audit, unless that is allowed."""
    for audit in audits:
        if not audit["failed_checks"]:
            continue
        message = f"grader {config.grader}: failed its audit ({'; '.join(audit['failed_checks'])})"
        if not config.allow_weak_grader:
            raise InputError(f"{message}; see {audit['report']}, use another or pass --allow_weak_grader")
        logger.warning("%s (allowed by --allow_weak_grader)", message)


def _check_accuracy(config: GraderTrainingConfig, scores: ScoreTable, heldout: Questions) -> None:
    """Raises InputError if the accuracy on the held-out wishes is not above 0.6, unless that is allowed."""
    whole_N = torch.from_numpy(scores.whole_N)
    if not whole_N.any():
        return  # `check_failures` says so
    gold_N = torch.as_tensor(heldout.label_ids)[whole_N]
    accuracy = (scores.logp_NK[whole_N].argmax(-1) == gold_N).float().mean().item()
    if accuracy <= WEAK_GRADER_ACCURACY:
        message = (
            f"grader {config.grader}: held-out accuracy {accuracy:.3f} is not above {WEAK_GRADER_ACCURACY}; "
            "it would teach its mistakes"
        )
        if not config.allow_weak_grader:
            raise InputError(f"{message}; train a better one or pass --allow_weak_grader")
        logger.warning("%s (allowed by --allow_weak_grader)", message)
