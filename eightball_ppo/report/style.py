"""How a method looks, the same in every figure and table: its name, its place, its marker and its colours.

Cool colours are distillation, warm ones policy gradients. They were searched for the largest distance between any two
under normal vision, protanopia, deuteranopia and tritanopia; the markers tell the methods apart without any colour.
"""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple

from matplotlib.colors import to_hex, to_rgb
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path

from eightball_ppo.config.registry import BUILT_IN, METHODS
from eightball_ppo.report.pages import DARK, LIGHT, Scheme


class Style(NamedTuple):
    """The marker of a method, and its colour on a light and on a dark page."""

    marker: str
    light: str
    dark: str


_FIXED_THRESHOLDS = ("h", "p", "8", "d", ">", "H")  # markers of distill@0.9, distill@0.99 and so on
_UNKNOWN = (Style(">", "#b0417e", "#f08bbd"), Style("d", "#4b6a10", "#b9d46a"), Style("H", "#3a5f8a", "#a0bfe6"))
_SIZES = {"*": 1.75, "^": 1.15, "v": 1.15, "<": 1.15, ">": 1.15, "D": 0.82, "s": 0.92, "P": 1.15, "X": 1.1, "d": 1.1}
_COMMANDS: dict[Any, str] = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}


class PlotTheme(NamedTuple):
    """A scheme and, by name, the marker and colour of every method on it."""

    scheme: Scheme
    markers: dict[str, str]
    colours: dict[str, str]


def row_name(method: str, threshold: float | None) -> str:
    """`distill@0.99` where the user fixed the threshold, else the method."""
    return method if threshold is None or math.isnan(threshold) else f"{method}@{threshold:g}"


def styles(names: Iterable[str]) -> dict[str, Style]:
    """Every name's style, in the order of legends: exact, policy gradients, distillation, best_of_n, methods of other
    packages, the reference."""
    ordered = sorted(set(names), key=lambda name: (_place(name), name.partition("@")[0], _threshold(name), name))
    found: dict[str, Style] = {}
    thresholds = unknown = 0
    for name in ordered:
        method, fixed, _ = name.partition("@")
        style = _style_of(method)
        if style is None:
            style = _UNKNOWN[unknown % len(_UNKNOWN)]
            unknown += 1
        elif fixed:
            style = style._replace(marker=_FIXED_THRESHOLDS[thresholds % len(_FIXED_THRESHOLDS)])
            thresholds += 1
        found[name] = style
    return found


def _style_of(method: str) -> Style | None:
    """What the table of methods says; None for a method that is not in it, or that leaves its look to us."""
    spec = METHODS.get(method)
    return None if spec is None or spec.style is None else Style(*spec.style)


def _place(name: str) -> float:
    method = name.partition("@")[0]
    known = [*reversed(BUILT_IN)]
    return known.index(method) if method in known else len(known) - 1.5


def _threshold(name: str) -> float:
    try:
        return float(name.partition("@")[2] or 0)
    except ValueError:
        return math.inf


def plot_theme(found: dict[str, Style], dark: bool) -> PlotTheme:
    """The look of the light or the dark page."""
    return PlotTheme(
        scheme=DARK if dark else LIGHT,
        markers={name: style.marker for name, style in found.items()},
        colours={name: style.dark if dark else style.light for name, style in found.items()},
    )


def size(marker: str) -> float:
    """What to multiply a width by for all markers to look equally large."""
    return _SIZES.get(marker, 1.0)


def blend(colour: str, other: str, share: float) -> str:
    """`colour` with `share` of `other` in it."""
    pairs = zip(to_rgb(colour), to_rgb(other), strict=True)
    return str(to_hex([(1 - share) * own + share * added for own, added in pairs]))


def outline(marker: str, radius: float = 5.0) -> str:
    """A marker as the `d` of an SVG path around (0, 0)."""
    style: Any = MarkerStyle(marker)
    path = style.get_path().transformed(style.get_transform())
    scale = radius * size(marker) / 0.5
    parts = []
    for points, code in path.iter_segments(simplify=False):
        if code == Path.CLOSEPOLY:
            parts.append("Z")
        else:
            parts.append(_COMMANDS[code] + " ".join(f"{scale * c:.2f}" for c in _flipped(points)))
    return "".join(parts)


def _flipped(points: Any) -> list[float]:
    """SVG's y grows downwards."""
    return [-value if i % 2 else value for i, value in enumerate(map(float, points))]
