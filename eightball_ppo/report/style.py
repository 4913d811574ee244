"""Name, order, marker and colours of every method, the same in all figures and tables.

Cool colours are distillation, warm ones policy gradients. They maximise the smallest distance between two methods under
normal vision, protanopia, deuteranopia and tritanopia; the markers tell the methods apart without colour.
"""

from collections.abc import Iterable
from typing import Any, NamedTuple

import pandas as pd
from matplotlib.colors import to_hex, to_rgb
from matplotlib.markers import MarkerStyle
from matplotlib.path import Path
from matplotlib.transforms import Affine2D

from eightball_ppo.config.registry import BUILT_IN, METHODS
from eightball_ppo.report.pages import DARK, LIGHT, Scheme


class Style(NamedTuple):
    """The marker of a method, and its colour on a light and on a dark page."""

    marker: str
    light: str
    dark: str


_THRESHOLD_MARKERS = ("h", "p", "8", "d", ">", "H")  # of distill@0.9, distill@0.99 and so on
_FALLBACKS = (Style(">", "#b0417e", "#f08bbd"), Style("d", "#4b6a10", "#b9d46a"), Style("H", "#3a5f8a", "#a0bfe6"))
_SIZES = {"*": 1.75, "^": 1.15, "v": 1.15, "<": 1.15, ">": 1.15, "D": 0.82, "s": 0.92, "P": 1.15, "X": 1.1, "d": 1.1}
_COMMANDS: dict[Any, str] = {Path.MOVETO: "M", Path.LINETO: "L", Path.CURVE3: "Q", Path.CURVE4: "C"}


class PlotTheme(NamedTuple):
    """A colour scheme, and the marker and colour of every method on it."""

    scheme: Scheme
    markers: dict[str, str]
    colours: dict[str, str]


def row_name(method: str, threshold: float | None) -> str:
    """`distill@0.99` where the user fixed the threshold, else the method."""
    return method if pd.isna(threshold) else f"{method}@{threshold:g}"


def styles(names: Iterable[str]) -> dict[str, Style]:
    """Every name's style, in the order of legends.

    The order is exact, policy gradients, distillation, best_of_n, methods of other packages, the reference.
    """
    found: dict[str, Style] = {}
    thresholds = unknown = 0
    for name in sorted(set(names), key=_legend_order):
        method, fixed, _ = name.partition("@")
        spec = METHODS.get(method)
        if spec is None or spec.style is None:
            style = _FALLBACKS[unknown % len(_FALLBACKS)]
            unknown += 1
        else:
            style = Style(*spec.style)
            if fixed:
                style = style._replace(marker=_THRESHOLD_MARKERS[thresholds % len(_THRESHOLD_MARKERS)])
                thresholds += 1
        found[name] = style
    return found


def _legend_order(name: str) -> tuple[float, str, str]:
    method, _, threshold = name.partition("@")
    known = [*reversed(BUILT_IN)]
    return known.index(method) if method in known else len(known) - 1.5, method, threshold


def plot_theme(found: dict[str, Style], dark: bool) -> PlotTheme:
    """The theme of the light or the dark page."""
    return PlotTheme(
        scheme=DARK if dark else LIGHT,
        markers={name: style.marker for name, style in found.items()},
        colours={name: style.dark if dark else style.light for name, style in found.items()},
    )


def size(marker: str) -> float:
    """Scale of a marker that makes all markers look equally large."""
    return _SIZES.get(marker, 1.0)


def blend(colour: str, other: str, share: float) -> str:
    """`colour` with `share` of `other` mixed in, as hex."""
    pairs = zip(to_rgb(colour), to_rgb(other), strict=True)
    return str(to_hex([(1 - share) * first + share * second for first, second in pairs]))


def outline(marker: str) -> str:
    """A marker as the `d` attribute of an SVG path around (0, 0), about 10 units wide."""
    style: Any = MarkerStyle(marker)
    scale = 10 * size(marker)
    path = style.get_path().transformed(style.get_transform() + Affine2D().scale(scale, -scale))  # SVG's y points down
    parts = []
    for points, code in path.iter_segments(simplify=False):
        coordinates = " ".join(f"{value:.2f}" for value in points)
        parts.append("Z" if code == Path.CLOSEPOLY else _COMMANDS[code] + coordinates)
    return "".join(parts)
