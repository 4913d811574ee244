"""Short runs of every method on small data, and the task that each of them gets."""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eightball_ppo.config.methods import (
    BestOfNConfig,
    DistillConfig,
    ExactConfig,
    GradedConfig,
    GRPOConfig,
    PPOConfig,
    ReferenceConfig,
    RLOOConfig,
)
from eightball_ppo.methods.task import Task, load_splits, load_task

GROUPS: dict[str, Any] = {"total_episodes": 600, "steps_per_generation": 2, "num_iterations": 2}
# name in results.json -> module, options class, options for a short run
METHODS: dict[str, tuple[str, type[GradedConfig], dict[str, Any]]] = {
    "sft": ("reference", ReferenceConfig, {}),
    "distill": ("distill", DistillConfig, {"num_train_epochs": 2}),
    "distill_soft": ("distill", DistillConfig, {"target": "soft", "num_train_epochs": 8}),
    "distill_boltzmann": ("distill", DistillConfig, {"target": "boltzmann", "num_train_epochs": 8}),
    "ppo": ("ppo", PPOConfig, {"total_episodes": 480, "num_generations": 2}),
    "rloo": ("rloo", RLOOConfig, GROUPS),
    "grpo": ("grpo", GRPOConfig, GROUPS),
    "best_of_n": ("best_of_n", BestOfNConfig, {}),
    "exact": ("exact", ExactConfig, {"num_train_epochs": 150}),
}
WHOLE_ROWS = ("distill", "distill_soft", "distill_boltzmann", "best_of_n", "exact")
SAMPLED = ("ppo", "rloo", "grpo")
Make = Callable[..., Any]


def numbers(record: dict[str, Any]) -> dict[str, Any]:
    """The numbers of a record, without the histograms inside it."""
    return {name: value for name, value in record.items() if not isinstance(value, dict)}


def train(method: str, config: Any) -> Path:
    return importlib.import_module(f"eightball_ppo.methods.{METHODS[method][0]}").train(config)


def loaded(config: GradedConfig) -> Task:
    return load_task(config, load_splits(config))
