"""The panels of the comparison's figures, each drawn from its rows alone: what is seen stands in the Parquet file."""

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator

from eightball_ppo.comparison.report.frames import BEFORE, GRADER
from eightball_ppo.config.registry import REFERENCE
from eightball_ppo.report.pages import apply_theme, readable_on, short
from eightball_ppo.report.style import PlotTheme, blend, size

AREA = 46  # of a marker, in square points
LOWEST_SHARE = -1.0  # share of the optimum below which curves are cut
MOST_NUMBERED = 14  # columns up to which a heat map's cells carry their numbers
MOST_SIDE_BY_SIDE = 8  # labels up to which they are the columns of the heat map, not its rows
_NINES = (0.0, 0.5, 0.9, 0.99, 0.999, 0.9999, 0.99999)


def iter_methods(frame: pd.DataFrame, look: PlotTheme) -> Iterator[tuple[str, pd.DataFrame]]:
    """The rows of every method, in the order of the legend."""
    for name in look.markers:
        own = frame[frame["name"] == name]
        if len(own):
            yield name, own


def marker_fill(betas: list[float]) -> dict[float, float]:
    """How open a run's marker is by its beta: 0 filled, 1 empty."""
    ordered = sorted(set(betas))
    return {beta: place / max(len(ordered) - 1, 1) for place, beta in enumerate(ordered)}


def _points(axis: Any, frame: pd.DataFrame, x: str, y: str, look: PlotTheme) -> None:
    """Every run: marker and colour by method, filled by beta; runs with noise or a budget are small and pale."""
    open_by_beta = marker_fill(list(frame["beta"]))
    for main, zorder in ((False, 3), (True, 4)):
        for name, own in iter_methods(frame[frame["main"] == main], look):
            faces = [blend(look.colours[name], look.scheme.card, 0.92 * open_by_beta[beta]) for beta in own["beta"]]
            marker = look.markers[name]
            axis.scatter(
                own[x],
                own[y],
                s=AREA * (1.0 if main else 0.3) * size(marker) ** 2,
                marker=marker,
                facecolor=faces,
                edgecolor=look.colours[name],
                linewidth=1.1 if main else 0.7,
                alpha=0.9 if main else 0.4,
                zorder=zorder,
                label=name,
            )


def _limits(values: pd.Series, below: float = 0.05, above: float = 0.07) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    width = high - low or max(abs(high), 1.0) * 0.5
    return low - below * width, high + above * width


def draw_score_kl(axis: Any, frame: pd.DataFrame, look: PlotTheme) -> None:
    """Score against KL; what no policy can reach is shaded."""
    runs, curve, marks = (frame[frame["kind"] == kind] for kind in ("run", "frontier", "beta"))
    x_low, x_high = _limits(runs["kl"])
    seen = curve[curve["kl"].between(x_low, x_high)]
    y_low, y_high = _limits(pd.concat([runs["expected_score"], seen["expected_score"]]), above=0.2)
    if len(curve):
        kl, score = curve["kl"].to_numpy(), curve["expected_score"].to_numpy()
        axis.plot(kl, score, color=look.scheme.text, linewidth=1.5, zorder=2, label="frontier")
        kl = np.concatenate([[min(x_low, 0.0), 0.0], kl, [max(x_high, kl[-1])]])
        score = np.concatenate([[y_low - 1, y_low - 1], score, score[-1:]])
        axis.fill_between(kl, score, y_high + abs(y_high) + 1, color=look.scheme.none, linewidth=0, zorder=0)
        axis.text(
            *(0.02, 0.975, "out of reach of any policy"),
            transform=axis.transAxes,
            va="top",
            fontsize=8.5,
            style="italic",
            color=blend(look.scheme.text, look.scheme.faint, 0.5),
        )
    named_at: list[float] = []
    for row in marks[marks["kl"].between(x_low, x_high)].sort_values("kl").to_dict("records"):
        step = sum(row["kl"] - other < 0.2 * (x_high - x_low) for other in named_at)
        named_at.append(row["kl"])
        axis.plot([row["kl"]], [row["expected_score"]], marker="|", markersize=9, color=look.scheme.text, zorder=2.5)
        axis.annotate(
            f"beta {row['beta']:g}",
            (row["kl"], row["expected_score"]),
            xytext=(-6, 9 + 13 * step),
            textcoords="offset points",
            ha="right",
            fontsize=8.5,
            color=look.scheme.text,
            arrowprops={"arrowstyle": "-", "color": look.scheme.faint, "linewidth": 0.8, "shrinkA": 0, "shrinkB": 3},
        )
    _points(axis, runs, "kl", "expected_score", look)
    axis.set(xlim=(x_low, x_high), ylim=(y_low, y_high))
    axis.set(xlabel="KL to the reference, nats", ylabel="expected score")
    _finish(axis, look)


def draw_gold(axis: Any, frame: pd.DataFrame, look: PlotTheme) -> None:
    """Expected score, by the grader, against gold accuracy: where the two part, the grader is not what was wanted."""
    _points(axis, frame, "expected_score", "gold_accuracy", look)
    axis.set(xlim=_limits(frame["expected_score"]), ylim=_limits(frame["gold_accuracy"]))
    axis.set(xlabel="expected score, by the grader", ylabel="gold accuracy")
    _finish(axis, look)


def draw_curves(axis: Any, frame: pd.DataFrame, look: PlotTheme, x: str, y: str) -> None:
    """Thin lines are seeds, thick ones their mean; a method that has one point only is a dashed line from there on."""
    last = float(frame[x].max()) if frame[x].notna().any() else 1.0
    end = 1.05 * last
    for name, own in iter_methods(frame, look):
        colour, marker = look.colours[name], look.markers[name]
        style = {"color": colour, "solid_capstyle": "round", "clip_on": True}
        for _, seed in own[own["kind"] == "seed"].groupby("seed"):
            if len(seed) > 1:
                axis.plot(seed[x], seed[y], linewidth=0.8, alpha=0.4, zorder=2, **style)
        mean = own[own["kind"] == "mean"]
        points = {"marker": marker, "markersize": 6.2 * size(marker), "markeredgecolor": look.scheme.card}
        points |= {"markeredgewidth": 0.6, "zorder": 4 if len(mean) > 1 else 3, "label": name}
        if len(mean) > 1:
            axis.plot(mean[x], mean[y], linewidth=2, markevery=max(len(mean) // 6, 1), **points, **style)
        else:
            start = float(mean[x].fillna(0.0).iloc[0])
            points["markevery"] = [1 if x == "episode" else 0]
            axis.plot([start, end], [mean[y].iloc[0]] * 2, linestyle=(0, (4, 2)), linewidth=1.3, **points, **style)
    low, high = _limits(frame[y], 0.04, 0.05)
    if y == "optimum_fraction":
        low, high = max(low, LOWEST_SHARE), max(high, 1.04)
        axis.axhline(1, color=look.scheme.faint, linewidth=1, zorder=1)
    axis.set(xlim=(-0.02 * last, 1.07 * last), ylim=(low, high))
    axis.xaxis.set_major_locator(MaxNLocator(5))
    axis.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axis.set(xlabel="episodes" if x == "episode" else "grader calls")
    axis.set(ylabel="share of the optimum" if y == "optimum_fraction" else "expected score")
    _finish(axis, look)


def draw_coverage(axis: Any, frame: pd.DataFrame, look: PlotTheme) -> None:
    """Both shares against the threshold, on an axis that gives every further nine the same room."""
    rest = 1 - frame["threshold"].clip(upper=1)
    least = float(rest[rest > 1e-12].min()) / 3 if (rest > 1e-12).any() else 0.1
    x = -np.log10(rest.clip(lower=least))
    muted = blend(look.scheme.text, look.scheme.faint, 0.3)
    lines = (
        ("coverage", "share of questions kept", look.scheme.accent, "-"),
        ("accuracy", "right of those", muted, "--"),
    )
    for column, label, colour, style in lines:
        known = frame[column].notna()
        if known.any():
            axis.plot(x[known], frame[column][known], color=colour, linestyle=style, linewidth=2, label=label)
    ticks = [value for value in _NINES if x.min() - 1e-9 <= -np.log10(1 - value) <= x.max() + 1e-9]
    places = [float(-np.log10(1 - value)) for value in ticks]
    if frame["threshold"].max() >= 1:
        ticks, places = [*ticks, 1.0], [*places, float(x.max())]
    axis.xaxis.set_major_locator(FixedLocator(places))
    axis.set_xticklabels([f"{value:g}" for value in ticks])
    axis.set(ylim=(-0.03, 1.05), xlabel="threshold on the grader's confidence", ylabel="share")
    axis.legend(frameon=False, labelcolor=look.scheme.text, loc="best", fontsize=9)
    _finish(axis, look)


def draw_labels(axis: Any, frame: pd.DataFrame, look: PlotTheme, most: float) -> None:
    """A heat map, methods by labels, darkest at `most`; grader and reference stand apart."""
    names, columns = list(dict.fromkeys(frame["name"])), list(dict.fromkeys(frame["label"]))
    value = frame.pivot(index="name", columns="label", values="probability").loc[names, columns].to_numpy(float)
    apart = sum(name in (GRADER, BEFORE) for name in names)
    places = [row + (0.35 if row >= apart else 0.0) for row in range(len(names))]
    scale = LinearSegmentedColormap.from_list("share", [look.scheme.none, look.scheme.accent])
    upright = len(columns) > MOST_SIDE_BY_SIDE
    for place, own in zip(places, value, strict=True):
        across, along = np.arange(len(columns) + 1) - 0.5, np.array([place - 0.5, place + 0.5])
        grid = (along, across, own[:, None]) if upright else (across, along, own[None, :])
        axis.pcolormesh(*grid, cmap=scale, vmin=0, vmax=most, edgecolors=look.scheme.card, linewidth=1.5)
        for column, share in enumerate(own):
            if np.isfinite(share) and (len(names) if upright else len(columns)) <= MOST_NUMBERED:
                at = (place, column) if upright else (column, place)
                text = f"{share:.2f}".removeprefix("0") if upright else f"{share:.2f}"
                colour = readable_on(scale(share / most))
                axis.text(*at, text, ha="center", va="center", fontsize=7.5 if upright else 9, color=colour)
    shown = [short(label) for label in columns]
    turned = {"rotation": 35, "ha": "right", "rotation_mode": "anchor"}
    if upright:
        axis.set_xticks(places, names, fontsize=9, **turned)
        axis.set_yticks(range(len(shown)), shown, fontsize=9)
    else:
        long = len(shown) * max(map(len, shown)) > 34
        axis.set_xticks(range(len(shown)), shown, **(turned if long else {}))
        axis.set_yticks(places, names)
    axis.invert_yaxis()
    axis.tick_params(length=0)
    apply_theme(axis, look.scheme)
    axis.spines[["left", "bottom"]].set_visible(False)


def draw_sensitivity(axis: Any, frame: pd.DataFrame, look: PlotTheme, xlabel: str, ylabel: str) -> None:
    """A metric against noise or budget; the levels are equally far apart, the methods a little beside one another."""
    level_names = list(frame.sort_values("position")["level"].drop_duplicates())
    present = list(iter_methods(frame, look))
    for place, (name, own) in enumerate(present):
        own = own.sort_values("position")
        marker, colour = look.markers[name], look.colours[name]
        shift = 0.46 * (place / max(len(present) - 1, 1) - 0.5)
        x = own["position"] + shift
        reference = name == REFERENCE
        if reference and len(own) == 1:
            axis.axhline(own["estimate"].iloc[0], color=colour, linewidth=1.2, linestyle=":", zorder=2)
        axis.plot(
            x, own["estimate"], color=colour, linewidth=1.2, alpha=0.75, linestyle=":" if reference else "-", zorder=2
        )
        axis.vlines(x, own["low"], own["high"], color=colour, linewidth=1.3, alpha=0.8, zorder=2)
        axis.plot(x, own["estimate"], color=colour, linestyle="", zorder=3, label=name, marker=marker,
                  markersize=6.6 * size(marker), markeredgecolor=look.scheme.card, markeredgewidth=0.6)  # fmt: skip
    axis.set_xticks(range(len(level_names)), level_names)
    axis.set(xlim=(-0.5, len(level_names) - 0.5), xlabel=xlabel, ylabel=ylabel)
    axis.set_ylim(*_limits(pd.concat([frame[column].dropna() for column in ("estimate", "low", "high")])))
    _finish(axis, look)


def _finish(axis: Any, look: PlotTheme) -> None:
    axis.grid(axis="y", color=look.scheme.faint, alpha=0.3, linewidth=0.8)
    axis.set_axisbelow(True)
    apply_theme(axis, look.scheme)
