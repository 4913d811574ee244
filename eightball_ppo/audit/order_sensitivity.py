"""The same questions once more: with the options in another order, or just again, of a judge that samples."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eightball_ppo.audit import checks, measures
from eightball_ppo.audit.probes import Probe
from eightball_ppo.config.stages import AuditConfig
from eightball_ppo.graders.base import Grader
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.prompts import Prompt
from eightball_ppo.graders.registry import load_graders, parse_grader
from eightball_ppo.graders.storage.score_table import ScoreTable
from eightball_ppo.graders.storage.sources import GradeSource, StoredGrader
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import LabelSet

REPEATS = 3
SHOWN_OPTIONS = {"llm", "api"}  # graders that read the labels' names in an order
AS_GIVEN = "as given"


def base_graders(source: GradeSource) -> list[Grader]:
    """The graders that are really asked, behind whatever is made of their grades."""
    if isinstance(source, StoredGrader):
        return [source.grader]
    return [leaf for member in getattr(source, "members", ()) for leaf in base_graders(member)]


def complete_grades(scores: ScoreTable, texts: Sequence[str]) -> dict[str, Tensor]:
    """Log-probabilities [K] of every one of the `texts`, which `scores` is about, that has a whole grade."""
    return {texts[row]: scores.logp_NK[row] for row in np.flatnonzero(scores.complete_N).tolist()}


def permuted_options(config: AuditConfig, labels: LabelSet) -> dict[str, AuditConfig]:
    """The grader with its options permuted, by the name of the order; {} for one that is not shown them.

    It is asked without the noise of `noisy:`, which moves scores on by labels in their order and is no judge's opinion;
    with noise, the order as given is among the orders, so that there is something to compare with.
    """
    specs = parse_grader(config.grader)
    names = list(labels.names)
    if not {spec.name for spec in specs} & SHOWN_OPTIONS or Prompt.load(config.grader_prompt, labels).scale == "rating":
        return {}
    plain: dict[str, Any] = {"grader": ",".join(":".join(filter(None, (spec.name, spec.argument))) for spec in specs)}
    if not config.grader_label_map and any(spec.name == "bert" for spec in specs):
        plain["grader_label_map"] = [f"{name}={name}" for name in names]  # a reward model in the mean keeps its order
    orders = {AS_GIVEN: names} if plain["grader"] != config.grader else {}
    orders["reversed"] = names[::-1]
    if len(names) > 2:
        orders["rotated"] = [*names[1:], names[0]]
    return {name: replace(config, labels=order, **plain) for name, order in orders.items()}


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
    for name, own in orders.items():
        theirs = own.label_set()
        source = load_graders(own, theirs, store, budget)
        scores = source.fill(questions)
        back_K = [theirs.id_of(label) for label in labels.names]
        after = {question: logp_K[back_K] for question, logp_K in complete_grades(scores, questions).items()}
        del source  # one local judge at a time in memory
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
    """How far the grades of each judge that samples differ from one time to the next; None if none samples."""
    noise = []
    for leaf in base_graders(source):
        if not leaf.settings.get("temperature", 0) > 0:
            continue
        logps = []
        for _ in range(REPEATS):
            with GradeStore(":memory:") as forgotten:  # never the real store, which would answer in the judge's place
                again = StoredGrader(leaf, forgotten, budget, max_failures=1.0, progress=False)
                logps.append(again.fill(questions).logp_NK)
        logp_RNK = torch.stack(logps)
        whole_N = ~logp_RNK.isnan().any(-1).any(0)
        nothing = {"questions": 0, "repeats": REPEATS, "std": None, "flips": None}
        measured = measures.repeat_noise(logp_RNK[:, whole_N]) if whole_N.any() else nothing
        noise.append({"grader": leaf.fingerprint, **measured})
    return noise or None
