"""The table of methods: one row for everything that the command line, comparisons, figures, cards and the demo show.

A new method is one file with a `fit` and one row here, or in another package an entry point of the group
`eightball_ppo.methods` whose value is a `MethodSpec`. Nothing is imported before a row is used.
"""

import dataclasses
import importlib
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any

logger = logging.getLogger(__name__)

NAME = re.compile("[a-z][a-z0-9_]*")
RESERVED = ("sft", "reward", "grade", "audit", "compare", "predict", "report", "push", "demo", "env", "completion")

REFERENCE = "sft"  # the method that trains nothing: what all others start from and are compared with
ENTRY_POINTS = "eightball_ppo.methods"


@dataclass(frozen=True)
class MethodSpec:
    """A method that turns a grader's scores into a policy.

    Args:
        config: Its dataclass of options, a `MethodConfig`, as "module:name".
        fit: Its training, as "module:name" of a function `(task, run) -> policy`.
        title: Its name in a sentence.
        description: What it does, in one line.
        check: The check of its options before anything is loaded, as "module:name" of a function
            `(config, number of training questions)` that raises `InputError`.
        fixed: Options that make this row of a config class that several rows share.
        samples: Whether it learns from answers that it samples, and observes the scores of these only.
        reads_kl_coef: Whether its training depends on `kl_coef`; a policy that does not is trained once for all.
        asks_grader: Whether its policy calls the grader on the questions that it answers.
        baseline: Whether it is another kind of classifier than the reference, shown apart in comparisons.
        examples: What may follow its name on the command line; a method without examples is no command.
        tags: Further tags of its model cards.
        loss: Title and key of the loss in its learning curves.
        style: Its marker in figures, of matplotlib, and its colours on a light and on a dark page.
    """

    config: str
    fit: str
    title: str
    description: str
    check: str | None = None
    fixed: Mapping[str, Any] = field(default_factory=dict)
    samples: bool = False
    reads_kl_coef: bool = True
    asks_grader: bool = False
    baseline: bool = False
    examples: tuple[str, ...] = ("",)
    tags: tuple[str, ...] = ()
    loss: tuple[str, str] = ("Loss", "loss")
    style: tuple[str, str, str] | None = None

    @property
    def config_class(self) -> type[Any]:
        """The dataclass of its options."""
        return load(self.config)

    def makes(self, config: Any) -> bool:
        """Whether `config` trains this row. Imports nothing: the module of a given config is loaded."""
        module, _, name = self.config.partition(":")
        same = getattr(sys.modules.get(module), name, None) is type(config)
        return same and all(getattr(config, k) == v for k, v in self.fixed.items())


def load(reference: str) -> Any:
    """The object that "module:name" names."""
    module, _, name = reference.partition(":")
    return getattr(importlib.import_module(module), name)


_DISTILL = MethodSpec(
    config="eightball_ppo.config.methods:DistillConfig",
    fit="eightball_ppo.methods.distill:fit",
    check="eightball_ppo.methods.distill:check",
    title="distillation",
    description="cross-entropy to the labels that the grader is confident of",
    fixed={"target": "hard"},
    reads_kl_coef=False,
    examples=("", "--target boltzmann --kl_coef 0.5 --output_dir runs/boltzmann"),
    loss=("Cross-entropy", "loss"),
    style=("o", "#1d2c9b", "#5b84ff"),
)
_BASELINE = MethodSpec(
    config="eightball_ppo.config.methods:BaselineConfig",
    fit="eightball_ppo.methods.baselines:fit",
    title="bag of words",
    description="logistic regression on the words of a text, fitted to the grader's best labels",
    fixed={"features": "words"},
    reads_kl_coef=False,
    baseline=True,
    examples=(),
    style=("8", "#4d4d4d", "#c9c9c9"),
)
_GRPO = MethodSpec(
    config="eightball_ppo.config.methods:GRPOConfig",
    fit="eightball_ppo.methods.groups:fit",
    check="eightball_ppo.methods.groups:check",
    title="GRPO",
    description="TRL's `GRPOTrainer` on the grader's scores, with a KL penalty to the reference",
    samples=True,
    examples=("", "--scale_rewards none"),
    tags=("trl",),
    loss=("Policy loss", "loss"),
    style=("<", "#6b4309", "#a56160"),
)

# From the reference to the exact gradient; legends list them the other way round.
_ROWS: dict[str, MethodSpec] = {
    REFERENCE: MethodSpec(
        config="eightball_ppo.config.methods:ReferenceConfig",
        fit="eightball_ppo.methods.reference:fit",
        title="the SFT reference",
        description="fine-tuned on the answers of its data; what the other methods start from",
        reads_kl_coef=False,
        examples=(),
        style=("X", "#606778", "#959699"),
    ),
    "best_of_n": MethodSpec(
        config="eightball_ppo.config.methods:BestOfNConfig",
        fit="eightball_ppo.methods.best_of_n:fit",
        title="best of n",
        description="the best-scored of n answers of the reference; it knows the questions that were graded",
        asks_grader=True,
        examples=("--num_samples 8",),
        style=("P", "#022e06", "#c3e04a"),
    ),
    "bag_of_words": _BASELINE,
    "bag_of_characters": dataclasses.replace(
        _BASELINE,
        title="bag of characters",
        description="logistic regression on 2 to 5 neighbouring characters, fitted to the grader's best labels",
        fixed={"features": "characters"},
        style=("d", "#7a5c3e", "#c8a98a"),
    ),
    "frozen_linear": dataclasses.replace(
        _BASELINE,
        title="linear on a frozen encoder",
        description="logistic regression on the features of a frozen encoder, fitted to the grader's best labels",
        fixed={"features": "encoder"},
        style=("H", "#3d6b52", "#9fd0b4"),
    ),
    "distill": _DISTILL,
    "distill_soft": dataclasses.replace(
        _DISTILL,
        title="soft distillation",
        description="cross-entropy to the grader's distribution over the labels",
        fixed={"target": "soft"},
        examples=(),
        style=("s", "#5c9dff", "#93c2fc"),
    ),
    "distill_boltzmann": dataclasses.replace(
        _DISTILL,
        title="Boltzmann distillation",
        description="cross-entropy to `ref * exp(score / beta) / Z`, the best policy at its kl_coef",
        fixed={"target": "boltzmann"},
        reads_kl_coef=True,
        examples=(),
        style=("D", "#249f9d", "#63ffec"),
    ),
    "grpo": _GRPO,
    "rloo": dataclasses.replace(
        _GRPO,
        config="eightball_ppo.config.methods:RLOOConfig",
        title="RLOO",
        description="TRL's `RLOOTrainer` on the grader's scores, with a KL penalty to the reference",
        examples=("", "--kl_coef 0.5"),
        style=("v", "#b16003", "#e3ab24"),
    ),
    "ppo": MethodSpec(
        config="eightball_ppo.config.methods:PPOConfig",
        fit="eightball_ppo.methods.ppo:fit",
        check="eightball_ppo.methods.ppo:check",
        title="PPO",
        description="TRL's `PPOTrainer` on the grader's scores, with a KL penalty to the reference",
        samples=True,
        examples=("", "--kl_coef 0.5 --seed 1 --output_dir runs/ppo-0.5", "--push_to_hub --hub_model_id ME/eight-ball"),
        tags=("trl",),
        loss=("Value loss", "loss/value_avg"),
        style=("^", "#fb7b4c", "#fb4436"),
    ),
    "exact": MethodSpec(
        config="eightball_ppo.config.methods:ExactConfig",
        fit="eightball_ppo.methods.exact:fit",
        title="the exact gradient",
        description="the gradient of the objective itself, a sum over all labels",
        examples=("--kl_coef 0.5",),
        loss=("Loss, -J / beta", "loss"),
        style=("*", "#a448f6", "#d048b8"),
    ),
}


class _Methods(Mapping[str, MethodSpec]):
    """The rows of this package, then those of other packages, whose entry points are read at the first use."""

    def __init__(self, rows: Mapping[str, MethodSpec]):
        self._rows, self._complete = dict(rows), False

    def _all(self) -> dict[str, MethodSpec]:
        if not self._complete:
            self._complete = True
            for point in metadata.entry_points(group=ENTRY_POINTS):
                try:
                    spec = point.load()
                    problem = self._problem(point.name, spec)
                except (Exception, SystemExit) as error:  # whatever the module of another package raises
                    problem = f"{type(error).__name__}: {error}"
                if problem:
                    line = "".join(c if c.isprintable() else " " for c in f"{point.name} = {point.value}: {problem}")
                    logger.warning("entry point %s; the method is left out", line)
                else:
                    self._rows[point.name] = spec
        return self._rows

    def _problem(self, name: str, spec: Any) -> str | None:
        """Why `spec` cannot be the row `name`; None if it can."""
        from eightball_ppo.config.graded import MethodConfig

        if not NAME.fullmatch(name) or name in RESERVED:
            return "is no name of a method: a command has it, or it is not of lower-case letters, digits and _"
        if name in self._rows:
            return "a method of this name exists"
        if not isinstance(spec, MethodSpec):
            return "is no MethodSpec"
        for text in (spec.title, spec.description):
            if not text.isprintable() or set("<>|") & set(text):
                return f"title and description must be one line without < > |, got {text!r}"
        if not issubclass(spec.config_class, MethodConfig):
            return f"{spec.config} is no MethodConfig"
        if unknown := spec.fixed.keys() - {field.name for field in dataclasses.fields(spec.config_class)}:
            return f"{spec.config} has no option {min(unknown)}, which is fixed"
        for other, row in self._rows.items():
            shorter, longer = sorted((row.fixed, spec.fixed), key=len)
            if row.config == spec.config and shorter.items() <= longer.items():
                return f"has the options of method {other}: give it a config class, or fix one of its options"
        return None

    def __getitem__(self, name: str) -> MethodSpec:
        return self._all()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


BUILT_IN = tuple(_ROWS)
METHODS: Mapping[str, MethodSpec] = _Methods(_ROWS)


def method_of(config: Any) -> str:
    """The name of the row that `config` trains.

    Raises:
        KeyError: no row has a config of this class.
    """
    for name, spec in METHODS.items():
        if spec.makes(config):
            return name
    raise KeyError(f"no method has the options {type(config).__name__}")


def commands() -> dict[str, MethodSpec]:
    """The rows that are commands of their own, by name."""
    return {name: spec for name, spec in METHODS.items() if spec.examples}


def title_of(method: str) -> str:
    """The title of a method, also of one that is not installed here."""
    return METHODS[method].title if method in METHODS else method.replace("_", " ")
