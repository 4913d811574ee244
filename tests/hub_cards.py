"""What the Hub's documents say of the front matter of a README.md and of `.eval_results/*.yaml`, as checks.

`check_card` and `check_eval_results` return messages; none means good. Sources: the Hub's pages on model cards, dataset
cards, manual dataset configuration, the Spaces configuration reference, and the list of licenses.
"""

import math
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import yaml
from huggingface_hub.repocard_data import model_index_to_eval_results
from huggingface_hub.utils import HFValidationError, validate_repo_id


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


FRONT_MATTER = re.compile(r"\A\ufeff?---[ \t]*\r?\n(.*?)(?:\r?\n)?---[ \t]*(?:\r?\n|\Z)", re.DOTALL)
LANGUAGE = re.compile(r"code|multilingual|[a-z]{2,3}(-[A-Za-z0-9]+)*")
COLORS = ("red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray")
SDKS = ("gradio", "docker", "static")
RELATIONS = ("finetune", "adapter", "merge", "quantized")
EMPTY = "empty or missing yaml metadata in repo card"
LICENSES = _words(
    """apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma unknown other"""
)
TASKS = _words(
    """text-classification token-classification table-question-answering question-answering zero-shot-classification
    translation summarization feature-extraction text-generation fill-mask sentence-similarity text-to-speech
    text-to-audio automatic-speech-recognition audio-to-audio audio-classification audio-text-to-text
    voice-activity-detection depth-estimation image-classification object-detection image-segmentation text-to-image
    image-to-text image-to-image image-to-video unconditional-image-generation video-classification
    reinforcement-learning robotics tabular-classification tabular-regression tabular-to-text table-to-text
    multiple-choice text-ranking text-retrieval time-series-forecasting text-to-video image-text-to-text
    image-text-to-image image-text-to-video visual-question-answering document-question-answering
    zero-shot-image-classification graph-ml mask-generation zero-shot-object-detection text-to-3d image-to-3d
    image-feature-extraction video-text-to-text keypoint-detection visual-document-retrieval any-to-any
    video-to-video other"""
)
SIZES = _words(
    "n<1K 1K<n<10K 10K<n<100K 100K<n<1M 1M<n<10M 10M<n<100M 100M<n<1B 1B<n<10B 10B<n<100B 100B<n<1T n>1T other"
)
# of each mapping inside a model-index: which keys it must have, and which it may have
INDEX_KEYS = {
    "": ({"name", "results"}, set[str]()),
    "result": ({"task", "dataset", "metrics"}, {"source"}),
    "task": ({"type"}, {"name"}),
    "dataset": ({"type", "name"}, {"config", "split", "revision", "args"}),
    "metric": ({"type", "value"}, {"name", "config", "args", "verified", "verifyToken"}),
    "source": ({"url"}, {"name"}),
}


class _Loader(yaml.SafeLoader):
    """YAML that takes no key twice, as the Hub's parser."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        if double := {str(key) for key in keys if keys.count(key) > 1}:
            raise yaml.constructor.ConstructorError(None, None, f"duplicated mapping key {double}", node.start_mark)
        return super().construct_mapping(node, deep)


def front_matter(text: str) -> Any:
    """What stands between the first two lines of dashes, parsed; None where nothing does."""
    found = FRONT_MATTER.match(text)
    return yaml.load(found[1], _Loader) if found else None


def check_card(text: str, repo_type: str) -> tuple[list[str], list[str]]:
    """The errors and the warnings of a README.md."""
    try:
        card = front_matter(text)
    except yaml.YAMLError as reason:
        return [f"YAML Metadata Error: {' '.join(str(reason).split())}"], []
    if card is None or card == {}:
        return (["Missing configuration in README"], []) if repo_type == "space" else ([], [EMPTY])
    if not isinstance(card, dict):
        return ['"value" must be of type object'], []
    of_type = {"model": _model, "dataset": _dataset, "space": _space}[repo_type]
    return [*_common(card, repo_type), *of_type(card)], []


def check_eval_results(path: str, content: bytes) -> list[str]:
    """The errors of one `.eval_results/*.yaml`."""
    from huggingface_hub._eval_results import parse_eval_result_entries

    try:
        data = yaml.load(content.decode(), _Loader)
        if not isinstance(data, list) or not data or not all(isinstance(item, dict) for item in data):
            return [f"{path}: must be a list of mappings"]
        if skipped := [item for item in data if "error" in item or "data" in item]:
            return [f"{path}: no such keys in an entry: {sorted(skipped[0])}"]
        for entry in parse_eval_result_entries(data):
            if not isinstance(entry.dataset_id, str) or not _is_repo_id(entry.dataset_id):
                return [f"{path}: {entry.dataset_id!r} is no dataset id"]
            if not isinstance(entry.task_id, str) or not _is_value(entry.value):
                return [f"{path}: task_id must be a string and value a finite number"]
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, KeyError, TypeError, AttributeError) as reason:
        return [f"{path}: {type(reason).__name__}: {reason}"]
    return []


def _is_repo_id(value: str) -> bool:
    try:
        validate_repo_id(value)
    except HFValidationError:
        return False
    return not value.startswith("/")


def _is_value(value: Any) -> bool:
    return not isinstance(value, float) or math.isfinite(value)


def _must(card: dict[str, Any], kind: type | tuple[type, ...], *keys: str) -> Iterator[str]:
    """Messages for those of `keys` that are there and of another type."""
    names = {str: "a string", bool: "a boolean", list: "an array", int: "a number", dict: "of type object"}
    kinds = kind if isinstance(kind, tuple) else (kind,)
    for key in keys:
        value = card.get(key)
        if key in card and (not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)):
            yield f'"{key}" must be {" or ".join(names[one] for one in kinds)}'


def _each(card: dict[str, Any], key: str, listed: bool = False) -> Iterator[tuple[str, str, str]]:
    """(name, value, "") of each string under `key`, a string or a list (`listed`: a list); else (.., .., message)."""
    if key not in card:
        return
    value = card[key]
    if listed and not isinstance(value, list):
        yield key, "", f'"{key}" must be an array'
        return
    for i, item in enumerate(value if isinstance(value, list) else [value]):
        name = f"{key}[{i}]" if isinstance(value, list) else key
        good = isinstance(item, str) and item != ""
        yield name, item if good else "", "" if good else f'"{name}" must be a string'


def _one_of(card: dict[str, Any], key: str, allowed: Any) -> Iterator[str]:
    for name, value, wrong in _each(card, key):
        if wrong or value not in allowed:
            yield wrong or f'"{name}" must be one of [{", ".join(sorted(allowed))}]'


def _ids(card: dict[str, Any], key: str, kind: str) -> Iterator[str]:
    for name, value, wrong in _each(card, key):
        if wrong or not _is_repo_id(value):
            yield wrong or f'"{name}" with value "{value}" is not valid. Use a {kind} id from https://hf.co/{kind}s.'


def _common(card: dict[str, Any], repo_type: str) -> Iterator[str]:
    """What the cards of all three kinds of repositories share."""
    yield from _must(card, bool, "private")
    yield from _must(card, str, "license_name", "license_link", "thumbnail", "pretty_name", "library_name")
    yield from (wrong for _, _, wrong in _each(card, "tags", listed=True) if wrong)
    yield from _one_of(card, "license", LICENSES)
    if repo_type != "dataset" and isinstance(card.get("license"), list):
        yield '"license" must be a string'
    for name, value, wrong in _each(card, "language"):
        if wrong or not LANGUAGE.fullmatch(value):
            yield wrong or f'"{name}" must be an ISO 639 code in lower case, "code" or "multilingual"'
    if repo_type != "dataset":
        yield from _ids(card, "datasets", "dataset")


def _model(card: dict[str, Any]) -> Iterator[str]:
    if isinstance(card.get("pipeline_tag"), list):
        yield '"pipeline_tag" must be a string'
    yield from _one_of(card, "pipeline_tag", TASKS)
    yield from _ids(card, "base_model", "model")
    yield from _one_of(card, "base_model_relation", RELATIONS)
    yield from (wrong for _, _, wrong in _each(card, "metrics") if wrong)
    if "model-index" in card:
        wrong = list(_model_index(card["model-index"]))
        yield from wrong
        if not wrong:
            try:
                model_index_to_eval_results(card["model-index"])
            except (ValueError, KeyError, TypeError) as reason:
                yield f'"model-index" is not valid: {reason}'


def _node(value: Any, name: str, kind: str) -> Iterator[str]:
    """Messages about the keys of one mapping of a model-index."""
    if not isinstance(value, dict):
        yield f'"{name}" must be of type object'
        return
    needed, known = INDEX_KEYS[kind]
    yield from (f'"{name}.{key}" is required' for key in sorted(needed - value.keys()))
    yield from (f'"{name}.{key}" is not allowed' for key in sorted(map(str, value.keys() - needed - known)))
    for key in {"type", "name", "url"} & value.keys():
        if not isinstance(value[key], str) or not value[key]:
            yield f'"{name}.{key}" must be a string'


def _model_index(index: Any) -> Iterator[str]:
    """Messages about the structure of a model-index, in the Hub's way of naming places."""
    if not isinstance(index, list) or not index:
        yield '"model-index" must be an array with at least one item'
        return
    for i, model in enumerate(index):
        at = f"model-index[{i}]"
        yield from _node(model, at, "")
        results = model.get("results", []) if isinstance(model, dict) else []
        if not isinstance(results, list):
            yield f'"{at}.results" must be an array'
            continue
        for j, result in enumerate(results):
            here = f"{at}.results[{j}]"
            yield from _node(result, here, "result")
            if not isinstance(result, dict):
                continue
            for part in ("task", "dataset", "source"):
                if part in result:
                    yield from _node(result[part], f"{here}.{part}", part)
            metrics = result.get("metrics", [])
            if not isinstance(metrics, list) or ("metrics" in result and not metrics):
                yield f'"{here}.metrics" must be an array with at least one item'
                continue
            for k, metric in enumerate(metrics):
                yield from _node(metric, f"{here}.metrics[{k}]", "metric")
                value = metric.get("value", 0) if isinstance(metric, dict) else 0
                if value is None or not _is_value(value):
                    yield f'"{here}.metrics[{k}].value" is required'


def _dataset(card: dict[str, Any]) -> Iterator[str]:
    yield from _one_of(card, "task_categories", TASKS)
    yield from _one_of(card, "size_categories", SIZES)
    yield from _must(card, (dict, list), "dataset_info")
    if "configs" not in card:
        return
    configs = card["configs"]
    if not isinstance(configs, list) or not all(isinstance(config, dict) for config in configs):
        yield '"configs" must be an array of objects'
        return
    names = [config.get("config_name", "default") for config in configs]
    for i, (config, name) in enumerate(zip(configs, names, strict=True)):
        if not isinstance(name, str) or not name or re.search(r'[<>:/\\|?*"]', name):
            yield f'"configs[{i}].config_name" must be a string without any of <>:/\\|?*"'
        elif names.count(name) > 1:
            yield f'"configs[{i}].config_name": there are two of "{name}"'
        yield from _must(config, bool, "default")
        if "data_files" in config:
            yield from _data_files(config["data_files"], f"configs[{i}].data_files")
        elif "data_dir" not in config:
            yield f'"configs[{i}].data_files" is required'


def _data_files(value: Any, name: str) -> Iterator[str]:
    """Messages about a path, a list of paths, or a list of splits with a path or paths each."""
    items = value if isinstance(value, list) else [value]
    if not items:
        yield f'"{name}" must not be empty'
    paths: list[Any] = []
    for item in items:
        if isinstance(item, dict):
            if item.keys() != {"split", "path"} or not re.fullmatch(r"\w+(\.\w+)*", str(item["split"])):
                yield f'"{name}" must have a split (word characters and dots) and a path'
                continue
            paths += item["path"] if isinstance(item["path"], list) else [item["path"]]
        else:
            paths.append(item)
    for path in paths:
        if not isinstance(path, str) or not path or path.startswith("/") or ".." in PurePosixPath(path).parts:
            yield f'"{name}": {path!r} is no path inside the repository'


def _space(card: dict[str, Any]) -> Iterator[str]:
    if "sdk" not in card:
        yield '"sdk" is required'
    for key, allowed in (("sdk", SDKS), ("colorFrom", COLORS), ("colorTo", COLORS)):
        yield from _one_of(card, key, allowed)
    yield from _must(card, str, "title", "app_file", "emoji", "short_description", "suggested_hardware")
    yield from _must(card, (str, int), "sdk_version", "python_version")
    yield from _must(card, bool, "pinned", "hf_oauth")
    yield from _must(card, int, "app_port")
    yield from _ids(card, "models", "model")
    for key in ("emoji", "app_file"):
        if key in card and not card[key]:
            yield f'"{key}" is not allowed to be empty'
    if any(character.isalnum() or character.isspace() for character in str(card.get("emoji", ""))):
        yield '"emoji" must be an emoji'
    if PurePosixPath(str(card.get("app_file", ""))).is_absolute() or ".." in str(card.get("app_file", "")).split("/"):
        yield '"app_file" must be relative to the root of the repository'
    if len(str(card.get("short_description", ""))) > 60:
        yield '"short_description" length must be less than or equal to 60 characters long'
