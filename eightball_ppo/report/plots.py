"""Figures of one run, as PNG."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from eightball_ppo.config.registry import METHODS

PLAIN_TEXT = {"text.parse_math": False}  # a dollar sign in a label is no mathematics

# (title, the trainer's sampled metric, the exact metric)
_PANELS = (
    ("Score of the answers", "objective/scores", "exact/expected_score"),
    ("KL to the reference, nats", "objective/kl", "exact/kl"),
    ("Entropy, nats", "objective/entropy", "exact/entropy"),
    ("Share of the optimum", None, "exact/optimum_fraction"),
)
_GREY, _BLUE, _PALE = "#7a869a", "#1f5fbf", "#c3cad6"
MAX_BARS, MAX_HORIZONTAL_LABELS = 30, 8


def panels_of(rows: list[dict[str, Any]], method: str) -> list[tuple[str, str | None, str | None]]:
    """(title, sampled metric, exact metric) of every panel with something to show; a metric never logged is None."""
    logged = {key for row in rows for key, value in row.items() if value is not None}
    loss = METHODS[method].loss if method in METHODS else ("Loss", "loss")
    panels = [
        (title, sampled if sampled in logged else None, exact if exact in logged else None)
        for title, sampled, exact in (*_PANELS, (*loss, None))
    ]
    return [panel for panel in panels if panel[1:] != (None, None)]


@matplotlib.rc_context(PLAIN_TEXT)
def plot_curves(rows: list[dict[str, Any]], file: Path, method: str) -> None:
    """Plots the learning curves of a graded method: score, KL, entropy, share of the optimum and loss, where logged.

    Args:
        rows: of metrics.jsonl.
        file: of the PNG.
        method: whose rows are plotted, against episodes if it samples, else against optimizer steps.
    """
    rows = [row for row in rows if row["stage"] == method]
    x, xlabel = ("episode", "episodes") if any("episode" in row for row in rows) else ("step", "optimizer steps")
    panels = panels_of(rows, method)
    columns = max(1, len(panels))  # a run that logged nothing has no panel
    figure, axes = plt.subplots(1, columns, figsize=(3.4 * columns, 3.2), constrained_layout=True, squeeze=False)
    for axis, (title, sampled, exact) in zip(axes[0], panels, strict=False):
        for key, label, colour in ((sampled, "sampled", _GREY), (exact, "exact", _BLUE)):
            points = [(row[x], row[key]) for row in rows if key is not None and row.get(key) is not None and x in row]
            if points:
                single = len({point[0] for point in points}) == 1  # a line through one point is invisible
                axis.plot(*zip(*points, strict=True), color=colour, label=label, marker="o" if single else "")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel(xlabel)
        _clean(axis)
        if len(axis.lines) > 1:
            axis.legend(frameon=False)
    figure.suptitle(method)
    figure.savefig(file, dpi=120)
    plt.close(figure)


@matplotlib.rc_context(PLAIN_TEXT)
def plot_label_histogram(results: dict[str, Any], file: Path) -> None:
    """Plots the mean probability of every label on held-out questions, before and after; of many, the highest."""
    before = results["reference"]["heldout"]["label_histogram"]
    after = results["splits"]["heldout"]["label_histogram"]
    names = list(before)
    if len(names) > MAX_BARS:
        names = sorted(names, key=lambda name: max(before[name], after[name]), reverse=True)[:MAX_BARS]
    figure, axis = plt.subplots(figsize=(max(4.0, 0.9 * len(names)), 3.2), constrained_layout=True)
    for shift, label, shares, colour in ((-0.2, "before", before, _PALE), (0.2, "after", after, _BLUE)):
        axis.bar([x + shift for x in range(len(names))], [shares[n] for n in names], 0.4, label=label, color=colour)
    axis.set_xticks(range(len(names)), names, rotation=0 if len(names) <= MAX_HORIZONTAL_LABELS else 60)
    axis.set(ylabel="mean probability", title=f"{results['method']}: answers to held-out questions")
    axis.legend(frameon=False)
    _clean(axis)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _clean(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)
