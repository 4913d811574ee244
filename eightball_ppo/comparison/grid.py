"""The grid of a comparison: its cells, and the config that a cell's method is trained with."""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, get_type_hints

from pydantic import TypeAdapter, ValidationError

from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.graded import GraderTrainingConfig, MethodConfig
from eightball_ppo.config.registry import METHODS
from eightball_ppo.errors import InputError

REFERENCE = "reference"
TABLE = "grades.parquet"
RUNS = "runs"


@dataclass(frozen=True)
class RunSpec:
    """One run of the grid. `noise` 0.0 and `budget` None are the plain case; `threshold` is only ever distill's."""

    method: str
    seed: int
    beta: float
    noise: float = 0.0
    budget: int | None = None
    threshold: float | None = None

    @property
    def name(self) -> str:
        """The name of its directory."""
        parts = [self.method, f"beta{self.beta:g}"]
        parts += [f"noise{self.noise:g}"] if self.noise else []
        parts += [f"budget{self.budget}"] if self.budget is not None else []
        parts += [f"threshold{self.threshold:g}"] if self.threshold is not None else []
        return "-".join([*parts, f"seed{self.seed}"])

    @property
    def key(self) -> dict[str, Any]:
        """Its columns in the results."""
        return dataclasses.asdict(self)


class RunGroup(NamedTuple):
    """What one worker does in one go: train for the first cell, measure the same policy at the prices of the rest."""

    cells: tuple[RunSpec, ...]


def run_groups(config: CompareConfig) -> Iterator[RunGroup]:
    """Every run of the grid, longest methods first, so that the last worker is not left alone for long."""
    order = sorted(METHODS, key=lambda name: METHODS[name].samples)[::-1]
    budgets: list[int | None] = list(config.grader_call_budgets) or [None]
    for name in sorted(config.methods, key=order.index):
        thresholds: list[float | None] = list(config.thresholds) if name == "distill" else []
        for noise, budget, threshold, seed in product(config.label_noise, budgets, thresholds or [None], config.seeds):
            cells = tuple(RunSpec(name, seed, beta, noise, budget, threshold) for beta in config.kl_coefs)
            if METHODS[name].reads_kl_coef:
                yield from (RunGroup((cell,)) for cell in cells)
            else:
                yield RunGroup(cells)


def overrides(config: CompareConfig) -> dict[str, dict[str, Any]]:
    """`--method_options` by method, each value as its option's type.

    Raises:
        InputError: an entry that is no METHOD.OPTION=VALUE, an option that the comparison sets itself, a bad value.
    """
    taken = {field.name for field in dataclasses.fields(GraderTrainingConfig)} | {
        "label_noise",
        "grader_call_budget",
        "kl_coef",
    }
    found: dict[str, dict[str, Any]] = {}
    for entry in config.method_options:
        path, equals, text = entry.partition("=")
        name, dot, field = path.partition(".")
        if not equals or not dot or name not in METHODS:
            raise InputError(f"--method_options {entry}: METHOD.OPTION=VALUE is needed, e.g. ppo.total_episodes=96000")
        method = METHODS[name]
        known = {own.name for own in dataclasses.fields(method.config_class)}
        if field not in known or field in taken or field in method.fixed:
            why = "is no option of the method" if field not in known else "is set by the comparison"
            raise InputError(f"--method_options {entry}: {field} {why}")
        if field in found.get(name, {}):
            raise InputError(f"--method_options {entry}: {path} stands twice")
        if path == "distill.threshold" and config.thresholds:
            raise InputError(f"--method_options {entry}: --thresholds sets it")
        kind = get_type_hints(method.config_class)[field]
        try:
            found.setdefault(name, {})[field] = TypeAdapter(kind).validate_strings(text)
        except ValidationError as error:
            raise InputError(f"--method_options {entry}: {error.errors()[0]['msg']}") from None
    return found


def run_config(cell: RunSpec, config: CompareConfig) -> MethodConfig:
    """The config of a cell's method: the comparison's terms, its own reference and grade table, the cell's place.

    Raises:
        InputError: options that cannot be.
    """
    directory = Path(config.output_dir)
    method = METHODS[cell.method]
    terms = {field.name: getattr(config, field.name) for field in dataclasses.fields(GraderTrainingConfig)}
    place: dict[str, Any] = {
        "output_dir": str(directory / RUNS / cell.name),
        "overwrite_output_dir": False,
        "sft_model_path": str(directory / REFERENCE),
        "upstream_config": None,  # the reference is made
        "grade_table": str(directory / TABLE),
        "disable_tqdm": True,
        "push_to_hub": False,
        "hub_model_id": None,
        "hub_private_repo": True,
        "seed": cell.seed,
        "kl_coef": cell.beta,
        "label_noise": cell.noise,
        "grader_call_budget": cell.budget,
    }
    threshold = {} if cell.threshold is None else {"threshold": cell.threshold}
    own = overrides(config).get(cell.method, {})
    return method.config_class(**{**terms, **place, **method.fixed, **threshold, **own})
