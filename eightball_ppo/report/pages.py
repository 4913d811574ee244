"""What the self-contained HTML pages share: colour schemes, the template environment, formatted values, figures."""

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"
NOT_MEASURED = "\u2013"
MAX_LABEL_LENGTH = 24  # characters of a label in a figure


class Scheme(NamedTuple):
    """The colours of a figure on a light or a dark page; a heat map goes from `zero` to `accent`."""

    text: str
    faint: str
    accent: str
    soft: str
    zero: str
    card: str  # background of the figure


LIGHT = Scheme(text="#26303c", faint="#a9b3c1", accent="#2f64ad", soft="#c9d6ea", zero="#f1f4f9", card="#ffffff")
DARK = Scheme(text="#dce3ec", faint="#5d6a7c", accent="#86b2f2", soft="#33465f", zero="#222c37", card="#1a2129")


def jinja_environment(**filters: Callable[..., Any]) -> Environment:
    """The templates' environment: every value is escaped, and an undefined name is an error."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(percent=percent, number=number, seconds=seconds, quoted=quote_text, **filters)
    return environment


def percent(value: Any) -> str:
    """A share as `12.3%`."""
    return NOT_MEASURED if pd.isna(value) else f"{value:.1%}"


def number(value: Any, digits: int = 3) -> str:
    """A number with thousands separators; a rounded 0 has no sign."""
    if pd.isna(value):
        return NOT_MEASURED
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.,") else text


def seconds(value: Any) -> str:
    """A time, in milliseconds below a second."""
    if pd.isna(value):
        return NOT_MEASURED
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:,.3g} s"


def quote_text(text: str) -> str:
    """A text as a JSON string, in which spaces, line breaks and emptiness are visible."""
    return json.dumps(text, ensure_ascii=False)


def short(label: str) -> str:
    """A label in one line of at most `MAX_LABEL_LENGTH` characters."""
    line = "".join(letter if letter.isprintable() else " " for letter in label)
    return line if len(line) <= MAX_LABEL_LENGTH else f"{line[: MAX_LABEL_LENGTH - 1]}\u2026"


def readable_on(colour: tuple[float, ...]) -> str:
    """Dark or white text, whichever has the higher contrast on an RGB colour (relative luminance of WCAG 2)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#111820" if luminance > 0.19 else "#ffffff"


def draw_heat_map(axis: Any, share_RC: np.ndarray, texts: np.ndarray | None, scheme: Scheme, most: float = 1.0) -> None:
    """Draws a matrix as a heat map, first row on top; the centre of the cell in row r, column c is (c + 0.5, r + 0.5).

    Args:
        axis: matplotlib's axes.
        share_RC: shares, shape [rows, columns]; a cell with NaN stays empty.
        texts: what to print in the cells, same shape; None: nothing.
        scheme: colours.
        most: the share with the darkest colour.
    """
    colours = LinearSegmentedColormap.from_list("share", [scheme.zero, scheme.accent])
    axis.pcolormesh(share_RC, cmap=colours, vmin=0, vmax=most, edgecolors=scheme.card, linewidth=1.5)
    for (row, column), share in np.ndenumerate(share_RC):
        if texts is not None and np.isfinite(share):
            place, colour = (column + 0.5, row + 0.5), readable_on(colours(share / most))
            axis.text(*place, texts[row, column], ha="center", va="center", fontsize=9, color=colour)
    axis.invert_yaxis()
    axis.tick_params(length=0)


def apply_theme(axis: Any, scheme: Scheme) -> None:
    """Colours ticks, labels and the left and bottom spines; hides the other two."""
    axis.tick_params(colors=scheme.text)
    axis.xaxis.label.set_color(scheme.text)
    axis.yaxis.label.set_color(scheme.text)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(scheme.faint)


def png(figure: Figure) -> str:
    """The figure as a PNG with a transparent background, in base64."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=150, transparent=True, metadata={"Software": None})
    return base64.b64encode(file.getvalue()).decode("ascii")
