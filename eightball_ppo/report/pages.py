"""What the self-contained pages share: colour schemes, one template environment, figures as base64, shown values."""

import base64
import io
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib.figure import Figure

TEMPLATES = Path(__file__).parent / "templates"
NOTHING = "\u2013"  # what stands where nothing was measured
MAX_LABEL_LENGTH = 24  # letters of a label in a figure


class Scheme(NamedTuple):
    """The colours of a figure on a light or a dark page; `none` to `accent` is the scale of a heat map."""

    text: str
    faint: str
    accent: str
    soft: str
    none: str
    card: str  # what the figure lies on


LIGHT = Scheme(text="#26303c", faint="#a9b3c1", accent="#2f64ad", soft="#c9d6ea", none="#f1f4f9", card="#ffffff")
DARK = Scheme(text="#dce3ec", faint="#5d6a7c", accent="#86b2f2", soft="#33465f", none="#222c37", card="#1a2129")


def environment(**filters: Callable[..., Any]) -> Environment:
    """Templates in which whatever comes from data is text, and a name that is not there is an error."""
    own = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    own.filters.update(percent=percent, number=number, seconds=seconds, quoted=quote_text, **filters)
    return own


def missing(value: Any) -> bool:
    """None, NaN or pandas' NA."""
    return value is None or value is pd.NA or (isinstance(value, float) and math.isnan(value))


def percent(value: float | None) -> str:
    """A share as `12.3%`."""
    return NOTHING if value is None or missing(value) else f"{value:.1%}"


def number(value: float | None, digits: int = 3) -> str:
    """`value` with its thousands marked; a rounded 0 has no sign."""
    if value is None or missing(value):
        return NOTHING
    shown = f"{value:,.{digits}f}"
    return shown.removeprefix("-") if not shown.strip("-0.,") else shown


def seconds(value: float | None) -> str:
    """A time in milliseconds below a second, else in seconds."""
    if value is None or missing(value):
        return NOTHING
    return f"{value * 1000:.3g} ms" if value < 1 else f"{value:,.3g} s"


def quote_text(text: str) -> str:
    """`text` as a JSON string: one line, in which blanks, line breaks and emptiness can be seen."""
    return json.dumps(text, ensure_ascii=False)


def short(label: str) -> str:
    """A label for a figure: one line, and not without end."""
    line = "".join(letter if letter.isprintable() else " " for letter in label)
    return line if len(line) <= MAX_LABEL_LENGTH else f"{line[: MAX_LABEL_LENGTH - 1]}\u2026"


def readable_on(colour: tuple[float, ...]) -> str:
    """Dark or white text, whichever has the higher contrast on `colour` (the relative luminance of WCAG)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in colour[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#111820" if luminance > 0.19 else "#ffffff"


def apply_theme(axis: Any, scheme: Scheme) -> None:
    """Ticks, labels and the two spines that stay, in the colours of the page."""
    axis.tick_params(colors=scheme.text)
    axis.xaxis.label.set_color(scheme.text)
    axis.yaxis.label.set_color(scheme.text)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(scheme.faint)


def png(figure: Figure, dpi: int = 150) -> str:
    """The figure as base64 of a PNG with a transparent background."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi, transparent=True, metadata={"Software": None})
    return base64.b64encode(file.getvalue()).decode("ascii")
