"""From a YAML file to the options of one stage.

A file holds either the options of one stage, or a recipe for several: then a mapping under a stage's name (`sft:`,
`reward:`, `ppo:` ...) holds options of that stage alone, and every other option is for all stages that have it.
"""

import functools
import os
from pathlib import Path
from typing import Any, get_type_hints

from eightball_ppo.config import stages
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.embedded import recipe_file
from eightball_ppo.config.graded import GraderTrainingConfig
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.config.registry import commands
from eightball_ppo.config.trl_unsupported import TRL_OPTIONS
from eightball_ppo.errors import InputError


@functools.cache
def sections() -> dict[str, type[Any]]:
    """The stages that a recipe may have a section for, and their config classes."""
    return {
        "sft": stages.SFTConfig,
        "reward": stages.RewardConfig,
        "grade": stages.GradeConfig,
        "audit": stages.AuditConfig,
        **{name: spec.config_class for name, spec in commands().items()},
        "compare": CompareConfig,
    }


def read_recipe(name: str, config_class: type[Any]) -> dict[str, Any]:
    """The options of one stage in a file; sets the variables of its `env` mapping, as TRL does.

    A recipe with a section for the reference or the reward model is also the `upstream_config` of a graded stage.

    Args:
        name: A YAML file, or the name of a recipe of the package.
        config_class: The dataclass of the stage's options.

    Returns:
        Each option that the file has for the stage, as its field's type.

    Raises:
        InputError: The file is missing or unreadable, an option is unknown or refused, or a value has the wrong type.
    """
    file = recipe_file(name)
    content = _content(file)
    variables = content.pop("env", None) or {}
    try:
        os.environ.update({str(name): str(value) for name, value in variables.items()})
    except (AttributeError, ValueError) as error:  # no mapping, or a name or value that the system does not take
        raise InputError(f"{file}: env: a mapping of NAME: value is needed, got {variables!r:.60} ({error})") from None
    found = {name: content.pop(name) for name in sections() if isinstance(content.get(name), dict)}
    if not found:
        return _typed(content, config_class, file)
    for key in content:
        if not any(key in get_type_hints(stage) for stage in sections().values()):
            what = "no command or installed method" if isinstance(content[key], dict) else "unknown option"
            raise InputError(f"{file}: {what} {key!r}; see --help")
    known = get_type_hints(config_class)
    section = next((name for name, stage in sections().items() if stage is config_class), "")
    options = _typed({key: value for key, value in content.items() if key in known}, config_class, file)
    options |= _typed(found.get(section, {}), config_class, file)
    if issubclass(config_class, GraderTrainingConfig) and {"sft", "reward"} & set(found):
        options.setdefault("upstream_config", name)
    return options


def read_section(name: str, section: str) -> dict[str, Any] | None:
    """The options under `section` of the recipe `name`, each as its field's type; None without such a section.

    Raises:
        InputError: As `read_recipe`.
    """
    file = recipe_file(name)
    options = _content(file).get(section)
    return _typed(options, sections()[section], file) if isinstance(options, dict) else None


def _content(file: Path) -> dict[str, Any]:
    import yaml

    try:
        text = file.read_text(encoding="utf-8")
        content = yaml.safe_load(text)
        _check_unique(yaml.compose(text, yaml.SafeLoader))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise InputError(f"{file}: unreadable YAML ({' '.join(str(error).split())})") from None
    if not isinstance(content, dict):
        raise InputError(f"{file}: a YAML mapping of options is needed")
    return content


def _check_unique(node: Any) -> None:
    """Raises ValueError where a mapping, or one inside it, has a key twice: YAML would take the last one."""
    names: set[str] = set()
    for key, value in node.value if getattr(node, "tag", "").endswith(":map") else ():
        if key.value in names:
            raise ValueError(f"{key.value!r} appears twice, the second time on line {key.start_mark.line + 1}")
        names.add(key.value)
        _check_unique(value)


def _typed(content: dict[str, Any], config_class: type[Any], file: Path) -> dict[str, Any]:
    from pydantic import TypeAdapter, ValidationError

    types = get_type_hints(config_class)
    options: dict[str, Any] = {}
    for key, value in content.items():
        if config_class is PPOConfig and key in TRL_OPTIONS:
            raise InputError(f"{file}: {key}: not an option here: {TRL_OPTIONS[key][1]}")
        if key not in types:
            raise InputError(f"{file}: unknown option {key!r}; see --help")
        if isinstance(value, bool) and key == "resume_from_checkpoint":
            value = str(value).lower()  # as the flag has it
        if isinstance(value, bool) and types[key] is not bool:
            raise InputError(f"{file}: {key} {value!r}: this option takes no yes or no; see --help")
        try:
            options[key] = TypeAdapter(types[key]).validate_python(value)
        except ValidationError as error:
            raise InputError(f"{file}: {key} {value!r}: {error.errors()[0]['msg']}") from None
    return options
