"""Asks the same questions again: with the options in another order, and, of a judge that samples, unchanged."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eightball_ppo.auditing import checks, measures
from eightball_ppo.auditing.probes import Probe
from eightball_ppo.config.stages import AuditConfig
from eightball_ppo.graders.base import Grader
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.prompts import Prompt
from eightball_ppo.graders.registry import load_graders, parse_grader
from eightball_ppo.graders.storage.score_table import ScoreTable
from eightball_ppo.graders.storage.sources import GradeSource, StoredGrader
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import LabelSet

NUM_REPEATS = 3
SHOWN_OPTIONS = {"llm", "api"}  # graders that read the labels' names in an order
AS_GIVEN = "as given"


def base_graders(source: GradeSource) -> list[Grader]:
    """The graders that make a source's grades, without ensembles, label maps and noise."""
    if isinstance(source, StoredGrader):
        return [source.grader]
    return [grader for member in getattr(source, "members", ()) for grader in base_graders(member)]


def complete_grades(scores: ScoreTable, texts: Sequence[str]) -> dict[str, Tensor]:
    """Log-probabilities [K] of every text with a complete grade.

    Args:
        scores: of `texts`, in the same order.
        texts: questions and probes.
    """
    return {texts[row]: scores.logp_NK[row] for row in np.flatnonzero(scores.complete_N).tolist()}


def permuted_options(config: AuditConfig, labels: LabelSet) -> dict[str, AuditConfig]:
    """The grader with its options permuted, by the name of the order; {} for a grader that is not shown the options.

    The noise of `noisy:` is removed, because it shifts scores by the order of the labels. The order as given is then
    one of the orders: it is what the others are compared with.
    """
    specs = parse_grader(config.grader)
    names = list(labels.canonical().names)  # the order that the prompts of the audited grader show
    if not {spec.name for spec in specs} & SHOWN_OPTIONS or Prompt.of(config, labels).scale == "rating":
        return {}
    options: dict[str, Any] = {"grader": ",".join(":".join(filter(None, (spec.name, spec.argument))) for spec in specs)}
    orders = {AS_GIVEN: names} if options["grader"] != config.grader else {}
    orders["reversed"] = names[::-1]
    if len(names) > 2:
        orders["rotated"] = [*names[1:], names[0]]
    return {name: replace(config, labels=order, **options) for name, order in orders.items()}


def order_sensitivity(
    config: AuditConfig,
    labels: LabelSet,
    questions: Sequence[str],
    answers: checks.Answers,
    store: GradeStore,
    budget: Budget,
) -> dict[str, Any] | None:
    """What permuting the options changes in `answers` to `questions`; None for a grader that is not shown them."""
    before, pairs, asked = answers, [], 0
    orders = permuted_options(config, labels)
    for name, permuted in orders.items():
        source = load_graders(permuted, labels, store, budget, shown=permuted.label_set())
        after = complete_grades(source.fill(questions), questions)
        del source  # frees its model before the next is loaded
        if name == AS_GIVEN:
            before = after
            continue
        asked += len(questions)
        pairs += [
            checks.ProbePair(question, Probe("order", name, question), before[question], logp_K)
            for question, logp_K in after.items()
            if question in before
        ]
    return checks.order(pairs, asked, labels.names) if orders else None


def repeats(source: GradeSource, questions: list[str], budget: Budget) -> list[dict[str, Any]] | None:
    """Variation between repeated gradings, for each judge that samples; None if none samples."""
    noise = []
    for grader in base_graders(source):
        if not grader.settings.get("temperature", 0) > 0:
            continue
        logps = []
        for _ in range(NUM_REPEATS):
            with GradeStore(":memory:") as empty_store:  # the real store would answer instead of the judge
                repeated = StoredGrader(grader, empty_store, budget, max_failures=1.0, progress=False)
                logps.append(repeated.fill(questions).logp_NK)
        logp_RNK = torch.stack(logps)
        complete_N = ~logp_RNK.isnan().any(-1).any(0)
        unknown = {"questions": 0, "repeats": NUM_REPEATS, "std": None, "flips": None}
        measured = measures.repeat_noise(logp_RNK[:, complete_N]) if complete_N.any() else unknown
        noise.append({"grader": grader.fingerprint, **measured})
    return noise or None
