"""The audit of a grader as a self-contained HTML page, without a script or a request."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure

from eightball_ppo.report.pages import DARK, LIGHT, Scheme, apply_theme, draw_heat_map, jinja_environment, png, short

MAX_NUMBERED_LABELS = 12  # of a confusion matrix that prints the counts in its cells


def render_audit(record: dict[str, Any]) -> str:
    """Renders the content of audit.json; every value is escaped."""
    figures = {
        name: {scheme_name: draw(record, scheme) for scheme_name, scheme in (("light", LIGHT), ("dark", DARK))}
        for name, draw in (("reliability", _reliability), ("confusion", _confusion))
        if name != "reliability" or record["bins"]
    }
    template = jinja_environment().get_template("audit.html.jinja")
    return template.render(audit=record, figures=figures, alt=_alternative_texts(record))


def _alternative_texts(record: dict[str, Any]) -> dict[str, str]:
    bins = "; ".join(
        f"confidence {row['confidence']:.2f}: {row['accuracy']:.2f} right, {row['share']:.0%} of the questions"
        for row in record["bins"]
    )
    rows = "; ".join(
        f"{gold}: " + ", ".join(f"{count} as {label}" for label, count in zip(record["labels"], counts, strict=True))
        for gold, counts in zip(record["labels"], record["confusion"], strict=True)
    )
    return {
        "reliability": f"Reliability diagram, accuracy against confidence. {bins}.",
        "confusion": f"Confusion matrix, gold label by predicted label. {rows}.",
    }


def _reliability(record: dict[str, Any], scheme: Scheme) -> str:
    """Accuracy against confidence; a dot's area is the share of the questions."""
    figure = Figure(figsize=(4.2, 4.0), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=scheme.faint, linestyle="--", linewidth=1, zorder=1)
    confidence, accuracy, share = (
        [row[name] for row in record["bins"]] for name in ("confidence", "accuracy", "share")
    )
    axis.vlines(confidence, confidence, accuracy, color=scheme.accent, linewidth=1.2, zorder=2)
    style: dict[str, Any] = {"facecolor": scheme.soft, "edgecolor": scheme.accent, "linewidth": 1.4}
    axis.scatter(confidence, accuracy, s=20 + 380 * np.array(share), zorder=3, clip_on=False, **style)
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="accuracy", aspect="equal")
    apply_theme(axis, scheme)
    return png(figure)


def _confusion(record: dict[str, Any], scheme: Scheme) -> str:
    """Counts by gold and predicted label, shaded by their share of the row."""
    names = [short(label).replace("$", r"\$") for label in record["labels"]]  # a dollar sign is no mathematics
    size = max(4.0, 0.34 * len(names) + 1.6)
    figure = Figure(figsize=(size + 0.2, size), layout="constrained")
    axis = figure.subplots()
    count_KK = np.array(record["confusion"])
    share_KK = count_KK / count_KK.sum(1, keepdims=True).clip(1)
    draw_heat_map(axis, share_KK, count_KK if len(names) <= MAX_NUMBERED_LABELS else None, scheme)
    vertical = len(names) > 4 or max(map(len, names)) > 10
    ticks = np.arange(len(names)) + 0.5
    axis.set_xticks(ticks, names, rotation=90 if vertical else 0)
    axis.set_yticks(ticks, names)
    axis.set(xlabel="predicted label", ylabel="gold label", aspect="equal")
    apply_theme(axis, scheme)
    return png(figure)
