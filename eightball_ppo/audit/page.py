"""The audit of a grader as one self-contained HTML page: styles and figures inside it, no script, no request."""

from typing import Any

from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

from eightball_ppo.report.pages import DARK, LIGHT, Scheme, apply_theme, environment, png, readable_on, short

TEMPLATE = "audit.html.jinja"
MOST_CELLS_NAMED = 12  # labels up to which every cell of the confusion matrix shows its count


def render_audit(record: dict[str, Any]) -> str:
    """The page of `record`, the content of audit.json. Whatever stands in it is text there, never markup."""
    figures = {
        "reliability": {"light": _reliability(record["bins"], LIGHT), "dark": _reliability(record["bins"], DARK)},
        "confusion": {
            "light": _confusion(record["confusion"], record["labels"], LIGHT),
            "dark": _confusion(record["confusion"], record["labels"], DARK),
        },
    }
    return environment().get_template(TEMPLATE).render(audit=record, figures=figures, alt=_alt_texts(record))


def _alt_texts(record: dict[str, Any]) -> dict[str, str]:
    bins = "; ".join(
        f"confidence {own['confidence']:.2f}: {own['accuracy']:.2f} right, {own['share']:.0%} of the questions"
        for own in record["bins"]
    )
    rows = "; ".join(
        f"{gold}: " + ", ".join(f"{count} as {label}" for label, count in zip(record["labels"], counts, strict=True))
        for gold, counts in zip(record["labels"], record["confusion"], strict=True)
    )
    return {
        "reliability": f"Reliability diagram, accuracy against confidence. {bins}.",
        "confusion": f"Confusion matrix, wanted label by favourite label. {rows}.",
    }


def _reliability(bins: list[dict[str, float]], scheme: Scheme) -> str:
    """Accuracy against confidence, a dot's area showing the share of questions; exact confidence on the diagonal."""
    figure = Figure(figsize=(4.2, 4.0), layout="constrained")
    axis = figure.subplots()
    axis.plot([0, 1], [0, 1], color=scheme.faint, linestyle="--", linewidth=1, zorder=1)
    confidence = [own["confidence"] for own in bins]
    accuracy = [own["accuracy"] for own in bins]
    axis.vlines(confidence, confidence, accuracy, color=scheme.accent, linewidth=1.2, zorder=2)
    axis.scatter(
        confidence,
        accuracy,
        s=[20 + 380 * own["share"] for own in bins],
        facecolor=scheme.soft,
        edgecolor=scheme.accent,
        linewidth=1.4,
        zorder=3,
        clip_on=False,
    )
    axis.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence", ylabel="share that is right", aspect="equal")
    return _painted(figure, axis, scheme)


def _confusion(confusion: list[list[int]], labels: list[str], scheme: Scheme) -> str:
    """Counts by wanted and favourite label, shaded by their share of the row."""
    names = [_plain(label) for label in labels]
    size = max(4.0, 0.34 * len(labels) + 1.6)
    figure = Figure(figsize=(size + 0.2, size), layout="constrained")
    axis = figure.subplots()
    shares = [[count / max(sum(row), 1) for count in row] for row in confusion]
    scale = LinearSegmentedColormap.from_list("share", [scheme.none, scheme.accent])
    axis.imshow(shares, cmap=scale, vmin=0, vmax=1)
    if len(labels) <= MOST_CELLS_NAMED:
        for row, counts in enumerate(confusion):
            for column, count in enumerate(counts):
                colour = readable_on(scale(shares[row][column]))
                axis.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=11)
    upright = len(labels) > 4 or max(map(len, labels)) > 10
    axis.set_xticks(range(len(names)), names, rotation=90 if upright else 0)
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="favourite", ylabel="wanted")
    return _painted(figure, axis, scheme)


def _plain(label: str) -> str:
    """A label as matplotlib shows it: no mathematics between dollar signs, and not without end."""
    return short(label).replace("$", r"\$")


def _painted(figure: Figure, axis: Any, scheme: Scheme) -> str:
    apply_theme(axis, scheme)
    return png(figure)
