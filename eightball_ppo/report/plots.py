"""Figures of one run, as PNG."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

_PANELS = (
    ("Score of the answers", "objective/scores", "exact/expected_score"),
    ("KL to the reference, nats", "objective/kl", "exact/kl"),
    ("Entropy, nats", "objective/entropy", None),
    ("Value loss", "loss/value_avg", None),
    ("Share of the optimum", None, "exact/optimum_fraction"),
)
_SAMPLED, _EXACT, _BEFORE, _AFTER = "#7a869a", "#1f5fbf", "#c3cad6", "#1f5fbf"


def curves(rows: list[dict[str, Any]], file: Path, title: str) -> None:
    """Learning curves from the rows of metrics.jsonl: score, KL, entropy and value loss against episodes, or, for a run
    that fits labels, its loss against optimizer steps."""
    if any("objective/scores" in row for row in rows):
        _ppo_curves([row for row in rows if "objective/scores" in row], file, title)
    else:
        _loss_curves([row for row in rows if "loss" in row], file, title)


def _ppo_curves(rows: list[dict[str, Any]], file: Path, title: str) -> None:
    figure, axes = plt.subplots(1, len(_PANELS), figsize=(3.4 * len(_PANELS), 3.2), constrained_layout=True)
    for axis, (name, sampled, exact) in zip(axes, _PANELS, strict=True):
        for key, label, colour in ((sampled, "sampled", _SAMPLED), (exact, "exact", _EXACT)):
            points = [(row["episode"], row[key]) for row in rows if key is not None and row.get(key) is not None]
            if points:
                axis.plot(*zip(*points, strict=True), color=colour, label=label)
        axis.set_title(name, fontsize=10)
        axis.set_xlabel("episodes")
        _clean(axis)
    axes[0].legend(frameon=False)
    figure.suptitle(title)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _loss_curves(rows: list[dict[str, Any]], file: Path, title: str) -> None:
    figure, axis = plt.subplots(figsize=(5, 3.2), constrained_layout=True)
    for stage in dict.fromkeys(row["stage"] for row in rows):
        own = [row for row in rows if row["stage"] == stage]
        final = stage == title
        axis.plot(
            [row["step"] for row in own],
            [row["loss"] for row in own],
            label=stage,
            color=_EXACT if final else _BEFORE,
            linewidth=2 if final else 1,
        )
    axis.set(title=title, xlabel="optimizer steps", ylabel="cross-entropy")
    axis.legend(frameon=False, fontsize=7)
    _clean(axis)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def label_histogram(results: dict[str, Any], file: Path) -> None:
    """Mean probability of every label on held-out questions, before and after."""
    before = results["reference"]["heldout"]["label_histogram"]
    after = results["splits"]["heldout"]["label_histogram"]
    figure, axis = plt.subplots(figsize=(max(4.0, 0.9 * len(before)), 3.2), constrained_layout=True)
    positions = range(len(before))
    axis.bar([x - 0.2 for x in positions], list(before.values()), 0.4, label="before", color=_BEFORE)
    axis.bar([x + 0.2 for x in positions], list(after.values()), 0.4, label="after", color=_AFTER)
    axis.set_xticks(list(positions), list(before))
    axis.set(ylabel="mean probability", title=f"{results['method']}: answers to held-out questions")
    axis.legend(frameon=False)
    _clean(axis)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _clean(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)
