"""From the text of `--grader` to a source of grades.

spec  = one {"," one}                 several are averaged
one   = name [":" argument] | "noisy:" RATE ":" one | "python:" FILE.py or module ":" function
"""

import difflib
import math
from dataclasses import dataclass

from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.errors import InputError
from eightball_ppo.graders.api.modes import JudgeTask
from eightball_ppo.graders.base import Grader
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.function import function_grader, kind_of
from eightball_ppo.graders.prompts import packaged_prompts
from eightball_ppo.graders.python_source import load_function
from eightball_ppo.graders.raters import Panel, RaterGrader
from eightball_ppo.graders.reward_functions import Columns
from eightball_ppo.graders.rules import RuleGrader
from eightball_ppo.graders.storage.derived import EnsembleSource, LabelMapSource, LabelNoiseSource, reorder
from eightball_ppo.graders.storage.sources import GradeSource, StoredGrader
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.loading import check_checkpoint

NAMES = ("bert", "llm", "api", "random-head", "rule", "rater", "python", "noisy")
OBJECT = "object"  # `object:NAME:FINGERPRINT` in a config: a judge that was passed in Python, not loadable by name
MAX_SEED_DIGITS = 9


@dataclass(frozen=True)
class GraderSpec:
    """One grader of a `--grader` text.

    Attributes:
        name: One of `NAMES`, but not "noisy".
        argument: The text after the name's colon.
        noise: The rates of the `noisy:` prefixes, inner first.
    """

    name: str
    argument: str = ""
    noise: tuple[float, ...] = ()


def parse_grader(spec: str) -> list[GraderSpec]:
    """Parses the text of `--grader`; loads nothing.

    Raises:
        InputError: An unknown name, or an argument that is missing or malformed.
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
    if name == OBJECT:
        return GraderSpec(name, argument)
    if name in packaged_prompts():
        raise InputError(f"--grader {spec}: {name} is a prompt; pass --grader llm (or api) --grader_prompt {name}")
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
        offer = f"did you mean {near[0]}?" if near else f"known: {', '.join(NAMES)}"
        raise InputError(f"--grader {spec}: unknown grader; {offer}")
    if name == "rule" and not argument:
        raise InputError(f"--grader {spec}: which label? e.g. rule:LABEL")
    if name == "python" and not all(argument.rpartition(":")):
        raise InputError(f"--grader {spec}: which function? e.g. python:judge.py:score, or python:package.module:score")
    if name in ("bert", "llm", "api") and argument:
        flag = "--reward_model_path" if name == "bert" else "--grader_model"
        raise InputError(f"--grader {spec}: {name} takes no argument; its model is {flag}")
    if name == "random-head" and argument and not (argument.isdecimal() and len(argument) <= MAX_SEED_DIGITS):
        raise InputError(f"--grader {spec}: the seed must be a whole number below a billion, got {argument!r}")
    if name == "rater":
        Panel.parse(argument, spec)
    return GraderSpec(name, argument, tuple(reversed(rates)))


def panels_of(spec: str) -> list[Panel]:
    """The panels of raters in a `--grader` text."""
    return [Panel.parse(one.argument, spec) for one in parse_grader(spec) if one.name == "rater"]


def object_spec(grader: Grader) -> str:
    """The text that stands for a judge that was passed in Python; it names its functions."""
    functions = grader.settings.get("functions", ())
    names = "+".join(str(function["function"]).rpartition(".")[2] for function in functions)
    return ":".join(filter(None, (OBJECT, names, grader.fingerprint))).replace(",", ";")


def check_graders(config: GraderConfig, labels: LabelSet) -> None:
    """Checks the grader options without loading a model; imports a Python function, unless `grade_table` replaces it.

    Raises:
        InputError: As `parse_grader`; or a bad rule, function, weight, label map, prompt, verbalizer, model or address.
    """
    specs, weights = parse_grader(config.grader), config.grader_weights
    names = {spec.name for spec in specs}
    for spec in specs:
        if spec.name == "rule":
            RuleGrader(spec.argument, labels)
        if spec.name == OBJECT and config.grade_table is None:
            raise InputError(f"--grader {config.grader}: was an object in Python; pass it again, as judge")
        if spec.name == "python" and config.grade_table is None:
            kind_of(load_function(spec.argument))
    for panel in panels_of(config.grader):
        RaterGrader(config.dataset_name, panel, labels)
        if panel.per_call and (len(specs) > 1 or specs[0].noise):
            raise InputError(f"--grader {config.grader}: raters who are drawn at every call stand alone; drop the rest")
    if weights and len(weights) != len(specs):
        raise InputError(f"--grader_weights: {len(weights)} given, --grader {config.grader} names {len(specs)} graders")
    if any(weight <= 0 for weight in weights):
        raise InputError(f"--grader_weights {weights}: every weight must be above 0")
    for name in names & {"llm", "api"}:
        JudgeTask.load(config, labels)
        if config.grader_model is None:
            raise InputError(f"--grader {name}: which model? pass --grader_model")
    if "llm" in names and config.grade_table is None:
        check_checkpoint(str(config.grader_model), "--grader_model")
    if config.label_descriptions and not names & {"llm", "api"}:
        raise InputError(f"--label_descriptions: are for graders llm and api, not for --grader {config.grader}")
    if "api" in names:
        from eightball_ppo.graders.api.client import check_base_url

        check_base_url(config.grader_base_url)
    if "bert" not in names and config.grader_label_map:
        raise InputError(f"--grader_label_map: is for grader bert, not for --grader {config.grader}")


def load_graders(
    config: GraderConfig,
    labels: LabelSet,
    store: GradeStore,
    budget: Budget,
    columns: Columns | None = None,
    shown: LabelSet | None = None,
) -> GradeSource:
    """Loads the graders of `--grader` behind the store, as one source with the labels in the order of `labels`.

    Args:
        config: The grader options.
        labels: The label set of the scores.
        store: Where grades are read from and written to.
        budget: Limits the calls of all graders together.
        columns: The other columns of each text's row, for reward functions.
        shown: The labels in the order in which a prompt shows them; by default alphabetical, so that runs whose labels
            have different orders share their grades.

    Raises:
        InputError: As `check_graders`; or a model that cannot be loaded, or has other labels.
    """
    check_graders(config, labels)
    members: list[GradeSource] = []
    for spec in parse_grader(config.grader):
        grader = load_grader(spec, config, labels, store, budget, columns, shown)
        source: GradeSource = StoredGrader(grader, store, budget, config.max_grade_failures, not config.disable_tqdm)
        if spec.name == "bert" and config.grader_label_map:
            source = LabelMapSource(source, _label_map(config, grader.labels, labels), labels)
        for rate in spec.noise:
            source = LabelNoiseSource(source, rate, config.seed)
        members.append(source)
    if len(members) == 1:
        return reorder(members[0], labels)
    return reorder(EnsembleSource(members, config.grader_weights or [1.0] * len(members)), labels)


def load_grader(
    spec: GraderSpec,
    config: GraderConfig,
    labels: LabelSet,
    store: GradeStore,
    budget: Budget,
    columns: Columns | None = None,
    shown: LabelSet | None = None,
) -> Grader:
    """Loads the grader of one spec, without its noise; the arguments are those of `load_graders`."""
    shown = shown or labels.canonical()
    if spec.name == "rule":
        return RuleGrader(spec.argument, shown)
    if spec.name == "rater":
        return RaterGrader(config.dataset_name, Panel.parse(spec.argument, config.grader), shown)
    if spec.name == "python":
        return function_grader([load_function(spec.argument)], labels, columns)
    if spec.name == "llm":
        from eightball_ppo.graders.causal_lm import CausalLMGrader  # heavy

        return CausalLMGrader.load(config, shown)
    if spec.name == "api":
        from eightball_ppo.graders.api.grader import ApiGrader

        return ApiGrader.connect(config, shown, store, budget)
    from eightball_ppo.graders.bert import RANDOM_HEAD_SEED, BertGrader  # heavy

    if spec.name == "random-head":
        return BertGrader.random_head(labels, int(spec.argument or RANDOM_HEAD_SEED))
    grader = BertGrader.from_directory(config.reward_model_path, config.trust_remote_code)
    if not config.grader_label_map:
        labels.require_same(grader.labels, "--labels", f"--reward_model_path {config.reward_model_path}")
    return grader


def _label_map(config: GraderConfig, grader_labels: LabelSet, labels: LabelSet) -> list[int]:
    """The label id that each of the grader's labels is mapped to.

    Raises:
        InputError: A malformed entry, or a label of either side without an entry.
    """
    target: dict[str, str] = {}
    for entry in config.grader_label_map:
        source, equals, name = entry.partition("=")
        if not equals or source not in grader_labels.names or name not in labels.names or source in target:
            known = f"the grader has {list(grader_labels.names)}, --labels are {list(labels.names)}"
            raise InputError(f"--grader_label_map {entry}: GRADER_LABEL=LABEL is needed, each once; {known}")
        target[source] = name
    unmapped = [name for name in grader_labels.names if name not in target]
    unmapped += [name for name in labels.names if name not in target.values()]
    if unmapped:
        raise InputError(f"--grader_label_map: {unmapped[0]!r} is left out; every label of both sides needs an entry")
    return [labels.id_of(target[name]) for name in grader_labels.names]
