"""Model cards, made from the records of a run alone, without network access."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, EvalResultEntry, ModelCardData, eval_result_entries_to_yaml

from eightball_ppo.config.base import RunConfig
from eightball_ppo.config.embedded import same_dataset
from eightball_ppo.config.model import SMALL_CLASSIFIER
from eightball_ppo.config.registry import METHODS
from eightball_ppo.data.sources import is_on_hub
from eightball_ppo.hub import card_words as words
from eightball_ppo.hub.card_tables import cell, methods_table, numbers_table
from eightball_ppo.models.packaged import packaged_base
from eightball_ppo.report.markdown import code, escaped, fenced
from eightball_ppo.runtime.moved_runs import locate
from eightball_ppo.runtime.paths import ADAPTER, local_path
from eightball_ppo.runtime.redaction import portable
from eightball_ppo.runtime.run import CONFIG, ENVIRONMENT, read_config, read_environment

PUSH_RECORD = "hub.json"  # in a run directory: the repository that it was pushed to
REPORTED = {  # held-out metrics in the metadata, under the Hub's name if it has one
    "accuracy": "accuracy",
    "gold_accuracy": "accuracy",
    "expected_score": "expected_score",
    "kl": "kl",
    "optimum_fraction": "optimum_fraction",
}


def write_card(directory: Path, results: dict[str, Any]) -> None:
    """Writes `README.md`, the model card of the run that finishes in `directory`."""
    (directory / "README.md").write_text(model_card(directory, results), encoding="utf-8")


def model_card(
    directory: Path,
    results: dict[str, Any],
    repo_id: str | None = None,
    comparison: Path | None = None,
    checkpoint: Path | None = None,
) -> str:
    """The card of a run: what it is, how to load it, every number of its results, what it is good for.

    Args:
        directory: The run.
        results: Its results.json.
        repo_id: The repository that the model is loaded from; by default the name of the directory.
        comparison: The directory of a comparison whose table of methods the card shows.
        checkpoint: Where the model is that the card describes, if not in `directory`.

    Raises:
        InputError: Records are missing or damaged.
    """
    options = read_config(directory)
    base = base_model(options, directory)
    config, environment, results = portable(options), portable(read_environment(directory)), portable(results)
    name = (repo_id or directory.name.removesuffix(".unfinished")).split("/")[-1]
    sections = [
        f"---\n{metadata(results, config, name, base).to_yaml()}\n---\n\n# {escaped(name)}",
        words.description(results["method"]),
        f"Data: {code(config['dataset_name'])}. Labels: {', '.join(code(label) for label in config['labels'])}.",
        *_snippets(checkpoint or directory, config, repo_id or name, base),
        "## Numbers of this run\n\n" + numbers_table(results),
        methods_table(comparison, results["beta"]) if comparison else "",
        _figures(directory),
        _grader(results, config),
        _settings(results, config, environment),
        "## Use and limits\n\n" + words.limits(results["method"]),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _snippets(directory: Path, config: dict[str, Any], name: str, base: str | None) -> list[str]:
    """Code that loads what the run saved: a full model, adapters alone, or both."""
    if not (directory / "config.json").is_file():
        return [words.bare_adapter_snippet(name, config["sft_model_path"])]
    model_config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    example = words.EXAMPLE if same_dataset(config["dataset_name"], RunConfig.dataset_name) else words.ANY_TEXT
    full = words.snippet(name, model_config, example)
    if not (directory / ADAPTER).is_dir():
        return [full]
    return [full, words.adapter_snippet(name, base, len(model_config["id2label"]))]


def metadata(results: dict[str, Any], config: dict[str, Any], name: str, base: str | None) -> ModelCardData:
    """The metadata for the Hub: library, task, base model, data, tags, and the results on held-out questions."""
    method = results["method"]
    on_hub = config["dataset_name"] if is_on_hub(config["dataset_name"]) else None
    data = Path(config["dataset_name"]).name
    return ModelCardData(
        model_name=name,
        library_name="transformers",
        pipeline_tag="text-classification",
        base_model=base,
        datasets=on_hub,
        tags=["eightball-ppo", *(METHODS[method].tags if method in METHODS else ()), method],
        eval_results=[
            EvalResult(
                task_type="text-classification",
                dataset_type=on_hub or data,
                dataset_name=data,
                dataset_split="heldout",
                metric_type=REPORTED[kind],
                metric_name=f"{kind}, held-out questions",
                metric_value=value,
            )
            for kind, value in _heldout_metrics(results).items()
        ],
    )


def eval_results_yaml(results: dict[str, Any], config: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The content of `.eval_results/heldout.yaml` in the Hub's format; None for a dataset that is not on the Hub."""
    if not is_on_hub(config["dataset_name"]):
        return None
    shared = {"dataset_id": config["dataset_name"], "notes": "held-out questions"}
    metrics = _heldout_metrics(results)
    return eval_result_entries_to_yaml(
        [EvalResultEntry(task_id=kind, value=value, **shared) for kind, value in metrics.items()]
    )


def _heldout_metrics(results: dict[str, Any]) -> dict[str, float]:
    heldout = results["splits"]["heldout"]
    return {kind: heldout[kind] for kind in REPORTED if heldout.get(kind) is not None}


def base_model(config: dict[str, Any], directory: Path) -> str | None:
    """The Hub id of the model that a run started from: an encoder, or the reference if it was pushed."""
    name = config.get("model_name_or_path", config.get("sft_model_path"))
    if name in (None, SMALL_CLASSIFIER):
        return None
    path = local_path(name := locate(name, directory))
    return packaged_base(name) if path is None else pushed_id(path)


def pushed_id(directory: Path) -> str | None:
    """The Hub id that a model was pushed to; None if it was not pushed."""
    try:
        record = json.loads((directory / PUSH_RECORD).read_text(encoding="utf-8"))
        return str(record["repo_id"]) if record["repo_type"] == "model" else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _figures(directory: Path) -> str:
    shown = {"curves.png": "Learning curves", "labels.png": "Mean probability of each label, before and after"}
    return "\n\n".join(f"![{alt}]({name})" for name, alt in shown.items() if (directory / name).is_file())


def _grader(results: dict[str, Any], config: dict[str, Any]) -> str:
    """The grader, its prompt, and the number of its grades and calls."""
    if "grader" not in results or "grades" not in results:
        return ""
    grades = results["grades"]
    cost = "" if grades["cost"] is None else f", cost {grades['cost']:.4g}"
    lines = [
        f"Grader: {code(config.get('grade_table') or config['grader'])}, fingerprint {code(results['grader'])}. "
        f"Score type: {code(results['score_type'])}.",
        f"Training observed {results['grader_calls']:,} (question, label) grades. The grades of all questions "
        f"took {grades['calls']:,} calls, of which this run made {grades['calls_made']:,} ({grades['tokens']:,} tokens"
        f"{cost}). Failed or refused grades: {grades['failed'] + grades['refused']:,}.",
        fenced(json.dumps(grades["grader_settings"], indent=2, ensure_ascii=False), "json"),
    ]
    if grades.get("prompt"):
        lines += ["Its prompt:", fenced(grades["prompt"], "jinja")]
    return "## Grader\n\n" + "\n\n".join(lines)


def _settings(results: dict[str, Any], config: dict[str, Any], environment: dict[str, Any]) -> str:
    plain = {key: value for key, value in results.items() if not isinstance(value, dict | list) and key != "method"}
    records = "\n".join(f"- {code(key)}: {code(cell(value))}" for key, value in plain.items())
    versions = ", ".join(f"{name} {version}" for name, version in environment["packages"].items())
    options = json.dumps(config, indent=2, ensure_ascii=False)
    return (
        f"## How it was made\n\n{records}\n\nPython {environment['python']}, {versions}; "
        f"{environment['cuda'] or 'CPU'}, {environment['processes']} process(es). The records are {code(ENVIRONMENT)} "
        f"and {code(CONFIG)}.\n\n"
        f"<details><summary>Every option</summary>\n\n{fenced(options, 'json')}\n\n</details>"
    )
