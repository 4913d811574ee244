"""The reference and the reward model of a graded method: trained by their defaults or a recipe where missing."""

import dataclasses
from pathlib import Path
from typing import Any

from eightball_ppo.config.data import DataConfig
from eightball_ppo.config.graded import GraderTrainingConfig
from eightball_ppo.config.recipes import read_recipe, read_section
from eightball_ppo.config.stages import RewardConfig, SFTConfig
from eightball_ppo.data import Questions
from eightball_ppo.data.texts import ArrowTexts, first_occurrence_N
from eightball_ppo.errors import InputError, TrainingInterrupted
from eightball_ppo.graders.base import Grader
from eightball_ppo.graders.job import estimate_cost
from eightball_ppo.graders.registry import parse_grader
from eightball_ppo.methods import reward_model, sft
from eightball_ppo.models.loading import check_checkpoint
from eightball_ppo.runtime.progress import checkpoints_in, staging_path
from eightball_ppo.runtime.run import read_config

SHARED_OPTIONS = (*(own.name for own in dataclasses.fields(DataConfig)), "seed", "report_to", "disable_tqdm")


def asks_reward_model(config: GraderTrainingConfig) -> bool:
    """Whether the reward model is asked for grades."""
    return config.grade_table is None and any(spec.name == "bert" for spec in parse_grader(config.grader))


def train_prerequisites(config: GraderTrainingConfig, reference: bool = True, judge: bool = True) -> None:
    """Train the reference and the reward model where they do not exist yet: those that stand at the default path, by
    the defaults, and those that the recipe `--upstream_config` has a section for, by that. Without `reference`, or
    without `judge`, the caller has one.

    Raises:
        InputError: a model that is not there and that nothing says how to train; nothing is trained then.
    """
    wanted: list[tuple[str, str, str, Any, Any]] = []
    if reference:
        wanted.append(("sft", config.sft_model_path, "--sft_model_path", SFTConfig, sft.train))
    if judge and asks_reward_model(config):
        wanted.append(("reward", config.reward_model_path, "--reward_model_path", RewardConfig, reward_model.train))
    missing = []
    for section, path, flag, stage, train in wanted:
        recipe = None if config.upstream_config is None else Path(config.upstream_config)
        own = None if recipe is None else read_section(recipe, section)
        ours = own is not None or path == stage.output_dir
        if not ours or Path(path).exists():
            check_checkpoint(path, flag)
            if ours:
                _check_same_data(Path(path), flag, config)
        else:
            shared = read_recipe(recipe, stage) if recipe is not None and own is not None else {}
            inherited = {name: getattr(config, name) for name in SHARED_OPTIONS}
            inherited["dataset_train_split"] = config.shared_train_split
            length = {"max_length": config.max_length} if section == "sft" else {}
            options = {**shared, **inherited, **length, **(own or {}), "output_dir": path}
            if checkpoints_in(staging_path(Path(path).absolute())):  # it was stopped, as a part of this very job
                options["resume_from_checkpoint"] = "true"
            missing.append((train, stage(**options)))
    for train, options_of_stage in missing:
        try:
            train(options_of_stage)
        except TrainingInterrupted as stop:
            told = f"stopped while {options_of_stage.output_dir} was trained; the same command goes on with it"
            raise TrainingInterrupted(told, stop.signal_number) from None


def _check_same_data(run: Path, flag: str, config: GraderTrainingConfig) -> None:
    """Raises InputError if a run that would be reused by default was trained on other data."""
    trained_on = read_config(run)["dataset_name"]
    if Path(trained_on).absolute() != Path(config.dataset_name).absolute():
        raise InputError(
            f"{run}: was trained on {trained_on}, not on --dataset_name {config.dataset_name}; name another {flag}, or "
            "this one with ./ in front to use it all the same"
        )


def estimate_stage_cost(
    config: GraderTrainingConfig, questions: dict[str, Questions], judge: Grader | None = None
) -> str:
    """What grading would cost, in words; trains nothing and asks nobody."""
    texts = ArrowTexts.concatenate(split.texts for split in questions.values())
    if judge is None and asks_reward_model(config) and not Path(config.reward_model_path).exists():
        unique = first_occurrence_N(texts).sum()
        return f"{unique} questions for --grader {config.grader}: its reward model would be trained first"
    return estimate_cost(config, config.label_set(), texts, judge)
