"""The audit of a grader as one self-contained HTML page: styles and figures inside it, no script, no request."""

import base64
import io
import json
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"
TEMPLATE = "audit.html.jinja"
NOTHING = "\u2013"  # what stands where nothing was measured
MOST_CELLS_NAMED = 12  # labels up to which every cell of the confusion matrix shows its count


class Scheme(NamedTuple):
    """The colours of a figure on a light or a dark page; `none` to `accent` is the scale of the confusion matrix."""

    text: str
    faint: str
    accent: str
    soft: str
    none: str


LIGHT = Scheme(text="#26303c", faint="#a9b3c1", accent="#2f64ad", soft="#c9d6ea", none="#f1f4f9")
DARK = Scheme(text="#dce3ec", faint="#5d6a7c", accent="#86b2f2", soft="#33465f", none="#222c37")


def render_audit(record: dict[str, Any]) -> str:
    """The page of `record`, the content of audit.json. Whatever stands in it is text there, never markup."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=_percent, number=_number, seconds=_seconds, quoted=_quoted)
    figures = {
        "reliability": {"light": _reliability(record["bins"], LIGHT), "dark": _reliability(record["bins"], DARK)},
        "confusion": {
            "light": _confusion(record["confusion"], record["labels"], LIGHT),
            "dark": _confusion(record["confusion"], record["labels"], DARK),
        },
    }
    return environment.get_template(TEMPLATE).render(audit=record, figures=figures, alt=_alt_texts(record))


def _percent(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.1%}"


def _number(value: float | None, digits: int = 3) -> str:
    return NOTHING if value is None else f"{value:,.{digits}f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:,.3g} s"


def _quoted(text: str) -> str:
    """`text` as a JSON string: one line, in which blanks, line breaks and emptiness can be seen."""
    return json.dumps(text, ensure_ascii=False)


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
    return _png(figure, axis, scheme)


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
                colour = _readable_on(scale(shares[row][column]))
                axis.text(column, row, str(count), ha="center", va="center", color=colour, fontsize=11)
    upright = len(labels) > 4 or max(map(len, labels)) > 10
    axis.set_xticks(range(len(names)), names, rotation=90 if upright else 0)
    axis.set_yticks(range(len(names)), names)
    axis.set(xlabel="favourite", ylabel="wanted")
    return _png(figure, axis, scheme)


def _readable_on(colour: tuple[float, float, float, float]) -> str:
    """Dark or white text, whichever has the higher contrast on `colour` (the relative luminance of WCAG)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#111820" if luminance > 0.19 else "#ffffff"


def _plain(label: str) -> str:
    """A label as matplotlib shows it: no mathematics between dollar signs, and not without end."""
    return (label if len(label) <= 24 else f"{label[:23]}\u2026").replace("$", r"\$")


def _png(figure: Figure, axis: Any, scheme: Scheme) -> str:
    """The figure as base64 of a PNG with a transparent background."""
    axis.tick_params(colors=scheme.text)
    axis.xaxis.label.set_color(scheme.text)
    axis.yaxis.label.set_color(scheme.text)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(scheme.faint)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, transparent=True, metadata={"Software": None})
    return base64.b64encode(file.getvalue()).decode("ascii")
