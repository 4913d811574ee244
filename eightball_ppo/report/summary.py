"""Several finished runs as one Markdown table: the mean over seeds, with the lowest and the highest."""

import json
from pathlib import Path
from typing import Any

from eightball_ppo.errors import InputError

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


def read_results(directory: Path) -> dict[str, Any]:
    """The results.json of a finished run.

    Raises:
        InputError: the directory holds none, or one that is no JSON object with a method.
    """
    file = directory / "results.json"
    try:
        results = json.loads(file.read_text(encoding="utf-8"))
        results["method"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{directory}: no finished run, {file.name} is missing or damaged") from None
    return results


def _value(results: dict[str, Any], metric: str) -> float | None:
    split, separator, name = metric.partition(": ")
    return results["splits"][split].get(name) if separator else results[metric]


def _cell(values: list[float | None]) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return "-"
    mean = sum(known) / len(known)
    return f"{mean:.3f}" if len(known) == 1 else f"{mean:.3f} ({min(known):.3f} to {max(known):.3f})"


def markdown_tables(directories: list[Path]) -> str:
    """One table per kind of run (sft, reward, graded methods); a row per method, grader, beta, threshold and preset."""
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for directory in directories:
        results = read_results(directory)
        kind = results["method"] if results["method"] in _METRICS else "graded"
        grader = str(results.get("grader", "")).split(":")[0]
        label = " ".join([results["method"], *([f"{grader} beta {results['beta']:g}"] if kind == "graded" else [])])
        if results.get("preset") == "original":
            label += " (original preset)"
        groups.setdefault((kind, label), []).append(results)
    tables = []
    for kind in dict.fromkeys(kind for kind, _ in groups):
        metrics = _METRICS.get(kind, _GRADED_METRICS)
        lines = ["| run | seeds | " + " | ".join(metrics) + " |", "|---" * (len(metrics) + 2) + "|"]
        for (own, label), runs in groups.items():
            if own == kind:
                seeds = ", ".join(str(run["seed"]) for run in runs)
                cells = [_cell([_value(run, metric) for run in runs]) for metric in metrics]
                lines.append(f"| {label} | {seeds} | " + " | ".join(cells) + " |")
        tables.append("\n".join(lines))
    return "\n\n".join(tables)
