"""From the text of `--grader` to a source of grades.

spec  = one {"," one}                 several are averaged
one   = name [":" argument] | "noisy:" RATE ":" one
"""

import difflib
import math
from dataclasses import dataclass

from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Grader
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.storage.sources import (
    EnsembleSource,
    GradeSource,
    LabelMapSource,
    LabelNoiseSource,
    StoredGrader,
)
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import LabelSet

NAMES = ("bert", "llm", "api", "random-head", "rule", "noisy")
MAX_DIGITS = 9  # of a seed


@dataclass(frozen=True)
class GraderSpec:
    """One grader as named: `name`, `argument`, and `noise`, the rates of every `noisy:` in front of it, inner first."""

    name: str
    argument: str = ""
    noise: tuple[float, ...] = ()


def parse_grader(spec: str) -> list[GraderSpec]:
    """The graders that `--grader` names, checked without loading anything.

    Raises:
        InputError: an unknown name (the nearest known one is offered), or an argument that is missing or malformed.
    """
    return [_parse_one(part, spec) for part in spec.split(",")]


def _parse_one(part: str, spec: str) -> GraderSpec:
    name, _, argument = part.partition(":")
    rates: list[float] = []
    while name == "noisy":
        rate, _, inner = argument.partition(":")
        try:
            rates.append(float(rate))
        except ValueError:
            rates.append(math.nan)
        if not 0 <= rates[-1] <= 1 or not inner:
            raise InputError(f"--grader {spec}: noisy:RATE:GRADER is needed, RATE from 0 to 1, e.g. noisy:0.3:bert")
        name, _, argument = inner.partition(":")
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
        offer = f"; did you mean {near[0]}?" if near else f"; known: {', '.join(NAMES)}"
        raise InputError(f"--grader {spec}: unknown grader{offer}")
    if name == "rule" and not argument:
        raise InputError(f"--grader {spec}: which label? e.g. rule:LABEL")
    if name in ("bert", "llm", "api") and argument:
        flag = "--reward_model_path" if name == "bert" else "--grader_model"
        raise InputError(f"--grader {spec}: {name} takes no argument; its model is {flag}")
    if name == "random-head" and argument and not (argument.isdecimal() and len(argument) <= MAX_DIGITS):
        raise InputError(f"--grader {spec}: the seed must be a whole number below a billion, got {argument!r}")
    return GraderSpec(name, argument, tuple(reversed(rates)))


def check_graders(config: GraderConfig, labels: LabelSet) -> None:
    """What can be said against the grader options without loading a grader.

    Raises:
        InputError: as `parse_grader`; a rule's label, weights, label map, model or address that cannot be.
    """
    specs = parse_grader(config.grader)
    names = {spec.name for spec in specs}
    for spec in specs:
        if spec.name == "rule" and spec.argument not in labels.names:
            raise InputError(f"--grader {config.grader}: unknown label; known: {list(labels.names)}")
    if config.grader_weights and len(config.grader_weights) != len(specs):
        raise InputError(
            f"--grader_weights: {len(config.grader_weights)} given, --grader {config.grader} names {len(specs)} graders"
        )
    if any(weight <= 0 for weight in config.grader_weights):
        raise InputError(f"--grader_weights {config.grader_weights}: every weight must be above 0")
    if names & {"llm", "api"}:
        from eightball_ppo.graders.prompts import Prompt
        from eightball_ppo.graders.verbalizers import parse_verbalizers

        Prompt.load(config.grader_prompt, labels)
        parse_verbalizers(config.grader_verbalizers, labels)
    for name in names & {"llm", "api"}:
        if config.grader_model is None:
            raise InputError(f"--grader {name}: which model? pass --grader_model")
    if "api" in names:
        from eightball_ppo.graders.api.client import check_base_url

        check_base_url(config.grader_base_url)
    if "bert" not in names and config.grader_label_map:
        raise InputError(f"--grader_label_map: is for grader bert, not for --grader {config.grader}")


def load_graders(config: GraderConfig, labels: LabelSet, store: GradeStore, budget: Budget) -> GradeSource:
    """The source that `--grader` names, behind the store.

    Raises:
        InputError: as `check_graders`; a model that cannot be loaded, or whose labels are others.
    """
    check_graders(config, labels)
    members: list[GradeSource] = []
    for spec in parse_grader(config.grader):
        grader = _load_one(spec, config, labels, store, budget)
        stored = StoredGrader(grader, store, budget, config.max_grade_failures, not config.disable_tqdm)
        source: GradeSource = stored
        if grader.labels != labels:
            source = LabelMapSource(stored, _label_map(config, grader.labels, labels), labels)
        for rate in spec.noise:
            source = LabelNoiseSource(source, rate, config.seed)
        members.append(source)
    if len(members) == 1:
        return members[0]
    return EnsembleSource(members, config.grader_weights or [1.0] * len(members))


def _load_one(spec: GraderSpec, config: GraderConfig, labels: LabelSet, store: GradeStore, budget: Budget) -> Grader:
    if spec.name == "rule":
        from eightball_ppo.graders.rules import RuleGrader

        return RuleGrader(spec.argument, labels)
    if spec.name == "llm":
        from eightball_ppo.graders.causal_lm import CausalLMGrader  # heavy

        return CausalLMGrader.load(config, labels)
    if spec.name == "api":
        from eightball_ppo.graders.api.grader import ApiGrader

        return ApiGrader.connect(config, labels, store, budget)
    from eightball_ppo.graders.bert import RANDOM_HEAD_SEED, BertGrader  # heavy

    if spec.name == "random-head":
        return BertGrader.random_head(labels, int(spec.argument or RANDOM_HEAD_SEED))
    grader = BertGrader.from_directory(config.reward_model_path, config.trust_remote_code)
    if not config.grader_label_map:
        labels.require_same(grader.labels, "--labels", f"--reward_model_path {config.reward_model_path}")
    return grader


def _label_map(config: GraderConfig, theirs: LabelSet, ours: LabelSet) -> list[int]:
    """For each of the grader's labels the position of ours.

    Raises:
        InputError: an entry that is no A=B of known labels, or a label of either side that is left out.
    """
    target: dict[str, str] = {}
    for entry in config.grader_label_map:
        source, equals, name = entry.partition("=")
        if not equals or source not in theirs.names or name not in ours.names or source in target:
            raise InputError(
                f"--grader_label_map {entry}: GRADER_LABEL=LABEL is needed, each grader label once; the grader has "
                f"{list(theirs.names)}, --labels are {list(ours.names)}"
            )
        target[source] = name
    left_out = [name for name in theirs.names if name not in target] or [
        name for name in ours.names if name not in target.values()
    ]
    if left_out:
        raise InputError(f"--grader_label_map: {left_out[0]!r} is left out; every label of both sides must stand in it")
    return [ours.id_of(target[name]) for name in theirs.names]
