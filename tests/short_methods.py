"""Short runs of every method on small data, and the task that each of them gets."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from eightball_ppo.config.graded import MethodConfig
from eightball_ppo.config.registry import method_of
from eightball_ppo.methods.inputs import load_splits
from eightball_ppo.methods.run_method import run_method
from eightball_ppo.methods.task import Task, load_task

GROUPS: dict[str, Any] = {"total_episodes": 600, "steps_per_generation": 2, "num_iterations": 2}
# by name, the options of a short run
METHODS: dict[str, dict[str, Any]] = {
    "sft": {},
    "distill": {"num_train_epochs": 2},
    "distill_soft": {"num_train_epochs": 8},
    "distill_boltzmann": {"num_train_epochs": 8},
    "ppo": {"total_episodes": 480, "repeats_per_epoch": 2},
    "rloo": GROUPS,
    "grpo": GROUPS,
    "best_of_n": {},
    "exact": {"num_train_epochs": 150},
    "bag_of_words": {},
    "bag_of_characters": {},
    "frozen_linear": {},
}
WHOLE_ROWS = ("distill", "distill_soft", "distill_boltzmann", "best_of_n", "exact")
BASELINES = ("bag_of_words", "bag_of_characters", "frozen_linear")
SAMPLED = ("ppo", "rloo", "grpo")
Make = Callable[..., Any]


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a record, without the histograms inside it."""
    return {name: value for name, value in record.items() if not isinstance(value, dict)}


def train(method: str, config: MethodConfig) -> Path:
    """The finished run of `config`, which is of `method`."""
    assert method_of(config) == method
    return run_method(config)


def loaded(config: MethodConfig) -> Task:
    return load_task(config, load_splits(config))
