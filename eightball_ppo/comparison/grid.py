"""The grid of a comparison: its runs, and the config that each is trained with."""

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.graded import EarlyStopConfig, GraderTrainingConfig, MethodConfig
from eightball_ppo.config.noise import LabelNoise
from eightball_ppo.config.registry import METHODS
from eightball_ppo.errors import InputError

RUNS = "runs"


def reference_dir(reference: int) -> str:
    """The directory of a reference in that of the comparison."""
    return f"reference-{reference}" if reference else "reference"


def grades_file(reference: int) -> str:
    """The grade table of the runs of a reference, in the directory of the comparison."""
    return f"grades-{reference}.parquet" if reference else "grades.parquet"


@dataclass(frozen=True)
class RunSpec:
    """One run of the grid.

    Args:
        method: a name in `METHODS`.
        seed: of training.
        beta: `kl_coef`.
        noise: wrong training grades, as `LabelNoise.name` says it; empty: none.
        budget: most (question, label) grades that training may observe; None: no limit.
        threshold: confidence threshold of `distill`; None: chosen on validation questions, or another method.
        reference: number of the reference, which follows from the seed.
    """

    method: str
    seed: int
    beta: float
    noise: str = ""
    budget: int | None = None
    threshold: float | None = None
    reference: int = 0

    @property
    def name(self) -> str:
        """The name of the run's directory."""
        parts = [self.method, f"beta{self.beta:g}"]
        parts += [f"noise{self.noise.replace(':', '-')}"] if self.noise else []
        parts += [f"budget{self.budget}"] if self.budget is not None else []
        parts += [f"threshold{self.threshold:g}"] if self.threshold is not None else []
        return "-".join([*parts, f"seed{self.seed}"])


RunGroup = tuple[RunSpec, ...]
"""Runs of one policy: a worker trains the first and evaluates the same policy at the betas of the others."""


def run_groups(config: CompareConfig, raw: bool = False) -> Iterator[RunGroup]:
    """Every run of the grid, longest methods first, so that no worker is left alone with a long run at the end.

    Args:
        config: The options of the comparison.
        raw: Whether the scores are raw, so that soft targets depend on the KL coefficient.
    """
    order = sorted(METHODS, key=lambda name: METHODS[name].samples)[::-1]
    budgets: Sequence[int | None] = config.grader_call_budgets or [None]
    for name in sorted(config.methods, key=order.index):
        thresholds: Sequence[float | None] = (config.thresholds if name == "distill" else []) or [None]
        noises = [LabelNoise.parse(noise).name for noise in config.label_noise]
        for noise, budget, threshold, seed in product(noises, budgets, thresholds, config.seeds):
            values = (noise, budget, threshold, seed % config.references)
            specs = tuple(RunSpec(name, seed, beta, *values) for beta in config.kl_coefs)
            if METHODS[name].reads_kl_coef or (raw and METHODS[name].fixed.get("target") == "soft"):
                yield from ((spec,) for spec in specs)
            else:
                yield specs


def shared_options(config: CompareConfig) -> dict[str, Any]:
    """The options that every run of a comparison takes from it."""
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(GraderTrainingConfig)}


def overrides(config: CompareConfig) -> dict[str, dict[str, Any]]:
    """Parses `--method_options`.

    Returns:
        method -> option -> value, each value of its option's type.

    Raises:
        InputError: an entry that is not METHOD.OPTION=VALUE, an option that the comparison sets itself, a bad value.
    """
    reserved = {*shared_options(config), "label_noise", "grader_call_budget", "kl_coef"}
    reserved |= {"stop_optimum_fraction", "patience"}  # which would give methods budgets of their own
    reserved |= {"calibrate"}  # which would give methods other training texts
    parsed: dict[str, dict[str, Any]] = {}
    for entry in config.method_options:
        path, equals, text = entry.partition("=")
        name, dot, option = path.partition(".")
        if not equals or not dot or name not in METHODS:
            raise InputError(f"--method_options {entry}: METHOD.OPTION=VALUE is needed, e.g. ppo.total_episodes=96000")
        method = METHODS[name]
        types = get_type_hints(method.config_class)
        if option not in {field.name for field in dataclasses.fields(method.config_class)}:
            raise InputError(f"--method_options {entry}: {option} is no option of the method")
        if option in reserved or option in method.fixed:
            raise InputError(f"--method_options {entry}: {option} is set by the comparison")
        if option in parsed.setdefault(name, {}):
            raise InputError(f"--method_options {entry}: {path} is given twice")
        if path == "distill.threshold" and config.thresholds:
            raise InputError(f"--method_options {entry}: --thresholds sets it")
        try:
            parsed[name][option] = TypeAdapter(types[option]).validate_strings(text)
        except ValidationError as error:
            raise InputError(f"--method_options {entry}: {error.errors()[0]['msg']}") from None
    return parsed


def run_config(spec: RunSpec, config: CompareConfig) -> MethodConfig:
    """The config of a run: the options of the comparison, its reference and grade table, and those of `spec`.

    Raises:
        InputError: the method refuses the options.
    """
    directory = Path(config.output_dir)
    method = METHODS[spec.method]
    options = {
        **shared_options(config),
        "output_dir": str(directory / RUNS / spec.name),
        "sft_model_path": str(directory / reference_dir(spec.reference)),
        "upstream_config": None,  # the reference exists
        "grade_table": str(directory / grades_file(spec.reference)),
        "disable_tqdm": True,
        "push_to_hub": False,
        "hub_model_id": None,
        "seed": spec.seed,
        "kl_coef": spec.beta,
        "label_noise": spec.noise or "0.0",
        "grader_call_budget": spec.budget,
        **({"stop_optimum_fraction": 1.0} if issubclass(method.config_class, EarlyStopConfig) else {}),  # same budget
        **method.fixed,
        **({} if spec.threshold is None else {"threshold": spec.threshold}),
    }
    return method.config_class(**options | overrides(config).get(spec.method, {}))
