"""Learning curves as SVG geometry: where lines, ticks and labels go. The template draws them."""

import math
from dataclasses import dataclass

from eightball_ppo.demo.run_data import Curve
from eightball_ppo.report.pages import number

WIDTH, HEIGHT = 360, 200
LEFT, RIGHT, TOP, BOTTOM = 44, 12, 12, 26


@dataclass(frozen=True)
class Chart:
    """One panel. `lines`: (name of the run, the `points` of a polyline); `ticks`: (height, text); `words`: the chart in
    a sentence, for those who do not see it."""

    title: str
    note: str
    words: str
    lines: list[tuple[str, str]]
    ticks: list[tuple[float, str]]


def chart(title: str, note: str, curves: list[Curve]) -> Chart:
    """One chart: the curves in the coordinates of its SVG, and round marks on its axis."""
    values = [value for curve in curves for _, value in curve.points]
    marks = round_numbers(min(values), max(values))
    low, high = min(marks[0], *values), max(marks[-1], *values)

    def y(value: float) -> float:
        return round(HEIGHT - BOTTOM - (value - low) / (high - low) * (HEIGHT - TOP - BOTTOM), 1)

    lines = []
    for curve in curves:
        points = [f"{LEFT + share * (WIDTH - LEFT - RIGHT):.1f},{y(value)}" for share, value in curve.points]
        lines.append((curve.name, " ".join(points)))
    said = [f"{own.name} from {number(own.points[0][1], 2)} to {number(own.points[-1][1], 2)}" for own in curves]
    digits = max(0, -math.floor(math.log10(marks[1] - marks[0])))
    ticks = [(y(mark), number(mark, digits)) for mark in marks]
    return Chart(title, note, f"{title} during training: {'; '.join(said)}.", lines, ticks)


def round_numbers(low: float, high: float) -> list[float]:
    """Three to six round numbers, evenly spaced, that enclose or nearly enclose `low` to `high`."""
    span = max(high - low, 1e-3)
    unit = 10.0 ** math.floor(math.log10(span / 3))
    step = next(unit * factor for factor in (1, 2, 5, 10) if span / (unit * factor) <= 5)
    first = math.floor(low / step)
    last = max(math.ceil(high / step), first + 1)
    return [round(step * i, 10) for i in range(first, last + 1)]
