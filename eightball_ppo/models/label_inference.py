"""Which labels a stage has, where nobody says: those of the model that it starts from, or those of its data."""

import dataclasses
import json
from typing import TypeVar

from eightball_ppo.config.base import RunConfig
from eightball_ppo.config.graded import GraderTrainingConfig
from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.config.stages import SFTConfig
from eightball_ppo.data import label_names, train_split
from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.loading import check_checkpoint
from eightball_ppo.runtime.paths import local_path

C = TypeVar("C", bound=RunConfig)


def with_labels(config: C) -> C:
    """`config` with its labels: those given, or those of the reference, or of the reward model, or of the data.

    Raises:
        InputError: a model or data that cannot be read, or fewer than two labels.
    """
    if config.labels is not None:
        return config
    names = None
    if isinstance(config, GraderTrainingConfig):
        names = _of_model(config.sft_model_path, "--sft_model_path")
    elif isinstance(config, GraderConfig) and config.grade_table is None and "bert" in config.grader:
        names = _of_model(config.reward_model_path, "--reward_model_path")
    if names is None:
        first = _first_stage(config)
        try:
            names = label_names(first, train_split(first))
        except InputError as error:
            raise InputError(f"{error} (read for its labels, since --labels names none)") from None
    return dataclasses.replace(config, labels=list(LabelSet.of(names).names))


def _first_stage(config: RunConfig) -> RunConfig:
    """The stage whose data say which labels there are: of a method whose reference is yet to be trained, the SFT."""
    if not isinstance(config, GraderConfig):
        return config
    shared = {own.name: getattr(config, own.name) for own in dataclasses.fields(RunConfig)}
    return SFTConfig(**{**shared, "dataset_train_split": config.shared_train_split})


def _of_model(name: str, flag: str) -> list[str] | None:
    """The labels of a classifier; None where it does not exist yet."""
    path = local_path(name)
    if path is not None and not path.exists():
        return None
    check_checkpoint(name, flag)
    try:
        from eightball_ppo.models.safe_loading import check_files, first_line  # heavy

        check_files(name, flag)
        if path is not None and (path / "adapter_config.json").is_file():
            return _of_model(json.loads((path / "adapter_config.json").read_text())["base_model_name_or_path"], flag)
        from transformers import PreTrainedConfig

        said, _ = PreTrainedConfig.get_config_dict(name if path is None else str(path))
        id2label = PreTrainedConfig.from_dict(said).id2label  # of any architecture, without its code
        return list(LabelSet.of_model(id2label).names)
    except InputError:
        raise
    except Exception as error:  # of a config that holds anything: KeyError, TypeError, RecursionError ...
        raise InputError(f"{flag} {name}: not a loadable checkpoint ({first_line(error)})") from None
