"""Tables on the terminal: results on stdout, progress of training on stderr."""

import sys
from typing import Any

import pandas as pd
from rich import markup
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from eightball_ppo.labels import LabelSet
from eightball_ppo.runtime.redaction import printable

NUM_CHANGES = 3
MAX_LABELS = 8  # labels that are printed side by side
FILE_WIDTH = 120  # columns, where the output is no terminal
_METRICS = (
    *("expected_score", "objective", "optimum_fraction", "kl", "entropy"),
    *("judge_agreement", "gold_accuracy", "gold_probability", "brier", "nll", "ece", "aurc"),
    *("label_accuracy", "label_probability", "label_brier", "label_nll", "label_ece", "label_aurc"),
)
_COMPLETIONS = ("probability", "score", "kl", "reward")


def escape(text: str) -> str:
    """`text` as rich prints it literally: no markup, and nothing that the terminal takes as a command."""
    return markup.escape(printable(text))


def _console(stderr: bool = False) -> Console:
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(width=None if terminal else FILE_WIDTH, stderr=stderr, emoji=False)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        names = sorted(value, key=value.__getitem__, reverse=True)[:MAX_LABELS] if len(value) > MAX_LABELS else value
        words = [f"{escape(name)} {_number(value[name])}" for name in names]
        return "  ".join([*words, f"and {len(value) - MAX_LABELS} more"] if len(value) > MAX_LABELS else words)
    if isinstance(value, float):
        return f"{value:.4f}"
    return "-" if value is None else escape(str(value))


def _number(value: Any) -> str:
    return f"{value:.3f}" if isinstance(value, float) else str(value)


def print_record(method: str, split: str, record: dict[str, Any]) -> None:
    """Prints one record, a line per metric that was measured."""
    table = Table("metric", escape(split), title=escape(method))
    for name, value in record.items():
        if value is not None:
            table.add_row(name, _text(value))
    _console().print(table)


def print_results(results: dict[str, Any], grader: str) -> None:
    """Prints reference and policy side by side, on every split."""
    columns = [(split, which) for split in results["splits"] for which in ("reference", "splits")]
    preset = " (original preset)" if results.get("preset") == "original" else ""
    title = f"{results['method']}{preset}  grader {grader}  beta {results['beta']:.4g}  seed {results['seed']}"
    heads = (f"{split}: {'before' if which == 'reference' else 'after'}" for split, which in columns)
    table = Table("metric", *heads, title=escape(title))
    for metric in _METRICS:
        values = [results[which][split].get(metric) for split, which in columns]
        if any(value is not None for value in values):
            table.add_row(metric, *map(_text, values))
    _console().print(table)


def print_before_after(table: pd.DataFrame, labels: LabelSet) -> None:
    """Prints the first held-out question and those that changed most, with probabilities and counts of 50 draws.

    Args:
        table: of `evaluation.before_after`.
        labels: of the task; of many labels only the most probable one is printed.
    """
    largest = table.iloc[1:].nlargest(NUM_CHANGES, "change")
    few = len(labels) <= MAX_LABELS
    columns = [f"{escape(name)} before -> after" for name in labels.names] if few else ["before", "after"]
    label = [name for name in ("gold_label", "label") if name in table]
    title = "before and after: probability (answers of 50 draws)"
    printed = Table("question", *(name.replace("_", " ") for name in label), *columns, title=title)
    for _, row in pd.concat([table.iloc[:1], largest]).iterrows():
        if few:
            cells = [
                f"{row[f'before_probability_{name}']:.2f} -> {row[f'after_probability_{name}']:.2f}"
                f"  ({row[f'before_count_{name}']} -> {row[f'after_count_{name}']})"
                for name in labels.names
            ]
        else:
            cells = [_most_probable(row, when, labels) for when in ("before", "after")]
        printed.add_row(_question(row), *(escape(row[name]) for name in label), *cells)
    _console().print(printed)


def _question(row: Any) -> str:
    """The question of a row, and below it its second text."""
    return escape("\n\n".join(text for text in (row["question"], row.get("text_pair", "")) if text))


def _most_probable(row: Any, when: str, labels: LabelSet) -> str:
    best = max(labels.names, key=lambda name: row[f"{when}_probability_{name}"])
    return f"{escape(best)} {row[f'{when}_probability_{best}']:.2f}"


def print_completions(table: pd.DataFrame, rows: int) -> None:
    """Prints `rows` of the sampled answers, evenly spaced, on stderr, above the progress bar."""
    printed = Table("question", "answer", *_COMPLETIONS, title=f"update {table['step'].iloc[0]}")
    rows = min(rows, len(table))
    for _, row in table.iloc[[index * len(table) // rows for index in range(rows)]].iterrows():
        printed.add_row(_question(row), escape(row["answer"]), *(f"{row[name]:.3f}" for name in _COMPLETIONS))
    with tqdm.external_write_mode(file=sys.stderr):
        _console(stderr=True).print(printed)
