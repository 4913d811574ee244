"""Trains the reference and the reward model of a graded method where they do not exist."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from eightball_ppo.config.data import DataConfig
from eightball_ppo.config.embedded import same_dataset
from eightball_ppo.config.graded import GraderTrainingConfig
from eightball_ppo.config.recipes import read_recipe, read_section
from eightball_ppo.config.stages import RewardConfig, SFTConfig
from eightball_ppo.data import Questions
from eightball_ppo.data.texts import ArrowTexts, first_occurrence_N
from eightball_ppo.errors import InputError, TrainingInterrupted
from eightball_ppo.graders.base import Grader
from eightball_ppo.graders.job import estimate_cost
from eightball_ppo.graders.registry import parse_grader
from eightball_ppo.graders.reward_functions import columns_by_text
from eightball_ppo.methods import reward_model, sft
from eightball_ppo.models.loading import check_checkpoint
from eightball_ppo.runtime.progress import checkpoints_in, staging_path
from eightball_ppo.runtime.run import read_config

SHARED_OPTIONS = (*(field.name for field in dataclasses.fields(DataConfig)), "seed", "report_to", "disable_tqdm")


def calls_reward_model(config: GraderTrainingConfig) -> bool:
    """Whether the reward model is called for grades."""
    return config.grade_table is None and any(spec.name == "bert" for spec in parse_grader(config.grader))


STAGES: dict[str, tuple[str, type[Any]]] = {
    "sft": ("--sft_model_path", SFTConfig),
    "reward": ("--reward_model_path", RewardConfig),
}


def trained_here(config: GraderTrainingConfig, section: str) -> bool:
    """Whether a model, "sft" or "reward", is or was trained by this configuration, so that others like it can be."""
    flag, stage = STAGES[section]
    if section == "reward" and not calls_reward_model(config):
        return False
    return _recipe_section(config, section) is not None or getattr(config, flag[2:]) == stage.output_dir


def _recipe_section(config: GraderTrainingConfig, section: str) -> dict[str, Any] | None:
    return None if config.upstream_config is None else read_section(config.upstream_config, section)


def train_prerequisites(
    config: GraderTrainingConfig, reference: bool = True, judge: bool = True, further: bool = False
) -> None:
    """Trains the reference and the reward model where they do not exist.

    A model at the default path is trained with the defaults; one that `--upstream_config` has a section for, by that.

    Args:
        config: The options of a graded method.
        reference: Whether the reference is needed; False where the caller has one.
        judge: Whether the grader is needed; False where the caller has one.
        further: Whether the paths are those of further models, which are trained as those at the default paths are.

    Raises:
        InputError: A missing model has no recipe; nothing is trained then.
        TrainingInterrupted: A signal stopped the training; the same command resumes it.
    """
    for train, options in check_prerequisites(config, reference, judge, further):
        try:
            if options is not None:
                train(options)
        except TrainingInterrupted as stop:
            message = f"stopped while {options.output_dir} was trained; the same command resumes it"
            raise TrainingInterrupted(message, stop.signal_number) from None


def check_prerequisites(
    config: GraderTrainingConfig, reference: bool = True, judge: bool = True, further: bool = False
) -> list[tuple[Callable[[Any], Path], Any]]:
    """What `train_prerequisites` would train, with its options (None: the model exists); trains nothing.

    Raises:
        InputError: A missing model has no recipe.
    """
    needed: list[tuple[Callable[[Any], Path], Any]] = []
    if reference:
        needed.append((sft.train, _options_if_missing(config, "sft", further)))
    if judge and calls_reward_model(config):
        needed.append((reward_model.train, _options_if_missing(config, "reward", further)))
    return needed


def reference_options(config: GraderTrainingConfig) -> SFTConfig | None:
    """The options by which to train the reference; None if it exists.

    Raises:
        InputError: It is missing and has no recipe, or it exists and cannot be used.
    """
    return _options_if_missing(config, "sft")


def _options_if_missing(config: GraderTrainingConfig, section: str, further: bool = False) -> Any | None:
    """The options by which to train a model; None if it exists and can be used."""
    flag, stage = STAGES[section]
    path: str = getattr(config, flag.removeprefix("--"))
    recipe, stage_options = config.upstream_config, _recipe_section(config, section)
    trainable = stage_options is not None or path == stage.output_dir or further
    if not trainable or Path(path).exists():
        check_checkpoint(path, flag)
        if trainable:
            _check_same_data(Path(path), flag, config)
        return None
    options = {} if recipe is None or stage_options is None else read_recipe(recipe, stage)
    options |= {name: getattr(config, name) for name in SHARED_OPTIONS}
    options["dataset_train_split"] = config.shared_train_split
    if section == "sft":
        options["max_length"] = config.max_length
    options |= {**(stage_options or {}), "output_dir": path, **({"seed": config.seed} if further else {})}
    if checkpoints_in(staging_path(Path(path).absolute())):  # it was stopped as a part of this command
        options["resume_from_checkpoint"] = "true"
    return stage(**options)


def _check_same_data(run: Path, flag: str, config: GraderTrainingConfig) -> None:
    """Raises InputError if a run that would be reused by default was trained on other data."""
    trained_on = read_config(run)["dataset_name"]
    if not same_dataset(trained_on, config.dataset_name):
        raise InputError(
            f"{run}: was trained on {trained_on}, not on --dataset_name {config.dataset_name}; name another {flag}, or "
            f"pass {flag} ./{run} to use it all the same"
        )


def estimate_stage_cost(
    config: GraderTrainingConfig, questions: dict[str, Questions], judge: Grader | None = None
) -> str:
    """What grading `questions` would cost, as a sentence; trains nothing and makes no calls."""
    texts = ArrowTexts.concatenate(split.texts for split in questions.values())
    if judge is None and calls_reward_model(config) and not Path(config.reward_model_path).exists():
        unique = first_occurrence_N(texts).sum()
        return f"{unique} questions for --grader {config.grader}: its reward model would be trained first"
    return estimate_cost(config, config.label_set(), texts, judge, columns_by_text(*questions.values()))
