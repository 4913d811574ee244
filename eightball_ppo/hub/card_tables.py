"""The tables of the cards: the numbers of a run beside its reference, and the methods of a comparison."""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from eightball_ppo.errors import InputError
from eightball_ppo.report.markdown import code, escaped

COMPARED = (
    ("train", "optimum_fraction"),
    ("heldout", "optimum_fraction"),
    ("heldout", "expected_score"),
    ("heldout", "gold_accuracy"),
)


def cell(value: Any) -> str:
    """A value of a record, in a few digits."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {cell(item)}" for key, item in value.items())
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)


def numbers_table(results: dict[str, Any]) -> str:
    """Every metric of every split, with the reference's beside it where there is one."""
    columns = [
        (f"{split}{', ' + which if 'reference' in results else ''}", results[key][split])
        for split in results["splits"]
        for key, which in (("reference", "reference"), ("splits", "this model"))
        if key in results
    ]
    metrics = list(dict.fromkeys(metric for _, own in columns for metric in own))
    rows = [[code(metric), *(escaped(cell(own.get(metric))) for _, own in columns)] for metric in metrics]
    return _table(["metric", *(name for name, _ in columns)], rows)


def methods_table(comparison: Path, beta: float | None) -> str:
    """The methods of a comparison at `beta` (at its first price, for a model that knows none), with intervals.

    Raises:
        InputError: no finished comparison stands there.
    """
    try:
        summary = json.loads((comparison / "summary.json").read_text(encoding="utf-8"))
        intervals, headline = summary["intervals"], summary["headline"]
        betas = list(dict.fromkeys(row["beta"] for row in intervals))
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{comparison}: no finished comparison, summary.json is missing or damaged") from None
    price = beta if beta in betas else betas[0]
    plain = [row for row in intervals if row["beta"] == price and not row["noise"] and row["budget"] is None]
    cells = {(_name(row), row["split"], row["metric"]): _interval(row) for row in plain}
    names = dict.fromkeys(map(_name, plain))
    rows = [[code(name), *(cells.get((name, *column), "-") for column in COMPARED)] for name in names]
    heads = ["method", *(f"{metric}, {split}" for split, metric in COMPARED)]
    said = "\n".join(f"- {escaped(line)}" for line in headline if line.startswith(f"beta {price:g},"))
    return (
        f"## Compared with other methods\n\nAt beta {price:g}, on the same grades and from the same reference; means "
        f"over seeds with 95 % intervals over seeds and questions.\n\n{_table(heads, rows)}\n\n{said}"
    )


def _name(row: dict[str, Any]) -> str:
    return row["method"] if row.get("threshold") is None else f"{row['method']}@{row['threshold']:g}"


def _interval(row: dict[str, Any]) -> str:
    if row["estimate"] is None:
        return "-"
    low_high = "" if row["low"] is None else f" ({row['low']:.3f} to {row['high']:.3f})"
    return f"{row['estimate']:.3f}{low_high}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines: list[Sequence[str]] = [heads, ["---"] * len(heads), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)
