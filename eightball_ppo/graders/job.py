"""Grades the questions of a run before training: on the main process, through the store, within the budget."""

import json
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from eightball_ppo.config.graded import GraderTrainingConfig, MethodConfig
from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.data import Questions
from eightball_ppo.data.texts import first_occurrence_N
from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.graders.base import Grader
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.function import kind_of
from eightball_ppo.graders.judges import EnsembleGrader
from eightball_ppo.graders.prompts import Prompt
from eightball_ppo.graders.python_source import load_function
from eightball_ppo.graders.registry import load_graders, parse_grader
from eightball_ppo.graders.reward_functions import Columns, columns_by_text
from eightball_ppo.graders.storage.derived import EnsembleSource, LabelNoiseSource, reorder
from eightball_ppo.graders.storage.score_table import STATUSES, ScoreTable, missing_mass
from eightball_ppo.graders.storage.sources import GradeSource, StoredGrader
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.graders.storage.table import GradeTable
from eightball_ppo.labels import LabelSet
from eightball_ppo.runtime.distributed import broadcast_from_main

logger = logging.getLogger(__name__)

WEAK_GRADER_ACCURACY = 0.6


@dataclass(frozen=True)
class GradingResult:
    """The scores of a run.

    Attributes:
        tables: The grader's scores by split ("train", "heldout"); results are measured with these.
        training: The scores of "train" that training observes, with `--label_noise` of whole questions applied.
        sums_to_one: Whether the probabilities of a question sum to one, so that a label's says something of the others.
        fingerprint: The grader's.
        record: What grading cost and how it went, for results.json.
    """

    tables: dict[str, ScoreTable]
    training: ScoreTable
    sums_to_one: bool
    fingerprint: str
    record: dict[str, Any]


def incomplete(config: GraderConfig, reason: str) -> IncompleteError:
    """The error of an incomplete grading: the grader, the reason, and how to continue."""
    fix = f"good grades are stored in {config.grade_store}; run the same command again to grade the rest"
    if config.grade_table is not None:
        fix = "grade what is missing (eightball grade), or allow more with --max_grade_failures"
    return IncompleteError(f"grader {config.grader}: {reason}; {fix}")


def make_budget(config: GraderConfig) -> Budget:
    """The budget of a stage's grader options."""
    return Budget(config.max_grader_calls, config.max_cost, config.price_per_1k_tokens, config.grading_timeout)


def cost_record(config: GraderConfig, budget: Budget) -> dict[str, Any]:
    """Calls, tokens and cost of a run, for results.json."""
    cost = budget.cost if config.price_per_1k_tokens is not None else None
    return {"calls_made": budget.calls, "tokens": budget.tokens, "cost": cost}


def make_source(
    config: GraderConfig,
    labels: LabelSet,
    store: GradeStore,
    budget: Budget,
    judge: Grader | None = None,
    columns: Columns | None = None,
) -> GradeSource:
    """The source of scores: `judge` behind the store if given, else `--grade_table`, else `--grader`.

    Its labels are in the order of `labels`, whatever that of the judge or of the table is.
    """
    if judge is not None:
        labels.require_same(judge.labels, "--labels", f"grader {judge.fingerprint}")
        options = (store, budget, config.max_grade_failures, not config.disable_tqdm)
        source: GradeSource
        if isinstance(judge, EnsembleGrader):
            members = [StoredGrader(member, *options) for member in judge.members]
            source = EnsembleSource(members, judge.weights)
        else:
            source = StoredGrader(judge, *options)
        return reorder(source, labels)
    if config.grade_table is not None:
        return reorder(GradeTable(config.grade_table, labels), labels)
    return load_graders(config, labels, store, budget, columns)


def gives_raw_scores(config: GraderConfig, labels: LabelSet, judge: Grader | None = None) -> bool:
    """Whether the scores will be in a judge's own unit; loads no model and makes no grader call."""
    if judge is not None:
        return judge.scale == "raw"
    if config.grade_table is not None:
        return GradeTable(config.grade_table, labels).scale == "raw"
    specs = parse_grader(config.grader)
    return all(spec.name == "python" and kind_of(load_function(spec.argument)) != "labeller" for spec in specs)


def check_grades(config: GraderConfig, labels: LabelSet, texts: Sequence[str], judge: Grader | None = None) -> None:
    """Checks the grade table or the grade store before anything is trained or graded.

    Raises:
        InputError: A bad table, a table that lacks a question, or a file that is not a grade store.
    """
    if judge is None and config.grade_table is not None:
        GradeTable(config.grade_table, labels).grade_missing(texts)
    else:
        GradeStore(config.grade_store).close()


def estimate_cost(
    config: GraderConfig,
    labels: LabelSet,
    texts: Sequence[str],
    judge: Grader | None = None,
    columns: Columns | None = None,
) -> str:
    """One line: the calls, tokens and cost of grading `texts`. Makes no grader call."""
    unique = int(first_occurrence_N(texts).sum())
    if judge is None and config.grade_table is not None:
        return f"{unique} questions, all grades from {config.grade_table}: 0 calls"
    name = f"--grader {config.grader}" if judge is None else f"grader {judge.fingerprint}"
    with GradeStore(config.grade_store) as store:
        source = make_source(config, labels, store, make_budget(config), judge, columns)
        return describe_cost(config, source, texts, name)


def describe_cost(config: GraderConfig, source: GradeSource, texts: Sequence[str], name: str) -> str:
    """One line: what grading `texts` with `source`, called `name`, would take. Makes no grader call."""
    unique = int(first_occurrence_N(texts).sum())
    calls, tokens = source.estimate_cost(texts)
    rest = f" (the rest is in {config.grade_store})" if calls < source.num_requests(unique) else ""
    price = config.price_per_1k_tokens
    cost = "" if price is None else f", cost about {tokens / 1000 * price:.4g}"
    return f"{unique} questions for {name}: {calls} calls to make{rest}, about {tokens} tokens{cost}"


def grade_job(
    config: MethodConfig, labels: LabelSet, questions: Mapping[str, Questions], judge: Grader | None = None
) -> GradingResult:
    """Scores both splits on the main process, each question once, and broadcasts the scores.

    The held-out split comes first, so that a weak grader is found out before the rest is paid for.

    Args:
        config: The options of the method.
        labels: The K labels.
        questions: The splits "train" and "heldout".
        judge: Takes the place of the grader or table that `config` names.

    Raises:
        InputError: A bad grader or table, or a grader that is too weak or failed its audit.
        IncompleteError: Too many grades failed.
    """
    return broadcast_from_main(lambda: _grade_job(config, labels, questions, judge), config.ddp_timeout)


def _grade_job(
    config: MethodConfig, labels: LabelSet, questions: Mapping[str, Questions], judge: Grader | None
) -> GradingResult:
    budget = make_budget(config)
    with GradeStore(config.grade_store) as store:
        source = make_source(config, labels, store, budget, judge, columns_by_text(*questions.values()))
        if not source.deliberate:
            _check_audits(config, [store.audit_of(fingerprint) for fingerprint in source.fingerprints])
        tables = {"heldout": source.fill(questions["heldout"].texts)}
        if not source.deliberate:
            _check_accuracy(config, tables["heldout"], questions["heldout"])
        training = tables["train"] = source.fill(questions["train"].texts)
        record = _record(config, source, tables, budget)
        if config.noise.rate and config.noise.kind == "row":
            noisy = reorder(LabelNoiseSource(source, config.noise.rate, config.seed), labels)
            training = noisy.read(questions["train"].texts)
        sums_to_one = source.scale == "log_prob" and not source.rated
    return GradingResult(tables, training, sums_to_one, source.fingerprint, record)


def _record(
    config: GraderTrainingConfig, source: GradeSource, tables: Mapping[str, ScoreTable], budget: Budget
) -> dict[str, Any]:
    """What grading a run cost and how it went, for results.json.

    Raises:
        IncompleteError: Too many grades failed, or a split has no complete question.
    """
    count: Counter[str] = sum((table.count for table in tables.values()), Counter())
    check_failures(config, count, [detail for table in tables.values() for detail in table.details], budget)
    for split, table in tables.items():
        if not table.complete_N.any():
            raise incomplete(config, f"not one {split} question is fully graded ({budget.stopped})")
    dropped = {split: int((~table.complete_N).sum()) for split, table in tables.items()}
    if any(dropped.values()):
        logger.warning(
            "grader %s: %d training and %d held-out questions are not fully graded and are left out%s",
            *(config.grader, dropped["train"], dropped["heldout"]),
            f" ({budget.stopped})" if budget.stopped else "",
        )
    has_prompt = "prompt_sha256" in json.dumps(source.settings)
    return {
        **{status: count[status] for status in STATUSES},
        "failure_rate": failure_rate(count),
        "missing_mass": missing_mass(tables.values()),
        "dropped_questions": dropped,
        "calls": sum(table.calls for table in tables.values()),
        **cost_record(config, budget),
        "stopped": budget.stopped,
        "grader_settings": source.settings,
        "prompt": Prompt.of(config, config.label_set()).source if has_prompt else None,
    }


def failure_rate(count: Counter[str]) -> float:
    """Share of the requested (question, label) grades that failed or were refused."""
    requested = count.total() - count["skipped"]
    return (count["failed"] + count["refused"]) / requested if requested else 0.0


def check_failures(config: GraderConfig, count: Counter[str], details: Sequence[str], budget: Budget) -> None:
    """Checks that enough grades are good.

    Args:
        config: The grader options.
        count: (question, label) grades by status.
        details: Some of the failures.
        budget: Knows why grading stopped.

    Raises:
        IncompleteError: More grades failed than allowed, the grader broke, or there is no grade at all.
    """
    rate, requested = failure_rate(count), count.total() - count["skipped"]
    example = f", e.g. {details[0]}" if details else ""
    if rate > config.max_grade_failures:
        failures = f"{rate:.1%} of {requested} grades failed ({count['failed']} failed, {count['refused']} refused"
        raise incomplete(config, f"{failures}{example}), above --max_grade_failures {config.max_grade_failures}")
    if budget.broken:
        raise incomplete(config, f"{budget.stopped}")
    if not count["ok"]:
        raise incomplete(config, f"no grade was made{f' ({budget.stopped})' if budget.stopped else example}")


def _check_audits(config: GraderTrainingConfig, audits: Sequence[dict[str, Any] | None]) -> None:
    """Raises InputError if a grader failed its last audit, unless that is allowed."""
    for audit in audits:
        if audit and (failed := audit["failed_checks"]):
            _reject(config, f"failed its audit ({'; '.join(failed)})", f"see {audit['report']}, use another")


def _check_accuracy(config: GraderTrainingConfig, scores: ScoreTable, heldout: Questions) -> None:
    """Raises InputError if the accuracy on gold labels is not above 0.6, unless that is allowed.

    Labels that are not gold cannot blame the grader: a low agreement with them is a warning.
    """
    complete_N = torch.from_numpy(scores.complete_N)
    if not complete_N.any():
        return  # `_record` raises
    if heldout.label_ids is None:
        logger.info("grader %s: the held-out questions have no gold labels, so its accuracy is unknown", config.grader)
        return
    label_N = torch.as_tensor(heldout.label_ids)[complete_N]
    accuracy = (scores.score_NK[complete_N].argmax(-1) == label_N).float().mean().item()
    if accuracy <= WEAK_GRADER_ACCURACY and not heldout.gold:
        logger.warning(
            "grader %s: agrees with %.3f of the held-out labels of %s, which are not gold; --gold_file measures it",
            *(config.grader, accuracy, heldout.source),
        )
    elif accuracy <= WEAK_GRADER_ACCURACY:
        problem = f"held-out accuracy {accuracy:.3f} is not above {WEAK_GRADER_ACCURACY}; it would teach its mistakes"
        _reject(config, problem, "train a better one")


def _reject(config: GraderTrainingConfig, problem: str, fix: str) -> None:
    """Raises InputError about a weak grader; logs a warning with `--allow_weak_grader`."""
    message = f"grader {config.grader}: {problem}"
    if not config.allow_weak_grader:
        raise InputError(f"{message}; {fix} or pass --allow_weak_grader")
    logger.warning("%s (allowed by --allow_weak_grader)", message)
