"""Tables on the terminal: results on stdout, what goes on while training on stderr."""

import sys
from typing import Any

import pandas as pd
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from tqdm import tqdm

from eightball_ppo.labels import LabelSet

LARGEST_CHANGES = 5
MOST_LABELS = 8  # that are printed side by side
WIDTH_OF_A_FILE = 120  # columns, where the output is no terminal
_SHOWN = (
    "expected_score",
    "objective",
    "optimum_fraction",
    "kl",
    "entropy",
    "gold_accuracy",
    "gold_probability",
    "label_histogram",
    "greedy_histogram",
    "grader_histogram",
)
_COMPLETIONS = ("probability", "score", "kl", "reward")


def _console(stderr: bool = False) -> Console:
    terminal = (sys.stderr if stderr else sys.stdout).isatty()
    return Console(width=None if terminal else WIDTH_OF_A_FILE, stderr=stderr, emoji=False)


def _text(value: Any) -> str:
    if isinstance(value, dict):
        largest = sorted(value, key=value.__getitem__, reverse=True)[:MOST_LABELS]
        shown = value if len(value) <= MOST_LABELS else {key: value[key] for key in largest}
        named = ((escape(key), item) for key, item in shown.items())
        words = [f"{key} {item:.3f}" if isinstance(item, float) else f"{key} {item}" for key, item in named]
        return "  ".join([*words, *([f"and {len(value) - len(shown)} more"] if len(shown) < len(value) else [])])
    if isinstance(value, float):
        return f"{value:.4f}"
    return "-" if value is None else escape(str(value))


def print_record(method: str, split: str, record: dict[str, Any]) -> None:
    """One record, a line per metric that it has."""
    table = Table("metric", escape(split), title=escape(method))
    for name, value in record.items():
        if value is not None:
            table.add_row(name, _text(value))
    _console().print(table)


def print_results(results: dict[str, Any], grader: str) -> None:
    """Reference and policy side by side, on every split."""
    columns = [(split, which) for split in results["splits"] for which in ("reference", "splits")]
    preset = " (original preset)" if results.get("preset") == "original" else ""
    title = f"{results['method']}{preset}  grader {grader}  beta {results['beta']}  seed {results['seed']}"
    table = Table(
        "metric",
        *(f"{split}: {'before' if which == 'reference' else 'after'}" for split, which in columns),
        title=escape(title),
    )
    for metric in _SHOWN:
        table.add_row(metric, *(_text(results[which][split][metric]) for split, which in columns))
    _console().print(table)


def print_before_after(table: pd.DataFrame, labels: LabelSet) -> None:
    """The first held-out question and those that changed most, with probabilities and counts of 50 draws."""
    largest = table.iloc[1:].nlargest(LARGEST_CHANGES, "change")
    few = len(labels) <= MOST_LABELS
    columns = [f"{escape(name)} before > after" for name in labels.names] if few else ["before", "after"]
    shown = Table("question", "wanted", *columns, title="before and after")
    for _, row in pd.concat([table.iloc[:1], largest]).iterrows():
        cells = [
            f"{row[f'before_probability_{name}']:.2f} > {row[f'after_probability_{name}']:.2f}"
            f"  ({row[f'before_count_{name}']} > {row[f'after_count_{name}']})"
            for name in labels.names
        ]
        if not few:
            cells = [_favourite(row, when, labels) for when in ("before", "after")]
        shown.add_row(_question(row), escape(str(row.get("wanted", "-"))), *cells)
    _console().print(shown)


def _question(row: Any) -> str:
    """The question of a row, and below it the second text that belongs to it."""
    return escape("\n\n".join(text for text in (row["question"], row.get("text_pair", "")) if text))


def _favourite(row: Any, when: str, labels: LabelSet) -> str:
    best = max(labels.names, key=lambda name: row[f"{when}_probability_{name}"])
    return f"{escape(best)} {row[f'{when}_probability_{best}']:.2f}"


def print_completions(table: pd.DataFrame, rows: int) -> None:
    """`rows` of the sampled answers, evenly spread, on stderr; a progress bar makes way."""
    shown = Table("question", "answer", *_COMPLETIONS, title=f"update {table['step'].iloc[0]}")
    rows = min(rows, len(table))
    for _, row in table.iloc[[index * len(table) // rows for index in range(rows)]].iterrows():
        numbers = (f"{row[name]:.3f}" for name in _COMPLETIONS)
        shown.add_row(_question(row), escape(row["answer"]), *numbers)
    with tqdm.external_write_mode(file=sys.stderr):
        _console(stderr=True).print(shown)
