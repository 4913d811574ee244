"""The labels of a stage without `--labels`: those of the model that it starts from, or those of its data."""

import dataclasses
import json
import re
from typing import TypeVar

from eightball_ppo.config.base import RunConfig
from eightball_ppo.config.graded import GraderTrainingConfig
from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.data import label_names, train_split
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.loading import check_checkpoint
from eightball_ppo.runtime.moved_runs import locate
from eightball_ppo.runtime.paths import ADAPTER_CONFIG, local_path

C = TypeVar("C", bound=RunConfig)


def with_labels(config: C) -> C:
    """`config` with its labels: those given, or those of the reference, of the reward model, or of the data.

    Labels that are given as well as those of the reference are put into the order of the reference.

    Raises:
        InputError: A model or data that cannot be read, or fewer than two labels.
    """
    names = None
    if isinstance(config, GraderTrainingConfig):
        try:
            names = _of_model(config.sft_model_path, "--sft_model_path")
        except InputError:
            if config.labels is None:
                raise  # otherwise loading it says what is wrong
        if names is not None:
            return in_model_order(config, LabelSet.of(names))
    if config.labels is not None:
        return config
    named = re.split("[,:]", config.grader) if isinstance(config, GraderConfig) else []
    if isinstance(config, GraderConfig) and config.grade_table is None and "bert" in named:
        names = _of_model(config.reward_model_path, "--reward_model_path")
    if names is None:
        first: RunConfig = config
        if isinstance(config, GraderConfig):  # the reference is yet to be trained: the data are those of the SFT
            shared = {field.name: getattr(config, field.name) for field in dataclasses.fields(RunConfig)}
            first = SFTConfig(**{**shared, "dataset_train_split": config.shared_train_split})
        try:
            names = label_names(first, train_split(first))
        except InputError as error:
            names = _of_default_models(config)
            if names is None:
                raise InputError(f"{error} (read for its labels, since --labels names none)") from None
    return dataclasses.replace(config, labels=list(LabelSet.of(names).names))


def in_model_order(config: C, labels: LabelSet) -> C:
    """`config` with the labels of its model; where `--labels` has other names, these stay and are refused later."""
    other = config.labels is not None and sorted(config.labels) != sorted(labels.names)
    return config if other else dataclasses.replace(config, labels=list(labels.names))


def _of_default_models(config: RunConfig) -> list[str] | None:
    """The labels of the reward model or of the default reference, for a stage that only asks a grader."""
    if not isinstance(config, GraderConfig) or isinstance(config, GraderTrainingConfig):
        return None
    names = _of_model(config.reward_model_path, "--reward_model_path")
    return _of_model(SFTConfig.output_dir, "--sft_model_path") if names is None else names


def _of_model(name: str, flag: str) -> list[str] | None:
    """The labels of a classifier; None where it does not exist yet."""
    path = local_path(name)
    if path is not None and not path.exists():
        return None
    check_checkpoint(name, flag)
    from transformers import PreTrainedConfig

    from eightball_ppo.models.safe_loading import checked_loading

    with checked_loading(name, flag, "not a loadable checkpoint"):
        if path is not None and (path / ADAPTER_CONFIG).is_file():
            base = json.loads((path / ADAPTER_CONFIG).read_text())["base_model_name_or_path"]
            return _of_model(locate(base, path), flag)
        content, _ = PreTrainedConfig.get_config_dict(name if path is None else str(path))
        id2label = PreTrainedConfig.from_dict(content).id2label  # of any architecture, without its code
        return list(LabelSet.of_model(id2label).names)
