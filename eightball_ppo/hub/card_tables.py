"""The tables of the cards: the numbers of a run beside its reference, and the methods of a comparison."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eightball_ppo.errors import InputError
from eightball_ppo.report.markdown import code, escaped
from eightball_ppo.report.style import row_name

COMPARED = (
    ("heldout", "gold_accuracy"),
    ("heldout", "gold_probability"),
    ("heldout", "brier"),
    ("heldout", "kl"),
    ("train", "optimum_fraction"),
)


def cell(value: Any) -> str:
    """A value of a record with at most 4 significant digits."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def numbers_table(results: dict[str, Any]) -> str:
    """Every metric of every split, beside the reference's if the run has one."""
    columns = {}
    for split in results["splits"]:
        if "reference" in results:
            columns[f"{split}, reference"] = results["reference"][split]
        columns[f"{split}, this model" if "reference" in results else split] = results["splits"][split]
    metrics = dict.fromkeys(metric for column in columns.values() for metric in column)
    rows = [[code(metric), *(escaped(cell(column.get(metric))) for column in columns.values())] for metric in metrics]
    return _table(["metric", *columns], rows)


def methods_table(comparison: Path, beta: float | None) -> str:
    """The methods of a comparison with their intervals.

    Args:
        comparison: The directory of the comparison.
        beta: The beta to show; its first one if it has no such beta.

    Raises:
        InputError: `comparison` is not a finished comparison.
    """
    try:
        summary = json.loads((comparison / "summary.json").read_text(encoding="utf-8"))
        intervals, headline = summary["intervals"], summary["headline"]
        betas = [row["beta"] for row in intervals]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{comparison}: no finished comparison, summary.json is missing or damaged") from None
    beta = beta if beta in betas else betas[0]
    plain = [row for row in intervals if row["beta"] == beta and not row["noise"] and row["budget"] is None]
    cells: dict[str, dict[tuple[str, str], str]] = {}
    for row in plain:
        name = row_name(row["method"], row.get("threshold"))
        cells.setdefault(name, {})[row["split"], row["metric"]] = _interval(row)
    compared = [column for column in COMPARED if any(column in found for found in cells.values())]
    rows = [[code(name), *(found.get(column, "-") for column in compared)] for name, found in cells.items()]
    heads = ["method", *(f"{metric}, {split}" for split, metric in compared)]
    findings = "\n".join(f"- {escaped(line)}" for line in headline if line.startswith(f"beta {beta:g},"))
    return (
        f"## Compared with other methods\n\nAt beta {beta:g}, on the same grades and from the same reference; means "
        f"over seeds with 95 % intervals over seeds and questions.\n\n{_table(heads, rows)}\n\n{findings}"
    )


def _interval(row: dict[str, Any]) -> str:
    if row["estimate"] is None:
        return "-"
    low_high = "" if row["low"] is None else f" ({row['low']:.3f} to {row['high']:.3f})"
    return f"{row['estimate']:.3f}{low_high}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines: list[Sequence[str]] = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
