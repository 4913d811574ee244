"""Several finished runs as one Markdown table: the mean over seeds, with the lowest and the highest."""

import json
from pathlib import Path
from typing import Any

from eightball_ppo.errors import InputError
from eightball_ppo.report.markdown import escaped
from eightball_ppo.runtime.run import RESULTS, read_config, read_results

_METRICS = {
    "sft": ("heldout: gold_accuracy", "heldout: prior_p_value", "seconds"),
    "reward": ("heldout: accuracy", "heldout: ece_before_scaling", "heldout: ece", "seconds"),
}
_GRADED_METRICS = (
    "train: optimum_fraction",
    "train: kl",
    "heldout: optimum_fraction",
    "heldout: expected_score",
    "heldout: kl",
    "heldout: gold_accuracy",
    "seconds",
)
_NO_SETTINGS = {"seed", "sft_model_path", "reward_model_path", "log_completions"}


def _trained(directory: Path) -> dict[str, Any]:
    """The results of a run that trained something.

    Raises:
        InputError: the directory holds no finished run, or one that trained nothing.
    """
    results = read_results(directory)
    if "splits" not in results:
        raise InputError(f"{directory}: a run of {results['method']}, which trains nothing; leave it out")
    metrics = _METRICS.get(results["method"], _GRADED_METRICS)
    try:
        known = [float(value) for metric in metrics if (value := _value(results, metric)) is not None]
        return {**results, "seed": int(results["seed"])} if known else results
    except (AttributeError, KeyError, TypeError, ValueError):
        raise InputError(f"{directory}: {RESULTS} is damaged, or of another version; make the run anew") from None


def _value(results: dict[str, Any], metric: str) -> float | None:
    split, separator, name = metric.partition(": ")
    return results["splits"][split].get(name) if separator else results[metric]


def _cell(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = sum(known) / len(known)
    return f"{mean:.3f}" if len(known) == 1 else f"{mean:.3f} ({min(known):.3f} to {max(known):.3f})"


def _settings(directory: Path, free: frozenset[str]) -> dict[str, Any]:
    """What makes two runs alike but for the seed: the resolved options that are neither seed nor model nor free."""
    return {name: value for name, value in read_config(directory).items() if name not in free | _NO_SETTINGS}


def markdown_tables(directories: list[Path], free: frozenset[str]) -> str:
    """One table per kind of run (sft, reward, graded methods); a row per group of runs that differ in the seed alone,
    or in options that are `free`.

    Raises:
        InputError: a directory that holds no finished run, or a seed that stands twice in a group.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for directory in directories:
        results, own = _trained(directory), _settings(directory, free)
        key = json.dumps([results["method"], own], sort_keys=True)
        if any(run["seed"] == results["seed"] for run in groups.get(key, [])):
            raise InputError(f"{directory}: seed {results['seed']} of this run stands twice")
        groups.setdefault(key, []).append(results)
        settings[key] = own
    tables: dict[str, list[str]] = {}
    for key, runs in groups.items():
        kind = runs[0]["method"] if runs[0]["method"] in _METRICS else "graded"
        metrics = _METRICS.get(kind, _GRADED_METRICS)
        head = ["| run | seeds | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 2) + "|"]
        peers = [other for name, other in settings.items() if json.loads(name)[0] == runs[0]["method"]]
        label = " ".join([runs[0]["method"], *_differing(settings[key], peers)])
        cells = [_cell([_value(run, metric) for run in runs]) for metric in metrics]
        seeds = ", ".join(str(run["seed"]) for run in runs)
        tables.setdefault(kind, head).append(f"| {escaped(label)} | {seeds} | " + " | ".join(cells) + " |")
    return "\n\n".join("\n".join(lines) for lines in tables.values())


def _differing(own: dict[str, Any], peers: list[dict[str, Any]]) -> list[str]:
    """`name=value` of the settings in which a run differs from another run of its method."""
    return [f"{name}={value}" for name, value in own.items() if any(peer.get(name) != value for peer in peers)]
