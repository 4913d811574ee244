"""Draws the panels of the comparison's figures, each from its rows of the Parquet file alone."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from eightball_ppo.comparison.report.frames import BEFORE, GRADER
from eightball_ppo.config.registry import REFERENCE
from eightball_ppo.report.pages import apply_theme, draw_heat_map, short
from eightball_ppo.report.style import PlotTheme, blend, size

MARKER_AREA = 46  # square points
MIN_SHARE = -1.0  # share of the optimum at which learning curves are cut
MAX_NUMBERED_COLUMNS = 14  # of a heat map that prints the numbers in its cells
_NINES = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)


def iter_methods(frame: pd.DataFrame, theme: PlotTheme) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of every method, in the order of the legend."""
    for name in theme.markers:
        rows = frame[frame["name"] == name]
        if len(rows):
            yield name, rows


def _scatter_runs(axis: Any, frame: pd.DataFrame, x: str, y: str, theme: PlotTheme) -> None:
    """Marks every run by method, emptier for a higher beta; runs with noise or a budget are small and pale."""
    betas = sorted(frame["beta"].unique())
    openness = dict(zip(betas, np.linspace(0.0, 0.92, len(betas)), strict=True))
    for main, scale, style in (
        (False, 0.3, {"linewidth": 0.7, "alpha": 0.4, "zorder": 3}),
        (True, 1.0, {"linewidth": 1.1, "alpha": 0.9, "zorder": 4}),
    ):
        for name, runs in iter_methods(frame[frame["main"] == main], theme):
            colour, marker = theme.colours[name], theme.markers[name]
            markers = {"s": scale * MARKER_AREA * size(marker) ** 2, "marker": marker, "label": name}
            faces = [blend(colour, theme.scheme.card, openness[beta]) for beta in runs["beta"]]
            axis.scatter(runs[x], runs[y], facecolor=faces, edgecolor=colour, **markers, **style)


def _limits(values: pd.Series, below: float = 0.05, above: float = 0.07) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    width = high - low or max(abs(high), 1.0) * 0.5
    return low - below * width, high + above * width


def draw_score_kl(axis: Any, frame: pd.DataFrame, theme: PlotTheme) -> None:
    """Expected score against KL; the area above the frontier, which no policy reaches, is shaded."""
    runs, curve, marks = (frame[frame["kind"] == kind] for kind in ("run", "frontier", "beta"))
    x_low, x_high = _limits(runs["kl"])
    visible = curve[curve["kl"].between(x_low, x_high)]
    y_low, y_high = _limits(pd.concat([runs["expected_score"], visible["expected_score"]]), above=0.2)
    text, faint = theme.scheme.text, theme.scheme.faint
    if len(curve):
        kl, score = curve["kl"].to_numpy(), curve["expected_score"].to_numpy()
        axis.plot(kl, score, color=text, linewidth=1.5, zorder=2, label="frontier")
        kl = np.concatenate([[min(x_low, 0.0), 0.0], kl, [max(x_high, kl[-1])]])
        score = np.concatenate([[y_low - 1, y_low - 1], score, score[-1:]])
        axis.fill_between(kl, score, y_high + abs(y_high) + 1, color=theme.scheme.zero, linewidth=0, zorder=0)
        style = {"va": "top", "fontsize": 8.5, "style": "italic", "color": blend(text, faint, 0.5)}
        axis.text(0.02, 0.975, "out of reach of any policy", transform=axis.transAxes, **style)
    arrow = {"arrowstyle": "-", "color": faint, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 3}
    style = {"ha": "right", "fontsize": 8.5, "color": text, "arrowprops": arrow}
    marked: list[float] = []
    for row in marks[marks["kl"].between(x_low, x_high)].sort_values("kl").to_dict("records"):
        point = (row["kl"], row["expected_score"])
        step = sum(row["kl"] - other < 0.2 * (x_high - x_low) for other in marked)  # keeps the texts apart
        marked.append(row["kl"])
        axis.plot(*point, marker="|", markersize=9, color=text, zorder=2.5)
        offset = {"xytext": (-6, 9 + 13 * step), "textcoords": "offset points"}
        axis.annotate(f"beta {row['beta']:g}", point, **offset, **style)
    _scatter_runs(axis, runs, "kl", "expected_score", theme)
    axis.set(xlim=(x_low, x_high), ylim=(y_low, y_high), xlabel="KL to the reference, nats", ylabel="expected score")
    _finish(axis, theme)


def draw_gold(axis: Any, frame: pd.DataFrame, theme: PlotTheme) -> None:
    """Gold accuracy against the grader's expected score: where they part, the grader is wrong about the gold label."""
    _scatter_runs(axis, frame, "expected_score", "gold_accuracy", theme)
    axis.set(xlim=_limits(frame["expected_score"]), ylim=_limits(frame["gold_accuracy"]))
    axis.set(xlabel="expected score, by the grader", ylabel="gold accuracy")
    _finish(axis, theme)


def _marker(name: str, theme: PlotTheme) -> dict[str, Any]:
    style = {"marker": theme.markers[name], "markersize": 6.4 * size(theme.markers[name]), "label": name}
    return style | {"markeredgecolor": theme.scheme.card, "markeredgewidth": 0.6, "color": theme.colours[name]}


def draw_curves(axis: Any, frame: pd.DataFrame, theme: PlotTheme, x: str, y: str) -> None:
    """Thin lines are seeds, thick ones their mean; a method with one point is a dashed line from there on."""
    last = float(frame[x].max())
    for name, rows in iter_methods(frame, theme):
        for _, seed in rows[rows["kind"] == "seed"].groupby("seed"):
            axis.plot(seed[x], seed[y], color=theme.colours[name], linewidth=0.8, alpha=0.4, zorder=2)
        mean, marker = rows[rows["kind"] == "mean"], _marker(name, theme)
        if len(mean) > 1:
            axis.plot(mean[x], mean[y], linewidth=2, zorder=4, markevery=max(len(mean) // 6, 1), **marker)
        else:
            ends, level = (float(mean[x].fillna(0.0).iloc[0]), 1.05 * last), mean[y].iloc[0]
            marker["markevery"] = [int(x == "episode")]
            axis.plot(ends, (level, level), linestyle="--", linewidth=1.3, zorder=3, **marker)
    low, high = _limits(frame[y], 0.04, 0.05)
    if y == "optimum_fraction":
        low, high = max(low, MIN_SHARE), max(high, 1.04)
        axis.axhline(1, color=theme.scheme.faint, linewidth=1, zorder=1)
    axis.set(xlim=(-0.02 * last, 1.07 * last), ylim=(low, high))
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set(xlabel="episodes" if x == "episode" else "grader calls")
    axis.set(ylabel="share of the optimum" if y == "optimum_fraction" else "expected score")
    _finish(axis, theme)


def draw_coverage(axis: Any, frame: pd.DataFrame, theme: PlotTheme) -> None:
    """Coverage and accuracy against the threshold, on an axis that is linear in -log10(1 - threshold)."""
    rest = 1 - frame["threshold"].clip(upper=1)
    least = float(rest[rest > 1e-12].min()) / 3 if (rest > 1e-12).any() else 0.1
    x = -np.log10(rest.clip(lower=least))
    muted = blend(theme.scheme.text, theme.scheme.faint, 0.3)
    axis.plot(x, frame["coverage"], color=theme.scheme.accent, linewidth=2, label="share of questions selected")
    if frame["accuracy"].notna().any():
        axis.plot(x, frame["accuracy"], color=muted, linestyle="--", linewidth=2, label="accuracy on those")
    ticks = {value: -np.log10(1 - value) for value in _NINES}
    ticks = {value: place for value, place in ticks.items() if x.min() - 1e-9 <= place <= x.max() + 1e-9}
    if frame["threshold"].max() >= 1:
        ticks[1.0] = x.max()
    axis.xaxis.set_major_locator(FixedLocator(list(ticks.values())))
    axis.set_xticklabels([f"{value:g}" for value in ticks])
    axis.set(ylim=(-0.03, 1.05), xlabel="threshold on the grader's confidence", ylabel="share")
    axis.legend(frameon=False, labelcolor=theme.scheme.text, loc="best", fontsize=9)
    _finish(axis, theme)


def draw_reliability(axis: Any, frame: pd.DataFrame, theme: PlotTheme) -> None:
    """Accuracy against confidence, a point for every bin; a calibrated policy lies on the dotted line."""
    axis.plot((0, 1), (0, 1), color=theme.scheme.faint, linestyle=":", linewidth=1.2, zorder=1)
    for name, rows in iter_methods(frame, theme):
        axis.plot(rows["confidence"], rows["accuracy"], linewidth=1.1, zorder=3, **_marker(name, theme))
    axis.set(xlim=(max(float(frame["confidence"].min()) - 0.05, 0), 1.02), ylim=(-0.03, 1.05))
    axis.set(xlabel="confidence", ylabel="gold accuracy")
    _finish(axis, theme)


def draw_risk_coverage(axis: Any, frame: pd.DataFrame, theme: PlotTheme) -> None:
    """The share of wrong answers among the most confident ones, against how many are answered."""
    for name, rows in iter_methods(frame, theme):
        axis.plot(rows["coverage"], rows["risk"], linewidth=1.6, markevery=7, zorder=3, **_marker(name, theme))
    axis.set(xlim=(0, 1.02), ylim=_limits(frame["risk"]), xlabel="share of questions answered", ylabel="share wrong")
    _finish(axis, theme)


def draw_labels(axis: Any, frame: pd.DataFrame, theme: PlotTheme, most: float) -> None:
    """A heat map, labels by methods, darkest at `most`; a gap sets grader and reference apart."""
    table = frame.pivot(index="label", columns="name", values="probability")
    table = table.loc[frame["label"].unique(), frame["name"].unique()]
    texts = table.map(lambda share: f"{share:.2f}".removeprefix("0")).to_numpy()
    numbered = texts if table.shape[1] <= MAX_NUMBERED_COLUMNS else None
    draw_heat_map(axis, table.to_numpy(float), numbered, theme.scheme, most)
    axis.axvline(table.columns.isin([GRADER, BEFORE]).sum(), color=theme.scheme.card, linewidth=9)
    tilt = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    axis.set_xticks(np.arange(table.shape[1]) + 0.5, table.columns, fontsize=9, **tilt)
    axis.set_yticks(np.arange(table.shape[0]) + 0.5, map(short, table.index), fontsize=9)
    apply_theme(axis, theme.scheme)
    axis.spines[["left", "bottom"]].set_visible(False)


def draw_sensitivity(axis: Any, frame: pd.DataFrame, theme: PlotTheme, xlabel: str, ylabel: str) -> None:
    """A metric against noise or budget; levels are equally far apart, methods a little beside one another."""
    methods = list(iter_methods(frame, theme))
    for (name, rows), shift in zip(methods, np.linspace(-0.23, 0.23, len(methods)), strict=True):
        rows = rows.sort_values("position")
        x, colour = rows["position"] + shift, theme.colours[name]
        if name == REFERENCE and len(rows) == 1:
            axis.axhline(rows["estimate"].iloc[0], color=colour, linewidth=1.2, linestyle=":", zorder=2)
        axis.vlines(x, rows["low"], rows["high"], color=colour, linewidth=1.3, alpha=0.8, zorder=2)
        line = ":" if name == REFERENCE else "-"
        axis.plot(x, rows["estimate"], linestyle=line, linewidth=1.2, zorder=3, **_marker(name, theme))
    levels = frame.sort_values("position")["level"].unique()
    axis.set_xticks(range(len(levels)), levels)
    axis.set(xlim=(-0.5, len(levels) - 0.5), xlabel=xlabel, ylabel=ylabel)
    axis.set_ylim(*_limits(pd.concat([frame["estimate"], frame["low"], frame["high"]])))
    _finish(axis, theme)


def _finish(axis: Any, theme: PlotTheme) -> None:
    axis.grid(axis="y", color=theme.scheme.faint, alpha=0.3, linewidth=0.8)
    axis.set_axisbelow(True)
    apply_theme(axis, theme.scheme)
