"""The figures of the comparison: which there are, what is said of them, and how they become files."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from eightball_ppo.comparison.report import draw as draw
from eightball_ppo.comparison.report import frames as frames
from eightball_ppo.comparison.report.tables import conditions
from eightball_ppo.report.pages import missing
from eightball_ppo.report.style import PlotTheme, Style, plot_theme, size, styles

if TYPE_CHECKING:
    from eightball_ppo.comparison.report.data import ComparisonData

_RC = {"text.parse_math": False, "svg.hashsalt": "comparison", "svg.fonttype": "none", "font.size": 10.0}
_FONTS = "font-family: system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif;"
_FILE_DPI = 160


@dataclass(frozen=True)
class Chart:
    """One figure: `frame` holds all that is drawn, a panel for every value of its column `panel`."""

    name: str
    title: str
    caption: str
    frame: pd.DataFrame
    draw: Callable[[Any, pd.DataFrame, PlotTheme], None]
    says: Callable[[pd.DataFrame], str]  # a panel in words
    styles: dict[str, Style]  # of the methods in the legend; empty: no legend
    size: tuple[float, float] = (4.7, 3.6)  # of a panel, in inches

    def panels(self) -> Iterator[tuple[str, pd.DataFrame]]:
        for panel in dict.fromkeys(self.frame["panel"]):
            yield panel, self.frame[self.frame["panel"] == panel]

    def alt(self, panel: str, frame: pd.DataFrame) -> str:
        return f"{self.title}{f', {panel}' if panel else ''}. {self.says(frame)}."


def charts(data: ComparisonData) -> list[Chart]:
    """Every figure that there is something to show in, in the order of the report."""
    found = styles([*data.results["name"], *data.curves["name"]])
    made = [
        _score_kl_chart(data, found),
        _curves_chart(data, found, "episode"),
        _curves_chart(data, found, "grader_calls"),
        _coverage_chart(data),
        _gold_chart(data, found),
        _labels_chart(data),
        _sensitivity_chart(data, found, "noise"),
        _sensitivity_chart(data, found, "budget"),
    ]
    return [chart for chart in made if len(chart.frame)]


def _present(found: dict[str, Style], frame: pd.DataFrame) -> dict[str, Style]:
    names = set(frame["name"]) if "name" in frame else set()
    return {name: style for name, style in found.items() if name in names}


def _means(frame: pd.DataFrame, columns: dict[str, str]) -> str:
    """The mean of every method and beta in words."""
    keys = ["name", *(["beta"] if "beta" in frame else [])]
    parts = []
    for key, own in frame.groupby(keys, sort=True):
        who = key[0] if len(keys) == 1 else f"{key[0]} at beta {key[1]:g}"
        parts.append(f"{who}: " + ", ".join(f"{words} {own[column].mean():.3f}" for column, words in columns.items()))
    return "; ".join(parts)


def _encoding(data: ComparisonData, frame: pd.DataFrame) -> str:
    """How beta and the conditions can be told from a point."""
    if not len(frame):
        return ""
    known = [f"{beta:g}" for beta in sorted(frame["beta"].dropna().unique())]
    filled = {1: "", 2: f" Filled markers: beta {known[0]}; open ones: beta {known[-1]}."}
    words = filled.get(len(known), f" The higher beta ({', '.join(known)}), the emptier the marker.")
    pale = " Small, pale markers: runs with noise or a budget." if len(conditions(data)) > 1 else ""
    return words + pale


def _score_kl_chart(data: ComparisonData, found: dict[str, Style]) -> Chart:
    frame = frames.score_kl_points(data)
    runs = frame[frame["kind"] == "run"]
    return Chart(
        name="plane",
        title="Score bought with KL",
        caption="Every run by its KL to the reference and its expected score. The line is the exact optimum at all "
        "prices of KL: no policy lies above it." + _encoding(data, runs),
        frame=frame,
        draw=draw.draw_score_kl,
        says=lambda own: _means(own[own["kind"] == "run"], {"kl": "KL", "expected_score": "expected score"}),
        styles=_present(found, runs),
        size=(4.9, 4.0),
    )


def _gold_chart(data: ComparisonData, found: dict[str, Style]) -> Chart:
    frame = frames.gold_points(data)
    return Chart(
        name="gold",
        title="Gold against grader",
        caption="Every run on held-out questions, by what the grader says of its answers and by how often its most "
        "probable answer is the wanted one. To the right without going up is over-optimisation: it pleases the grader "
        "alone." + _encoding(data, frame),
        frame=frame,
        draw=draw.draw_gold,
        says=lambda own: _means(own, {"expected_score": "expected score", "gold_accuracy": "gold accuracy"}),
        styles=_present(found, frame),
        size=(4.9, 4.0),
    )


def _curves_chart(data: ComparisonData, found: dict[str, Style], x: str) -> Chart:
    frame, y = frames.curve_points(data, x)
    words, place = ("episodes", "as a line across") if x == "episode" else ("grader calls", "from the calls it made on")
    return Chart(
        name=f"curves_{words.replace(' ', '_')}",
        title=f"Learning curves against {words}",
        caption="Training questions. Thick lines are the mean over seeds, thin ones single seeds. Dashed: a method "
        f"without episodes has only an end, drawn {place}.",
        frame=frame,
        draw=partial(draw.draw_curves, x=x, y=y),
        says=lambda own: (
            "At the end: " + _means(own[own["kind"] == "mean"].groupby("name").tail(1), {y: y.replace("_", " ")})
        ),
        styles=_present(found, frame),
    )


def _coverage_chart(data: ComparisonData) -> Chart:
    frame = frames.coverage_points(data)
    right = frame["accuracy"].notna().any()
    return Chart(
        name="coverage",
        title="What a threshold keeps",
        caption="Share of the questions whose grade is at least as sure as the threshold of distillation"
        + (", and how often the grader's favourite is then the wanted answer (held-out questions)." if right else "."),
        frame=frame,
        draw=draw.draw_coverage,
        says=lambda own: "; ".join(
            f"threshold {row['threshold']:g}: {row['coverage']:.0%} kept"
            + ("" if missing(row["accuracy"]) else f", {row['accuracy']:.0%} of those right")
            for row in own.iloc[:: max(len(own) // 8, 1)].to_dict("records")
        ),
        styles={},
    )


def _labels_chart(data: ComparisonData) -> Chart:
    frame = frames.label_shares(data)
    held = (data.results["split"] == "heldout").any()
    upright = len(data.labels) > draw.MOST_SIDE_BY_SIDE
    rows = frame.groupby("panel")["name"].nunique().max() if len(frame) else 1
    most = min(1.5 * float(frame["probability"].max()), 1.0) if len(frame) else 1.0
    return Chart(
        name="labels",
        title="Which labels are given",
        caption=f"Mean probability of every label on {'held-out' if held else 'training'} questions, mean over seeds. "
        "First row or column: how often a label is the grader's favourite; next to it the reference, before training.",
        frame=frame,
        draw=partial(draw.draw_labels, most=most),
        says=lambda own: "; ".join(
            f"{name}: " + ", ".join(f"{row.label} {row.probability:.2f}" for row in part.itertuples())
            for name, part in own.groupby("name", sort=False)
        ),
        styles={},
        size=(4.9, 1.9 + 0.27 * len(data.labels)) if upright else (4.7, 1.0 + 0.32 * rows),
    )


def _sensitivity_chart(data: ComparisonData, found: dict[str, Style], kind: str) -> Chart:
    frame = frames.sensitivity_points(data, kind)
    words = {"noise": ("noise of the grader", "wrong grades"), "budget": ("grader calls allowed", "a budget")}[kind]

    def panel(axis: Any, own: pd.DataFrame, view: PlotTheme) -> None:
        draw.draw_sensitivity(axis, own, view, xlabel=words[0], ylabel=str(own["panel"].iloc[0]).split(",")[0])

    return Chart(
        name=kind,
        title=f"Held-out questions under {words[1]}",
        caption="Means with 95 % intervals; where none was computed, from the lowest to the highest seed. "
        "The methods of one level stand side by side to be seen; the levels are not to scale.",
        frame=frame,
        draw=panel,
        says=lambda own: "; ".join(
            f"{row.name} at {row.level}: {row.estimate:.3f}" for row in own.itertuples(index=False)
        ),
        styles=_present(found, frame),
    )


# --- files


def save(chart: Chart, directory: Path) -> None:
    """All panels side by side as NAME.png and NAME.svg, and the numbers as NAME.parquet."""
    chart.frame.to_parquet(directory / f"{chart.name}.parquet", index=False)
    panels, view = list(chart.panels()), plot_theme(chart.styles, dark=False)
    columns = min(len(panels), 3 if len(panels) == 3 else 2)
    rows = -(-len(panels) // columns)
    with rc_context(_RC):
        legend_rows = -(-len(chart.styles) // 5)
        width, height = chart.size[0] * columns, chart.size[1] * rows + 0.27 * legend_rows
        layout = ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, wspace=0.02, hspace=0.03)
        figure = Figure(figsize=(width, height), layout=layout, facecolor=view.scheme.card)
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis, (panel, own) in zip(axes, panels, strict=False):
            _panel(axis, chart, panel, own, view)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        if chart.styles:
            handles = [
                Line2D([], [], linestyle="", label=name, marker=style.marker, color=style.light,
                       markersize=7 * size(style.marker))
                for name, style in chart.styles.items()
            ]  # fmt: skip
            place = {"loc": "outside lower center", "ncols": min(len(handles), 5 if columns > 1 else 3)}
            figure.legend(handles=handles, frameon=False, labelcolor=view.scheme.text, **place)
        figure.savefig(directory / f"{chart.name}.png", dpi=_FILE_DPI, metadata={"Software": None})
        figure.set_layout_engine("none")  # everything has its place now
        (directory / f"{chart.name}.svg").write_text(_svg(figure), encoding="utf-8")


def inline(chart: Chart) -> list[dict[str, str]]:
    """Every panel by itself: `panel`, `alt`, and the SVG as base64 for a light and for a dark page."""
    found = []
    for panel, own in chart.panels():
        pictures: dict[str, str] = {}
        place: Any = None  # found once, by the light one
        for theme in ("light", "dark"):
            with rc_context(_RC):
                figure = Figure(figsize=chart.size, layout=None if place else "constrained", facecolor="none")
                axis = figure.subplots()
                if place:
                    axis.set_position(place)
                _panel(axis, chart, panel, own, plot_theme(chart.styles, dark=theme == "dark"))
                pictures[theme] = base64.b64encode(_svg(figure).encode()).decode("ascii")
                place = axis.get_position()
        found.append({"panel": panel, "alt": chart.alt(panel, own), **pictures})
    return found


def _panel(axis: Any, chart: Chart, panel: str, frame: pd.DataFrame, view: PlotTheme) -> None:
    axis.set_facecolor("none")
    chart.draw(axis, frame, view)
    axis.set_title(panel, loc="left", fontsize=10.5, fontweight="bold", color=view.scheme.text)


def _svg(figure: Figure) -> str:
    """The same bytes for the same figure; its letters are the reader's system's."""
    file = io.StringIO()
    figure.savefig(file, format="svg")
    text = re.sub(r"font-family: 'DejaVu Sans'[^;]*;", _FONTS, file.getvalue())
    return re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
