"""The Hub's rules for the metadata of a README.md, for the keys that our cards use.

Sources: the Hub's pages on model cards, manual dataset configuration and the Spaces configuration reference.
"""

import math
import re
from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils import HFValidationError, validate_repo_id

COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")


def is_text(value: Any) -> bool:
    return isinstance(value, str) and value != ""


def is_repo_id(value: Any) -> bool:
    try:
        validate_repo_id(value)
    except HFValidationError:
        return False
    return not value.startswith("/")


def is_path(value: Any) -> bool:
    return is_text(value) and not value.startswith("/") and ".." not in PurePosixPath(value).parts


def all_of(check: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, list) and all(check(item) for item in value)


def is_config(value: Any) -> bool:
    named = re.fullmatch(r'[^<>:/\\|?*"]+', value.get("config_name", "default"))
    return bool(named) and is_path(value.get("data_files")) and value.get("default", True) is True


def is_model_index(index: Any) -> bool:
    try:
        _, results = model_index_to_eval_results(index)
    except (ValueError, KeyError, TypeError):
        return False
    for result in results:
        names = (result.task_type, result.metric_type, result.dataset_type, result.dataset_name)
        if not all(map(is_text, names)) or not math.isfinite(result.metric_value):
            return False
    return bool(results)


RULES: dict[str, dict[str, Callable[[Any], bool]]] = {
    "model": {
        "base_model": is_repo_id,
        "datasets": lambda value: is_repo_id(value) or all_of(is_repo_id)(value),
        "model-index": is_model_index,
        "pipeline_tag": lambda value: value == "text-classification",
    },
    "dataset": {"configs": lambda value: all_of(is_config)(value) and sum("default" in row for row in value) <= 1},
    "space": {
        "app_file": is_path,
        "colorFrom": lambda value: value in COLORS,
        "colorTo": lambda value: value in COLORS,
        "emoji": lambda value: is_text(value) and not any(c.isalnum() or c.isspace() for c in value),
        "models": all_of(is_repo_id),
        "sdk": lambda value: value in ("gradio", "docker", "static"),
        "short_description": lambda value: is_text(value) and len(value) <= 60,
    },
}
FOR_ALL = {"tags": all_of(is_text), "library_name": is_text, "title": is_text, "sdk_version": is_text}


def card_errors(text: str, repo_type: str) -> list[str]:
    """One message for each key of the metadata that the Hub would refuse, or that no rule here knows."""
    found = re.match(r"---\n(.*?)\n---\n", text, re.DOTALL)
    card = yaml.safe_load(found[1]) if found else {}
    missing = ['"sdk" is required'] if repo_type == "space" and "sdk" not in card else []
    rules = RULES[repo_type] | FOR_ALL
    return missing + [
        f'"{key}" with value {value!r} is not valid'
        for key, value in card.items()
        if key not in rules or not rules[key](value)
    ]
