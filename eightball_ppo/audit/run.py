"""Judge a grader before anything is trained on it: against gold answers, by variants of questions, and by tricks.

Every text goes through the grade store, so that an audit costs what it lacks, and a second one nothing (but for the
repeats of a judge that samples, whose grades would be no repeats if they were kept).
"""

import hashlib
import math
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from eightball_ppo.audit import checks, measures
from eightball_ppo.audit.order_sensitivity import (
    REPEATS,
    base_graders,
    complete_grades,
    order_sensitivity,
    permuted_options,
    repeats,
)
from eightball_ppo.audit.page import render_audit
from eightball_ppo.audit.probes import EMPTY, Probe, injections, probe_variants
from eightball_ppo.config.stages import AuditConfig
from eightball_ppo.data import Questions, load_file, load_split
from eightball_ppo.data.pairs import display_text
from eightball_ppo.errors import DryRun, IncompleteError, InputError
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.job import cost_record, estimate_cost, incomplete, make_budget
from eightball_ppo.graders.registry import check_graders, load_graders, parse_grader
from eightball_ppo.graders.storage.score_table import missing_mass
from eightball_ppo.graders.storage.sources import GradeSource
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.report import tables
from eightball_ppo.runtime.atomic_io import write_json
from eightball_ppo.runtime.distributed import broadcast_from_main
from eightball_ppo.runtime.redaction import redacted
from eightball_ppo.runtime.run import Run, check_output_dir

REPORT = "audit.html"
MOST_INJECTED = 40  # questions, each of which is asked with every injection for every label
REPEATED = 20  # questions that a judge that samples is asked again
EXAMPLES = 10
_NOT_PRINTED = ("method", "seed", "grader", "deliberate", "failed_checks", "seconds")


class Plan(NamedTuple):
    """What an audit asks: `gold`; of a `sample` of it every variant; of its first questions every injection."""

    gold: Questions
    sample: list[str]
    variants: dict[str, list[Probe]]
    injections: dict[str, list[Probe]]

    @property
    def probes(self) -> list[str]:
        """Every text that is not a gold question."""
        both = [*self.variants.values(), *self.injections.values()]
        return [*(probe.text for own in both for probe in own), *EMPTY]


def run(config: AuditConfig) -> Path:
    """Audit the grader; write the run with audit.json and audit.html, tell the grade store, and return the run.

    Raises:
        DryRun: on a dry run, with what that would cost.
        InputError: bad gold questions, grader or output directory.
        IncompleteError: calls were no longer allowed, or no gold question got a whole grade; every grade is kept.
    """
    check_output_dir(config)
    config = with_labels(config)
    labels = config.label_set()
    if config.grade_table is not None:
        raise InputError(f"--grade_table {config.grade_table}: an audit asks the grader itself; pass --grader alone")
    check_graders(config, labels)
    plan = _plan(config, labels)
    if config.dry_run:
        raise DryRun(_estimate_cost(config, labels, plan))
    with Run(config, "audit") as own:
        results = broadcast_from_main(lambda: _audit(config, labels, plan, own), config.ddp_timeout)
        return own.finish(results)


def load_gold(config: AuditConfig, labels: LabelSet) -> Questions:
    """The labelled questions of the file that `--gold_file` names, or those that a method would be measured on.

    Raises:
        InputError: no such file, one of a kind that is not read, or bad rows.
    """
    if config.gold_file is None:
        return load_split(config, "test", labels)
    file = Path(config.gold_file).expanduser()
    if not file.is_file():
        raise InputError(f"--gold_file {config.gold_file}: no such file")
    return load_file(config, file.absolute(), labels)


def _plan(config: AuditConfig, labels: LabelSet) -> Plan:
    """The sample depends on the texts and the seed alone, and a larger one begins with the smaller one."""
    gold = load_gold(config, labels)
    ranked = sorted(set(gold.texts), key=lambda text: hashlib.sha256(f"{config.seed}:{text}".encode()).digest())
    sample = ranked[: config.audit_questions]
    injected = {question: injections(question, labels.names) for question in sample[:MOST_INJECTED]}
    return Plan(gold, sample, {question: probe_variants(question) for question in sample}, injected)


def _estimate_cost(config: AuditConfig, labels: LabelSet, plan: Plan) -> str:
    """What an audit would cost, in words."""
    lines = [estimate_cost(config, labels, [*plan.gold.texts, *plan.probes])]
    for name, own in permuted_options(config, labels).items():
        lines.append(f"options {name}: {estimate_cost(own, own.label_set(), plan.sample)}")
    if "api" in (spec.name for spec in parse_grader(config.grader)):
        lines.append(f"and {REPEATS} times {min(REPEATED, len(plan.sample))} questions again, if the judge samples")
    return "\n".join(lines)


def _audit(config: AuditConfig, labels: LabelSet, plan: Plan, own: Run) -> dict[str, Any]:
    """Ask and measure; writes the record and the page and prints the verdict. Returns the record of the run."""
    budget = make_budget(config)
    with GradeStore(config.grade_store) as store:
        record = _measure(config, labels, plan, store, budget)
        record["checks"] = [] if record["deliberate"] else checks.checks(record, vars(config))
        record["failed_checks"] = [check["sentence"] for check in record["checks"] if not check["passed"]]
        record |= {
            **cost_record(config, budget),
            "seconds": own.seconds,
        }
        fingerprint, record = record["fingerprint"], redacted(record)
        write_json(own.path / "audit.json", record)
        (own.path / REPORT).write_text(render_audit(record), encoding="utf-8")
        report = str(Path(config.output_dir) / REPORT)
        verdict = {"failed_checks": record["failed_checks"], "accuracy": record["accuracy"], "report": report}
        store.record_audit(fingerprint, verdict)
    results = _results(record, config.seed)
    shown = {name: value for name, value in results.items() if name not in _NOT_PRINTED}
    tables.print_record("audit", config.grader, shown)
    print(f"{verdict_line(record)} -> {report}")
    return results


def verdict_line(record: dict[str, Any]) -> str:
    """PASS, or FAIL with what failed; a grader that is not meant to know the wishes gets no verdict."""
    if record["deliberate"]:
        return "no verdict: this grader is not meant to know the askers' wishes"
    return f"FAIL: {'; '.join(record['failed_checks'])}" if record["failed_checks"] else "PASS"


def _measure(config: AuditConfig, labels: LabelSet, plan: Plan, store: GradeStore, budget: Budget) -> dict[str, Any]:
    """Everything that is measured, by name."""
    # failures must not stop the audit: their share is one of its results
    lenient = replace(config, max_grade_failures=1.0)
    source = load_graders(lenient, labels, store, budget)
    gold, answers = _ask_gold(config, plan, source, budget, labels)
    probes = plan.probes
    scores = source.fill(probes)
    _check_budget(config, budget)
    answers |= complete_grades(scores, probes)
    record = {
        "grader": config.grader,
        "fingerprint": source.fingerprint,
        "deliberate": source.deliberate,
        "settings": [leaf.settings for leaf in base_graders(source)],
        "labels": list(labels.names),
        "gold": config.gold_file or plan.gold.source,
        **gold,
        "sampled": len(plan.sample),
        "stability": checks.stability(plan.variants, answers, labels.names),
        "injection": checks.injection(plan.injections, plan.variants, answers, labels.names),
        "empty": [
            {"text": text, **measures.distribution(answers[text], labels.names)} for text in EMPTY if text in answers
        ],
        "repeats": repeats(source, plan.sample[:REPEATED], budget),
    }
    del source  # one local judge at a time in memory
    record["order"] = order_sensitivity(lenient, labels, plan.sample, answers, store, budget)
    _check_budget(config, budget)
    return record


def _check_budget(config: AuditConfig, budget: Budget) -> None:
    """Raises IncompleteError if calls are no longer allowed: what was not asked would be missing from every share."""
    if budget.stopped:
        raise incomplete(config, f"{budget.stopped}, and the audit is not done")


def _ask_gold(
    config: AuditConfig, plan: Plan, source: GradeSource, budget: Budget, labels: LabelSet
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Grade the gold questions; returns what they say of the grader (agreement, calibration, failures, speed)."""
    texts = plan.gold.texts
    before = len(complete_grades(source.read(texts), texts))
    calls, tokens, started = budget.calls, budget.tokens, time.monotonic()
    scores = source.fill(texts)
    seconds = time.monotonic() - started
    answers = complete_grades(scores, texts)
    if not answers:
        why = budget.stopped or (scores.details[0] if scores.details else "all of them failed")
        raise IncompleteError(f"grader {config.grader}: no gold question has a whole grade ({why}); nothing to audit")
    rows = np.flatnonzero(scores.complete_N)
    logp_NK, gold_N = scores.logp_NK[rows], torch.tensor(plan.gold.label_ids)[rows]
    count = scores.count
    asked = count["ok"] + count["failed"] + count["refused"]
    wrong = sorted(
        (-float(logp_NK[i].max()), texts[int(row)], int(gold_N[i]), int(logp_NK[i].argmax()))
        for i, row in enumerate(rows)
        if logp_NK[i].argmax() != gold_N[i]
    )
    return {
        "questions": len(texts),
        "graded": len(rows),
        **measures.agreement(logp_NK, gold_N, labels.names),
        **measures.calibration(logp_NK, gold_N),
        "failure_rate": count["failed"] / asked,
        "refusal_rate": count["refused"] / asked,
        "missing_mass": missing_mass([scores]),
        "failures": list(scores.details),
        "mistakes": [
            {
                "question": display_text(text),
                "gold": labels.names[g],
                "favourite": labels.names[k],
                "confidence": math.exp(-best),
            }
            for best, text, g, k in wrong[:EXAMPLES]
        ],
        "speed": _speed(config, source, seconds, budget.calls - calls, budget.tokens - tokens, len(answers) - before),
    }, answers


def _speed(
    config: AuditConfig, source: GradeSource, seconds: float, calls: int, tokens: int, graded: int
) -> dict[str, Any] | None:
    """What the gold questions took, `graded` of them anew; None where all their grades came from the store."""
    if not calls:
        return None
    latencies = [value for leaf in base_graders(source) for value in getattr(leaf, "latencies", ())]
    price = config.price_per_1k_tokens
    return {
        "seconds": seconds,
        "calls": calls,
        "calls_per_second": calls / max(seconds, 1e-9),
        "seconds_per_call": seconds / calls,
        "latency": measures.latency(latencies) if latencies else None,
        "tokens": tokens,
        "cost_per_1000_grades": tokens * price / graded if price is not None and graded else None,
    }


def _results(record: dict[str, Any], seed: int) -> dict[str, Any]:
    """The main numbers, flat."""
    order, speed = record["order"], record["speed"]
    return {
        "method": "audit",
        "seed": seed,
        "grader": record["fingerprint"],
        "deliberate": record["deliberate"],
        **{name: record[name] for name in ("questions", "graded", "accuracy", "kappa", "f1", "ece")},
        **{name: record[name] for name in ("failure_rate", "refusal_rate")},
        "flips": {kind: own["flips"] for kind, own in record["stability"]["kinds"].items()},
        "order_flips": None if order is None else order["flips"],
        "injection_excess": record["injection"]["excess"],
        "calls_per_second": None if speed is None else speed["calls_per_second"],
        **{name: record[name] for name in ("calls_made", "tokens", "cost", "failed_checks", "seconds")},
    }
