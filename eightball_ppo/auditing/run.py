"""`eightball audit`: judges a grader by gold labels, by variants of questions and by injected demands.

Every text goes through the grade store, so that a repeated audit makes no calls, except for the repeats of a judge that
samples.
"""

import logging
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eightball_ppo.auditing import checks, measures, order_sensitivity
from eightball_ppo.auditing.order_sensitivity import base_graders, complete_grades
from eightball_ppo.auditing.page import render_audit
from eightball_ppo.auditing.plan import Plan, load_gold, make_plan, with_labels_of_gold
from eightball_ppo.auditing.probes import EMPTY
from eightball_ppo.config.fields import require
from eightball_ppo.config.stages import AuditConfig
from eightball_ppo.data import Questions
from eightball_ppo.data.pairs import display_text
from eightball_ppo.errors import DryRun, IncompleteError, InputError
from eightball_ppo.graders.base import Grader
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.job import cost_record, describe_cost, estimate_cost, incomplete, make_budget, make_source
from eightball_ppo.graders.judges import resolve_judge, reward_functions
from eightball_ppo.graders.registry import check_graders, load_graders, panels_of, parse_grader
from eightball_ppo.graders.storage.score_table import missing_mass
from eightball_ppo.graders.storage.sources import GradeSource
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.report import tables
from eightball_ppo.report.verdict import NOT_SAVED, next_sentence, print_verdict, saved_sentence
from eightball_ppo.runtime.atomic_io import write_json
from eightball_ppo.runtime.distributed import broadcast_from_main
from eightball_ppo.runtime.redaction import redacted
from eightball_ppo.runtime.run import Run, check_output_dir

logger = logging.getLogger(__name__)

REPORT = "audit.html"
MAX_REPEATED = 20  # questions that a judge that samples is asked again
MAX_MISTAKES = 10
_NOT_PRINTED = ("method", "seed", "grader", "deliberate", "failed_checks", "seconds", "verdict")


def run(config: AuditConfig, judge: Any = None, gold: Questions | None = None, temporary: bool = False) -> Path:
    """Audits the grader, writes the run with audit.json and audit.html, and records the verdict in the grade store.

    Args:
        config: The options of the audit.
        judge: Is audited instead of the grader of `config`: whatever `as_grader` takes.
        gold: The labelled questions, instead of those of `config`.
        temporary: Whether the caller will remove the run, so that the verdict must not name its directory.

    Returns:
        The directory of the run.

    Raises:
        DryRun: on a dry run, with the number of calls and their cost.
        InputError: bad gold questions, grader or output directory.
        IncompleteError: the budget is spent, or no gold question got a complete grade; the store has every grade.
    """
    check_output_dir(config)
    config = with_labels_of_gold(with_labels(config))
    labels = config.label_set()
    if config.grade_table is not None:
        raise InputError(f"--grade_table {config.grade_table}: an audit asks the grader itself; pass --grader alone")
    if judge is None:
        check_graders(config, labels)
        reason = "an audit words texts differently, and people rated them as they are"
        require(
            not panels_of(config.grader), f"--grader {config.grader}: {reason}; benchmarks/raters.py measures raters"
        )
    if gold is None:
        gold = load_gold(config, labels, bool(reward_functions(config.grader if judge is None else judge)))
    plan = make_plan(config, gold, labels)
    if judge is not None:
        config, judge = resolve_judge(config, judge, plan.columns)
    if config.dry_run:
        raise DryRun(_estimate_cost(config, labels, plan, judge))
    with Run(config, "audit") as audit_run:
        return audit_run.finish(
            broadcast_from_main(lambda: _audit(config, labels, plan, audit_run, judge, temporary), config.ddp_timeout)
        )


def _estimate_cost(config: AuditConfig, labels: LabelSet, plan: Plan, judge: Grader | None) -> str:
    lines = [estimate_cost(config, labels, [*plan.gold.texts, *plan.probes], judge, plan.columns)]
    if judge is not None:
        return lines[0]
    with GradeStore(config.grade_store) as store:
        for name, permuted in order_sensitivity.permuted_options(config, labels).items():
            source = load_graders(permuted, labels, store, make_budget(config), shown=permuted.label_set())
            cost = describe_cost(permuted, source, plan.sample, f"--grader {permuted.grader}")
            lines.append(f"options {name}: {cost}")
    if "api" in (spec.name for spec in parse_grader(config.grader)):
        times, questions = order_sensitivity.NUM_REPEATS, min(MAX_REPEATED, len(plan.sample))
        lines.append(f"and {times} times {questions} questions again, if the judge samples")
    return "\n".join(lines)


def _audit(
    config: AuditConfig, labels: LabelSet, plan: Plan, audit_run: Run, judge: Grader | None, temporary: bool
) -> dict[str, Any]:
    """Writes the record and the page, prints the verdict, and returns the results of the run."""
    budget = make_budget(config)
    with GradeStore(config.grade_store) as store:
        record = _measure(config, labels, plan, store, budget, judge)
        limits = dict(vars(config))
        if not plan.gold.gold:
            limits |= {"min_accuracy": 0.0, "min_kappa": -1.0}
        if all(settings.get("grader") == "python" for settings in record["settings"]):
            limits["max_injection_flips"] = 1.0  # a function reads words and obeys no demand
        record["checks"] = [] if record["deliberate"] else checks.checks(record, limits)
        record["failed_checks"] = [check["sentence"] for check in record["checks"] if not check["passed"]]
        record |= {**cost_record(config, budget), "seconds": audit_run.seconds}
        audited_as, record = record.pop("audited_as"), redacted(record)
        write_json(audit_run.path / "audit.json", record)
        (audit_run.path / REPORT).write_text(render_audit(record), encoding="utf-8")
        report = str(Path(config.output_dir) / REPORT)
        verdict = {"failed_checks": record["failed_checks"], "accuracy": record["accuracy"], "report": report}
        store.record_audit(audited_as, verdict)
    results = _results(record, config.seed)
    results["verdict"] = _verdict(config, record, judge is not None, temporary)
    printed = {name: value for name, value in results.items() if name not in _NOT_PRINTED}
    tables.print_record("audit", config.grader, printed)
    print_verdict(results["verdict"])
    return results


def _verdict(config: AuditConfig, record: dict[str, Any], in_python: bool, temporary: bool) -> list[str]:
    """The three sentences at the end of an audit; `in_python`: the grader is an object, which no command can name."""
    unnamed = config.dataset_name == AuditConfig.dataset_name and set(record["labels"]) != set(EIGHTBALL_LABELS)
    texts = ("--dataset_name", "YOUR_TEXTS") if unnamed else ()
    command = next_sentence("ppo", "--grader", config.grader, *texts, *config.flags())
    if in_python:
        command = "Next: train on it, e.g. PPOTrainer(model, judge, train_dataset=texts).train()"
    right = round(record["accuracy"] * record["graded"])
    return [
        f"{verdict_line(record)}: right on {right} of {record['graded']} gold texts",
        NOT_SAVED if temporary else saved_sentence(Path(config.output_dir) / REPORT),
        "Next: use another grader, or correct its prompt" if record["failed_checks"] else command,
    ]


def verdict_line(record: dict[str, Any]) -> str:
    """PASS, or FAIL with the failed checks; no verdict on a grader that ignores the gold labels by design."""
    if record["deliberate"]:
        return "no verdict: this grader is not meant to know the gold labels"
    return f"FAIL: {'; '.join(record['failed_checks'])}" if record["failed_checks"] else "PASS"


def _measure(
    config: AuditConfig, labels: LabelSet, plan: Plan, store: GradeStore, budget: Budget, judge: Grader | None
) -> dict[str, Any]:
    lenient = replace(config, max_grade_failures=1.0)  # the failure rate is a result of the audit
    source = make_source(lenient, labels, store, budget, judge, plan.columns)
    gold, answers = _measure_gold(config, plan, source, budget, labels)
    answers |= complete_grades(source.fill(plan.probes), plan.probes)
    _check_budget(config, budget)
    record = {
        "grader": config.grader,
        "fingerprint": source.fingerprint,
        "audited_as": source.audited_as,
        "deliberate": source.deliberate,
        "settings": [grader.settings for grader in base_graders(source)],
        "labels": list(labels.names),
        "gold": config.gold_file or plan.gold.source,
        **gold,
        "sampled": len(plan.sample),
        "stability": checks.stability(plan.variants, answers, labels.names),
        "injection": checks.injection(plan.injections, plan.variants, answers, labels.names),
        "empty": [
            {"text": text, **measures.distribution(answers[text], labels.names)} for text in EMPTY if text in answers
        ],
        "order": None,
        "repeats": order_sensitivity.repeats(source, plan.sample[:MAX_REPEATED], budget),
    }
    del source  # frees its model before the next is loaded
    if judge is None:  # one that is passed is shown no options that could be permuted
        record["order"] = order_sensitivity.order_sensitivity(lenient, labels, plan.sample, answers, store, budget)
    _check_budget(config, budget)
    return record


def _check_budget(config: AuditConfig, budget: Budget) -> None:
    """Raises IncompleteError if the budget is spent, because every share would lack the texts that were not asked."""
    if budget.stopped:
        raise incomplete(config, f"{budget.stopped}, and the audit is not done")


def _measure_gold(
    config: AuditConfig, plan: Plan, source: GradeSource, budget: Budget, labels: LabelSet
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Grades the gold questions.

    Returns:
        (agreement, calibration, failures and speed, the complete grades).
    """
    texts = plan.gold.texts
    stored = len(complete_grades(source.read(texts), texts))
    calls, tokens, started = budget.calls, budget.tokens, time.monotonic()
    scores = source.fill(texts)
    seconds = time.monotonic() - started
    answers = complete_grades(scores, texts)
    if not answers:
        why = budget.stopped or (scores.details[0] if scores.details else "all of them failed")
        raise IncompleteError(f"grader {config.grader}: no gold question has a complete grade ({why})")
    rows = np.flatnonzero(scores.complete_N)
    logp_NK, gold_N = scores.logp_NK[rows], torch.tensor(plan.gold.label_ids)[rows]
    asked = sum(scores.count[status] for status in ("ok", "failed", "refused"))
    wrong = [
        (float(logp_K.max()), texts[int(row)], labels.names[gold], labels.names[int(logp_K.argmax())])
        for row, logp_K, gold in zip(rows, logp_NK, gold_N.tolist(), strict=True)
        if logp_K.argmax() != gold
    ]
    wrong.sort(key=lambda mistake: (-mistake[0], mistake[1]))
    return {
        "questions": len(texts),
        "graded": len(rows),
        **measures.agreement(logp_NK, gold_N, labels.names),
        **measures.calibration(logp_NK, gold_N, source.scale == "raw"),
        "failure_rate": scores.count["failed"] / asked,
        "refusal_rate": scores.count["refused"] / asked,
        "missing_mass": missing_mass([scores]),
        "failures": list(scores.details),
        "mistakes": [
            {"question": display_text(text), "gold": gold, "predicted": predicted, "confidence": math.exp(logp)}
            for logp, text, gold, predicted in wrong[:MAX_MISTAKES]
        ],
        "speed": _speed(config, source, seconds, budget.calls - calls, budget.tokens - tokens, len(answers) - stored),
    }, answers


def _speed(
    config: AuditConfig, source: GradeSource, seconds: float, calls: int, tokens: int, graded: int
) -> dict[str, Any] | None:
    """Time and cost of the gold questions, `graded` of them new; None where the store had all grades."""
    if not calls:
        return None
    latencies = [value for grader in base_graders(source) for value in getattr(grader, "latencies", ())]
    price = config.price_per_1k_tokens
    return {
        **{"seconds": seconds, "calls": calls},
        **{"calls_per_second": calls / max(seconds, 1e-9), "seconds_per_call": seconds / calls},
        "latency": measures.latency(latencies) if latencies else None,
        "tokens": tokens,
        "cost_per_1000_grades": tokens * price / graded if price is not None and graded else None,
    }


def _results(record: dict[str, Any], seed: int) -> dict[str, Any]:
    """results.json: the main numbers of the record."""
    order, speed = record["order"], record["speed"]
    return {
        "method": "audit",
        "seed": seed,
        "grader": record["fingerprint"],
        **{name: record[name] for name in ("deliberate", "questions", "graded", "accuracy", "kappa", "f1", "ece")},
        **{name: record[name] for name in ("failure_rate", "refusal_rate")},
        "flips": {kind: row["flips"] for kind, row in record["stability"]["kinds"].items()},
        "order_flips": None if order is None else order["flips"],
        "injection_excess": record["injection"]["excess"],
        "calls_per_second": None if speed is None else speed["calls_per_second"],
        **{name: record[name] for name in ("calls_made", "tokens", "cost", "failed_checks", "seconds")},
    }
