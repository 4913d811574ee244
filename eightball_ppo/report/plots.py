"""Figures of one run, as PNG."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt

from eightball_ppo.config.registry import METHODS

PLAIN = {"text.parse_math": False}  # dollar signs in labels are dollar signs

# (title, what the trainer logged from its samples, the exact quantity)
_PANELS = (
    ("Score of the answers", "objective/scores", "exact/expected_score"),
    ("KL to the reference, nats", "objective/kl", "exact/kl"),
    ("Entropy, nats", "objective/entropy", "exact/entropy"),
    ("Share of the optimum", None, "exact/optimum_fraction"),
)
_SAMPLED, _EXACT, _BEFORE, _AFTER = "#7a869a", "#1f5fbf", "#c3cad6", "#1f5fbf"
MOST_BARS, FEW_BARS = 30, 8


def panels_of(rows: list[dict[str, Any]], method: str) -> list[tuple[str, str | None, str | None]]:
    """(title, sampled, exact) of every panel that has something to show: keys that stand in no row are None."""
    logged = {key for row in rows for key, value in row.items() if value is not None}
    loss = METHODS[method].loss if method in METHODS else ("Loss", "loss")
    known = [
        (title, sampled if sampled in logged else None, exact if exact in logged else None)
        for title, sampled, exact in (*_PANELS, (*loss, None))
    ]
    return [panel for panel in known if panel[1:] != (None, None)]


@matplotlib.rc_context(PLAIN)
def plot_curves(rows: list[dict[str, Any]], file: Path, method: str) -> None:
    """Learning curves of a graded method from the rows of metrics.jsonl: score, KL, entropy, share of the optimum and
    loss, as far as they were logged, against episodes where there are any, else against optimizer steps."""
    rows = [row for row in rows if row["stage"] == method]
    in_episodes = any("episode" in row for row in rows)
    x = "episode" if in_episodes else "step"
    panels = panels_of(rows, method)
    size = (3.4 * max(1, len(panels)), 3.2)
    figure, axes = plt.subplots(1, max(1, len(panels)), figsize=size, constrained_layout=True, squeeze=False)
    for axis, (title, sampled, exact) in zip(axes[0], panels, strict=False):  # a run that logged nothing has no panel
        for key, label, colour in ((sampled, "sampled", _SAMPLED), (exact, "exact", _EXACT)):
            points = [(row[x], row[key]) for row in rows if key is not None and row.get(key) is not None and x in row]
            if points:
                alone = len({point[0] for point in points}) == 1  # a line of one point is none
                axis.plot(*zip(*points, strict=True), color=colour, label=label, marker="o" if alone else "")
        axis.set_title(title, fontsize=10)
        axis.set_xlabel("episodes" if in_episodes else "optimizer steps")
        _clean(axis)
        if len(axis.lines) > 1:
            axis.legend(frameon=False)
    figure.suptitle(method)
    figure.savefig(file, dpi=120)
    plt.close(figure)


@matplotlib.rc_context(PLAIN)
def plot_label_histogram(results: dict[str, Any], file: Path) -> None:
    """Mean probability of every label on held-out questions, before and after; of many, those that had most."""
    before = results["reference"]["heldout"]["label_histogram"]
    after = results["splits"]["heldout"]["label_histogram"]
    names = sorted(before, key=lambda name: max(before[name], after[name]), reverse=True)
    if len(names) > MOST_BARS:
        before, after = ({name: own[name] for name in names[:MOST_BARS]} for own in (before, after))
    figure, axis = plt.subplots(figsize=(max(4.0, 0.9 * len(before)), 3.2), constrained_layout=True)
    positions = range(len(before))
    axis.bar([x - 0.2 for x in positions], list(before.values()), 0.4, label="before", color=_BEFORE)
    axis.bar([x + 0.2 for x in positions], list(after.values()), 0.4, label="after", color=_AFTER)
    axis.set_xticks(list(positions), list(before), rotation=0 if len(before) <= FEW_BARS else 60)
    axis.set(ylabel="mean probability", title=f"{results['method']}: answers to held-out questions")
    axis.legend(frameon=False)
    _clean(axis)
    figure.savefig(file, dpi=120)
    plt.close(figure)


def _clean(axis: Any) -> None:
    axis.spines[["top", "right"]].set_visible(False)
    axis.grid(axis="y", alpha=0.25)
