"""Learning curves as SVG geometry: positions of lines, ticks and labels. The template draws them."""

import math
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

from eightball_ppo.demo.run_data import Curve
from eightball_ppo.report.pages import number

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 26
MAX_INTERVALS = 5


@dataclass(frozen=True)
class Chart:
    """One panel.

    Args:
        title: What the curves show.
        note: How to read them.
        description: The chart in one sentence, for screen readers.
        lines: (name of the run, the `points` of an SVG polyline) of every run.
        ticks: (y coordinate, text) of every tick.
    """

    title: str
    note: str
    description: str
    lines: list[tuple[str, str]]
    ticks: list[tuple[float, str]]


def chart(title: str, note: str, curves: list[Curve]) -> Chart:
    """The curves in SVG coordinates, with round ticks."""
    values = [value for curve in curves for _, value in curve.points]
    marks = round_ticks(min(values), max(values))
    low, high = marks[0], marks[-1]

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    lines = []
    for curve in curves:
        points = [f"{LEFT + share * (WIDTH - LEFT - RIGHT):.1f},{y(value)}" for share, value in curve.points]
        lines.append((curve.name, " ".join(points)))
    ranges = [
        f"{curve.name} from {number(curve.points[0][1], 2)} to {number(curve.points[-1][1], 2)}" for curve in curves
    ]
    digits = max(0, -math.floor(math.log10(marks[1] - marks[0])))
    ticks = [(y(mark), number(mark, digits)) for mark in marks]
    return Chart(title, note, f"{title} during training: {'; '.join(ranges)}.", lines, ticks)


def round_ticks(low: float, high: float) -> list[float]:
    """Evenly spaced round numbers that enclose `low` to `high`."""
    locator = MaxNLocator(MAX_INTERVALS, steps=[1, 2, 5, 10])
    return [float(mark) for mark in locator.tick_values(low, max(high, low + 1e-3))]
