"""The figures of the comparison: which there are, their captions and alternative texts, and their files."""

import base64
import io
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.lines import Line2D

from eightball_ppo.comparison.report import draw, frames
from eightball_ppo.comparison.report.data import ComparisonData
from eightball_ppo.comparison.report.tables import conditions
from eightball_ppo.report.style import PlotTheme, Style, plot_theme, size, styles

_RC = {"text.parse_math": False, "svg.hashsalt": "comparison", "svg.fonttype": "none", "font.size": 10.0}
_FONTS = "font-family: system-ui, -apple-system, 'Segoe UI', Roboto, 'Helvetica Neue', Arial, sans-serif;"


@dataclass(frozen=True)
class Chart:
    """One figure.

    Args:
        name: of its files.
        title: heading.
        caption: what it shows.
        frame: all that is drawn, a panel for every value of the column `panel`.
        draw: draws the rows of a panel on matplotlib's axes.
        describe: the rows of a panel in words, for the alternative text.
        styles: of the methods in the legend; empty: no legend.
        size: of a panel, in inches.
    """

    name: str
    title: str
    caption: str
    frame: pd.DataFrame
    draw: Callable[[Any, pd.DataFrame, PlotTheme], None]
    describe: Callable[[pd.DataFrame], str]
    styles: dict[str, Style]
    size: tuple[float, float] = (4.7, 3.6)

    def panels(self) -> Iterator[tuple[str, pd.DataFrame]]:
        """(title, rows) of every panel."""
        for panel in dict.fromkeys(self.frame["panel"]):
            yield panel, self.frame[self.frame["panel"] == panel]


def charts(data: ComparisonData) -> list[Chart]:
    """Every figure with something to show, in the order of the report."""
    known = styles([*data.results["name"], *data.curves["name"]])
    found = [
        _score_kl_chart(data, known),
        _curves_chart(data, known, "episode"),
        _curves_chart(data, known, "grader_calls"),
        _coverage_chart(data),
        _gold_chart(data, known),
        _reliability_chart(data, known),
        _risk_coverage_chart(data, known),
        _labels_chart(data),
        _sensitivity_chart(data, known, "noise"),
        _sensitivity_chart(data, known, "budget"),
    ]
    return [chart for chart in found if len(chart.frame)]


def _legend(known: dict[str, Style], frame: pd.DataFrame) -> dict[str, Style]:
    names = set(frame["name"]) if "name" in frame else set()
    return {name: style for name, style in known.items() if name in names}


def _describe(frame: pd.DataFrame, keys: dict[str, str], columns: dict[str, str]) -> str:
    """The mean of the columns in words, for every method and every value of the other `keys`."""
    parts = []
    for key, rows in frame.groupby(["name", *keys], sort=False):
        where = "".join(f" at {words}{value}" for words, value in zip(keys.values(), key[1:], strict=True))
        values = (f"{words} {rows[column].mean():.3f}".strip() for column, words in columns.items())
        parts.append(f"{key[0]}{where}: {', '.join(values)}")
    return "; ".join(parts)


def _marker_caption(data: ComparisonData, frame: pd.DataFrame) -> str:
    """How a marker shows beta and the condition."""
    if not len(frame):
        return ""
    betas = [f"{beta:g}" for beta in sorted(frame["beta"].dropna().unique())]
    text = f" The higher beta ({', '.join(betas)}), the emptier the marker." if len(betas) > 1 else ""
    return text + (" Small, pale markers: runs with noise or a budget." if len(conditions(data)) > 1 else "")


def _score_kl_chart(data: ComparisonData, known: dict[str, Style]) -> Chart:
    frame = frames.score_kl_points(data)
    runs = frame[frame["kind"] == "run"]
    columns = {"kl": "KL", "expected_score": "expected score"}
    return Chart(
        name="score_kl",
        title="Expected score against KL",
        caption="Every run by its KL to the reference and its expected score. The line is the exact optimum at all "
        "betas: no policy lies above it." + _marker_caption(data, runs),
        frame=frame,
        draw=draw.draw_score_kl,
        describe=lambda rows: _describe(rows[rows["kind"] == "run"], {"beta": "beta "}, columns),
        styles=_legend(known, runs),
        size=(4.9, 4.0),
    )


def _gold_chart(data: ComparisonData, known: dict[str, Style]) -> Chart:
    frame = frames.gold_points(data)
    columns = {"expected_score": "expected score", "gold_accuracy": "gold accuracy"}
    return Chart(
        name="gold",
        title="Gold accuracy against expected score",
        caption="Every run on held-out questions, by its expected score under the grader and by how often its most "
        "probable answer is the gold label. Right without up is over-optimisation of the grader."
        + _marker_caption(data, frame),
        frame=frame,
        draw=draw.draw_gold,
        describe=partial(_describe, keys={"beta": "beta "}, columns=columns),
        styles=_legend(known, frame),
        size=(4.9, 4.0),
    )


def _curves_chart(data: ComparisonData, known: dict[str, Style], x: str) -> Chart:
    frame, y = frames.curve_points(data, x)
    end = {y: y.replace("_", " ")}
    words, place = ("episodes", "as a line across") if x == "episode" else ("grader calls", "from its calls on")
    return Chart(
        name=f"curves_{words.replace(' ', '_')}",
        title=f"Learning curves against {words}",
        caption="Training questions. Thick lines are the mean over seeds, thin ones single seeds. Dashed: a method "
        f"without episodes has one point, drawn {place}.",
        frame=frame,
        draw=partial(draw.draw_curves, x=x, y=y),
        describe=lambda rows: "At the end: " + _describe(rows[rows["kind"] == "mean"].groupby("name").tail(1), {}, end),
        styles=_legend(known, frame),
    )


def _coverage_chart(data: ComparisonData) -> Chart:
    frame = frames.coverage_points(data)
    accuracy = ", and the grader's accuracy on those (held-out questions)" if frame["accuracy"].notna().any() else ""

    def describe(rows: pd.DataFrame) -> str:
        rows = rows.iloc[:: max(len(rows) // 8, 1)]
        accuracies = ["" if pd.isna(value) else f", {value:.0%} of those right" for value in rows["accuracy"]]
        columns = zip(rows["threshold"], rows["coverage"], accuracies, strict=True)
        return "; ".join(f"threshold {threshold:g}: {share:.0%} selected{text}" for threshold, share, text in columns)

    return Chart(
        name="coverage",
        title="Coverage of a confidence threshold",
        caption=f"Share of the questions whose grade reaches distillation's confidence threshold{accuracy}.",
        frame=frame,
        draw=draw.draw_coverage,
        describe=describe,
        styles={},
    )


def _reliability_chart(data: ComparisonData, known: dict[str, Style]) -> Chart:
    frame = frames.reliability_points(data)
    return Chart(
        name="reliability",
        title="Reliability",
        caption="Gold accuracy by confidence on held-out questions, in 15 bins of equal mass, seeds together. Below "
        "the dotted line a policy is overconfident.",
        frame=frame,
        draw=draw.draw_reliability,
        describe=partial(_describe, keys={}, columns={"confidence": "confidence", "accuracy": "accuracy"}),
        styles=_legend(known, frame),
    )


def _risk_coverage_chart(data: ComparisonData, known: dict[str, Style]) -> Chart:
    frame = frames.risk_coverage_points(data)
    return Chart(
        name="risk_coverage",
        title="Risk and coverage",
        caption="The share of wrong answers when only the most confident share of the held-out questions is answered, "
        "mean over seeds. The area below a curve is AURC.",
        frame=frame,
        draw=draw.draw_risk_coverage,
        describe=partial(_describe, keys={}, columns={"risk": "mean share wrong"}),
        styles=_legend(known, frame),
    )


def _labels_chart(data: ComparisonData) -> Chart:
    frame = frames.label_shares(data)
    split = "held-out" if (data.results["split"] == "heldout").any() else "training"
    most = min(1.5 * float(frame["probability"].max()), 1.0) if len(frame) else 1.0
    return Chart(
        name="labels",
        title="Label distribution",
        caption=f"Mean probability of every label on {split} questions, mean over seeds. First column: how often a "
        "label is the grader's argmax; second: the reference, before training.",
        frame=frame,
        draw=partial(draw.draw_labels, most=most),
        describe=lambda rows: "; ".join(
            f"{name}: " + ", ".join(f"{row.label} {row.probability:.2f}" for row in part.itertuples())
            for name, part in rows.groupby("name", sort=False)
        ),
        styles={},
        size=(4.9, 1.9 + 0.27 * len(data.labels)),
    )


def _sensitivity_chart(data: ComparisonData, known: dict[str, Style], kind: str) -> Chart:
    frame = frames.sensitivity_points(data, kind)
    xlabel, title = {"noise": ("label noise", "wrong grades"), "budget": ("grader call budget", "a budget")}[kind]

    def draw_panel(axis: Any, rows: pd.DataFrame, theme: PlotTheme) -> None:
        draw.draw_sensitivity(axis, rows, theme, xlabel, ylabel=str(rows["panel"].iloc[0]).split(",")[0])

    return Chart(
        name=kind,
        title=f"Held-out questions under {title}",
        caption="Means with 95 % intervals; where none was computed, from the lowest to the highest seed. "
        "The methods of one level are drawn side by side; the levels are not to scale.",
        frame=frame,
        draw=draw_panel,
        describe=partial(_describe, keys={"level": ""}, columns={"estimate": ""}),
        styles=_legend(known, frame),
    )


def save(chart: Chart, directory: Path) -> None:
    """Writes all panels side by side as NAME.png and NAME.svg, and the numbers as NAME.parquet."""
    chart.frame.to_parquet(directory / f"{chart.name}.parquet", index=False)
    panels, theme = list(chart.panels()), plot_theme(chart.styles, dark=False)
    columns = min(len(panels), 3 if len(panels) == 3 else 2)
    rows = -(-len(panels) // columns)
    legend_rows = -(-len(chart.styles) // 5)
    with rc_context(_RC):
        figure = Figure(
            figsize=(chart.size[0] * columns, chart.size[1] * rows + 0.27 * legend_rows),
            layout=ConstrainedLayoutEngine(w_pad=0.1, h_pad=0.1, wspace=0.02, hspace=0.03),
            facecolor=theme.scheme.card,
        )
        axes = figure.subplots(rows, columns, squeeze=False).flatten()
        for axis, (panel, frame) in zip(axes, panels, strict=False):
            _draw_panel(axis, chart, panel, frame, theme)
        for axis in axes[len(panels) :]:
            axis.set_axis_off()
        if chart.styles:
            handles = []
            for name, style in chart.styles.items():
                markersize = 7 * size(style.marker)
                marker = Line2D([], [], linestyle="", marker=style.marker, markersize=markersize, color=style.light)
                marker.set_label(name)
                handles.append(marker)
            place: dict[str, Any] = {"loc": "outside lower center", "ncols": min(len(handles), 5 if columns > 1 else 3)}
            figure.legend(handles=handles, frameon=False, labelcolor=theme.scheme.text, **place)
        figure.savefig(directory / f"{chart.name}.png", dpi=160, metadata={"Software": None})
        figure.set_layout_engine("none")  # the SVG takes the PNG's layout
        (directory / f"{chart.name}.svg").write_text(_svg(figure), encoding="utf-8")


def inline(chart: Chart) -> list[dict[str, str]]:
    """Every panel for the page: its title, its alternative text `alt`, and base64 of its SVG for `light` and `dark`."""
    found = []
    for panel, frame in chart.panels():
        title = f"{chart.title}{f', {panel}' if panel else ''}"
        pictures = {"panel": panel, "alt": f"{title}. {chart.describe(frame)}."}
        place: Any = None  # both get the layout of the light one
        for scheme in ("light", "dark"):
            with rc_context(_RC):
                figure = Figure(figsize=chart.size, layout=None if place else "constrained", facecolor="none")
                axis = figure.subplots()
                if place:
                    axis.set_position(place)
                _draw_panel(axis, chart, panel, frame, plot_theme(chart.styles, dark=scheme == "dark"))
                pictures[scheme] = base64.b64encode(_svg(figure).encode()).decode("ascii")
                place = axis.get_position()
        found.append(pictures)
    return found


def _draw_panel(axis: Any, chart: Chart, panel: str, frame: pd.DataFrame, theme: PlotTheme) -> None:
    axis.set_facecolor("none")
    chart.draw(axis, frame, theme)
    axis.set_title(panel, loc="left", fontsize=10.5, fontweight="bold", color=theme.scheme.text)


def _svg(figure: Figure) -> str:
    """The figure as SVG in the reader's system font; the same figure gives the same bytes."""
    file = io.StringIO()
    figure.savefig(file, format="svg")
    text = re.sub(r"font-family: 'DejaVu Sans'[^;]*;", _FONTS, file.getvalue())
    return re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
