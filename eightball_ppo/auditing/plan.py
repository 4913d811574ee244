"""What an audit asks about: the gold questions, variants of a sample of them, and injected demands."""

import contextlib
import hashlib
import logging
from dataclasses import replace
from typing import NamedTuple

from eightball_ppo.auditing.probes import EMPTY, Probe, injections, probe_variants
from eightball_ppo.config.stages import AuditConfig
from eightball_ppo.data import Questions, load_split
from eightball_ppo.errors import InputError
from eightball_ppo.graders.reward_functions import Columns, columns_by_text
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet
from eightball_ppo.models.label_inference import with_labels

logger = logging.getLogger(__name__)

MAX_INJECTED = 40  # questions that get every injection for every label


class Plan(NamedTuple):
    """The texts of an audit.

    Args:
        gold: the questions with gold labels.
        variants: every variant of a sample of them, by question.
        injections: every injection of the first of the sample, by question.
    """

    gold: Questions
    variants: dict[str, list[Probe]]
    injections: dict[str, list[Probe]]

    @property
    def sample(self) -> list[str]:
        """The questions that variants are made of."""
        return list(self.variants)

    @property
    def probes(self) -> list[str]:
        """Every text that is not a gold question."""
        groups = [*self.variants.values(), *self.injections.values()]
        return [*(probe.text for group in groups for probe in group), *EMPTY]

    @property
    def columns(self) -> Columns:
        """The other columns of each text's row, for TRL reward functions; a probe has those of its question."""
        found = columns_by_text(self.gold)
        probes = (*self.variants.items(), *self.injections.items())
        of_probes = {probe.text: found[question] for question, group in probes for probe in group} if found else {}
        return {**of_probes, **found}


def with_labels_of_gold(config: AuditConfig) -> AuditConfig:
    """`config` with the labels of a gold file of other data than the default, unless the grader's model has some."""
    if config.gold_file is None or config.labels != list(EIGHTBALL_LABELS):
        return config
    with contextlib.suppress(InputError):  # ids, or no label at all: reading the file says so
        found = with_labels(replace(config, dataset_name=config.gold_file, labels=None))
        if not set(found.labels or ()) <= set(EIGHTBALL_LABELS):
            return replace(config, labels=found.labels)
    return config


def load_gold(config: AuditConfig, labels: LabelSet, keep_columns: bool = False) -> Questions:
    """The labelled questions of `--gold_file`, or the split that methods are evaluated on.

    Args:
        config: The options of the audit.
        labels: The labels.
        keep_columns: Whether the columns of the rows are kept, for a judge that takes them.

    Raises:
        InputError: no such file, a file of an unknown type, or bad rows.
    """
    gold = load_split(config, "test", labels, keep_columns)
    if not gold.gold:
        logger.warning(
            "%s: its labels are not gold, so accuracy and kappa pass no verdict; use --gold_file", gold.source
        )
    return gold


def make_plan(config: AuditConfig, gold: Questions, labels: LabelSet) -> Plan:
    """Draws the sample by hashes of texts and seed, so that a larger one contains the smaller one."""
    ranked = sorted(set(gold.texts), key=lambda text: hashlib.sha256(f"{config.seed}:{text}".encode()).digest())
    sample = ranked[: config.audit_questions]
    injected = {question: injections(question, labels.names) for question in sample[:MAX_INJECTED]}
    return Plan(gold, {question: probe_variants(question) for question in sample}, injected)
