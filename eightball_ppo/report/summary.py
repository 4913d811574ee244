"""Several finished runs as one Markdown table: the mean over seeds, with minimum and maximum."""

import json
from pathlib import Path
from typing import Any

from eightball_ppo.errors import InputError
from eightball_ppo.report.markdown import escaped
from eightball_ppo.runtime.run import CONFIG, RESULTS, read_config, read_results

_METRICS = {
    "sft": ("heldout: gold_accuracy", "heldout: prior_p_value", "seconds"),
    "reward": ("heldout: accuracy", "heldout: ece_before_scaling", "heldout: ece", "seconds"),
}
_GRADED_METRICS = (
    *("heldout: gold_accuracy", "heldout: gold_probability", "heldout: brier", "heldout: kl"),
    *("heldout: judge_agreement", "train: optimum_fraction", "train: kl", "seconds"),
)
_GOLD = ("gold_accuracy", "gold_probability", "brier")  # absent without gold labels
_IGNORED_OPTIONS = {"seed", "sft_model_path", "reward_model_path", "log_completions"}


def _read(directory: Path) -> dict[str, Any]:
    """The results of a run that trained something.

    Raises:
        InputError: the directory holds no finished run, or one that trained nothing.
    """
    results = read_results(directory)
    if "splits" not in results:
        raise InputError(f"{directory}: a run of {results['method']}, which trains nothing; leave it out")
    try:
        for metric in _METRICS.get(results["method"], _GRADED_METRICS):
            if (value := _value(results, metric)) is not None and not isinstance(value, int | float):
                raise TypeError
            float(value or 0)
        return {**results, "seed": int(results["seed"])}
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError):
        raise InputError(f"{directory}: {RESULTS} is damaged, or of another version; run it again") from None


def _kind(results: dict[str, Any]) -> str:
    """Which table shows a run."""
    return str(results["method"]) if results["method"] in _METRICS else "graded"


def _value(results: dict[str, Any], metric: str) -> float | None:
    split, separator, name = metric.partition(": ")
    return results["splits"][split].get(name) if separator else results[metric]


def _cell(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = sum(known) / len(known)
    return f"{mean:.3f}" if len(known) == 1 else f"{mean:.3f} ({min(known):.3f} to {max(known):.3f})"


def markdown_tables(directories: list[Path], without_effect: frozenset[str]) -> str:
    """One table per kind of run (sft, reward, graded methods), a row per group of runs with the same settings.

    Args:
        directories: of finished runs.
        without_effect: names of options in which the runs of a group may differ, beside seed and model paths.

    Raises:
        InputError: a directory without a finished run, or a seed that occurs twice in a group.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    settings: dict[str, dict[str, Any]] = {}
    for directory in directories:
        results, config = _read(directory), read_config(directory)
        options = {name: value for name, value in config.items() if name not in without_effect | _IGNORED_OPTIONS}
        try:
            key = json.dumps([results["method"], options], sort_keys=True)
        except (TypeError, ValueError, RecursionError):
            raise InputError(f"{directory}: {CONFIG} is damaged, or of another version; run it again") from None
        if any(run["seed"] == results["seed"] for run in groups.get(key, [])):
            raise InputError(f"{directory}: seed {results['seed']} of this run occurs twice")
        groups.setdefault(key, []).append(results)
        settings[key] = options
    tables: dict[str, list[str]] = {}
    for key, runs in groups.items():
        method = runs[0]["method"]
        kind = _kind(runs[0])
        peer_runs = [run for others in groups.values() for run in others if _kind(run) == kind]
        metrics = [
            metric
            for metric in _METRICS.get(method, _GRADED_METRICS)
            if metric.partition("heldout: ")[2] not in _GOLD
            or any(_value(run, metric) is not None for run in peer_runs)
        ]
        head = ["| run | seeds | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 2) + "|"]
        peers = [options for other, options in settings.items() if groups[other][0]["method"] == method]
        different = [
            f"{name}={value}" for name, value in settings[key].items() if any(peer.get(name) != value for peer in peers)
        ]
        cells = [_cell([_value(run, metric) for run in runs]) for metric in metrics]
        label, seeds = " ".join([method, *different]), ", ".join(str(run["seed"]) for run in runs)
        table = tables.setdefault(kind, head)
        table.append(f"| {escaped(label)} | {seeds} | " + " | ".join(cells) + " |")
    return "\n\n".join("\n".join(lines) for lines in tables.values())
