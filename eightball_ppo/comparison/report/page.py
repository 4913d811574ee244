"""The comparison as one self-contained HTML page and as Markdown: the same tables, the same figures, no request."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from jinja2 import Environment

from eightball_ppo.comparison.report import tables as tables
from eightball_ppo.comparison.report.figures import Chart, inline
from eightball_ppo.report.markdown import code, escaped, fenced
from eightball_ppo.report.pages import NOTHING, environment, missing, number
from eightball_ppo.report.style import outline, styles

if TYPE_CHECKING:
    from eightball_ppo.comparison.report.data import ComparisonData

HTML, MARKDOWN = "comparison.html.jinja", "comparison.md.jinja"
TITLE = "Comparison of methods"
MOST_SENTENCES = 12  # of the headline; further ones are folded away


def render_html(data: ComparisonData, charts: list[Chart]) -> str:
    """The page. Whatever stands in `data` is text there, never markup."""
    found = styles([*data.results["name"], *data.curves["name"], *(row["name"] for row in _failed(data))])
    marks = {
        name: {"place": place, "light": style.light, "dark": style.dark, "path": outline(style.marker)}
        for place, (name, style) in enumerate(found.items())
    }
    figures = [
        {"chart": chart, "panels": inline(chart), "legend": [name for name in marks if name in chart.styles]}
        for chart in charts
    ]
    return _environment().get_template(HTML).render(_view(data), marks=marks, figures=figures)


def render_markdown(data: ComparisonData, charts: list[Chart]) -> str:
    """The same as GitHub's Markdown; the figures are linked, not inlined."""
    return _markdown(data, charts, whole=True)


def render_headline(data: ComparisonData) -> str:
    """The opening of the Markdown alone, short enough for a README: sentences and a narrow table for every beta."""
    return _markdown(data, [], whole=False)


def _markdown(data: ComparisonData, charts: list[Chart], whole: bool) -> str:
    text = _markdown_environment().get_template(MARKDOWN).render(_view(data), charts=charts, whole=whole)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _view(data: ComparisonData) -> dict[str, Any]:
    """What both templates are given."""
    every = tables.conditions(data) or [tables.Condition()]
    main, others = every[0], every[1:]
    runs = data.results.drop_duplicates(["name", "seed", "beta", "noise", "budget", "run_dir"])
    return {
        "title": TITLE,
        "data": data,
        "facts": _facts(data, len(runs)),
        "blocks": tables.blocks(data, main),
        "brief": tables.brief(data, main),
        "others": [(own.words, tables.blocks(data, own)) for own in others],
        "pairs": tables.pair_groups(data),
        "sentences": tables.sentences(data, main),
        "first": data.headline[:MOST_SENTENCES],
        "further": data.headline[MOST_SENTENCES:],
        "flips": tables.flips(data),
        "runs": runs.sort_values(["name", "beta", "noise", "budget", "seed"], kind="stable").to_dict("records"),
        "one_seed": _one_seed(data),
        "no_gold": bool(data.results["gold_accuracy"].isna().all()),
        "lists": [("Settings", _shown(data.settings)), ("Environment", _shown(data.environment))],
    }


def _facts(data: ComparisonData, runs: int) -> str:
    """One line: how much was run."""
    counts = {
        ("method", "methods"): data.results["name"].nunique(),
        ("run", "runs"): runs,
        ("seed", "seeds"): data.results["seed"].nunique(),
        ("price of KL", "prices of KL"): len(tables.betas(data)),
    }
    words = [f"{count:,} {one if count == 1 else many}" for (one, many), count in counts.items()]
    for split, questions in (
        data.results.groupby("split")["questions"].max().reindex(tables.splits(data)).dropna().items()
    ):
        words.append(f"{number(questions, 0)} {tables.split_words(str(split))}")
    return ", ".join([*words, f"{len(data.labels)} labels", *([f"{len(data.holes)} runs failed"] * bool(data.holes))])


def _failed(data: ComparisonData) -> list[dict[str, Any]]:
    every = tables.conditions(data)
    return [row for own in every for block in tables.blocks(data, own) for row in block["rows"] if not row["seeds"]]


def _one_seed(data: ComparisonData) -> bool:
    return bool(len(data.results)) and data.results["seed"].nunique() <= 1


def _shown(values: dict[str, Any]) -> dict[str, str]:
    return {
        str(name): json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | tuple | dict)
        else NOTHING if value is None else str(value)
        for name, value in values.items()
    }  # fmt: skip


def _environment() -> Environment:
    own = environment(
        count=lambda value: number(value, 0),
        spent=lambda value: number(value, 0 if not missing(value) and value >= 100 else 1),
        interval=_interval,
        metric=tables.metric_words,
        split=tables.split_words,
        p=_p_value,
        difference=lambda row: _interval(tables.Interval(row["estimate"], row["low"], row["high"])),
        known=lambda value: NOTHING if missing(value) else str(value),
        plain=lambda value: NOTHING if missing(value) else f"{value:g}",
        capitalized=lambda text: text[:1].upper() + text[1:],
    )
    own.tests["spread"] = lambda own: not (missing(own.low) or missing(own.high))
    return own


def _interval(own: tables.Interval) -> str:
    """`0.982 (0.974 to 0.995)`."""
    if missing(own.estimate) or missing(own.low) or missing(own.high):
        return number(own.estimate)
    return f"{number(own.estimate)} ({number(own.low)} to {number(own.high)})"


def _p_value(value: float | None) -> str:
    return number(value) if value is None or missing(value) or value >= 0.001 else "< 0.001"


# --- Markdown


def _markdown_environment() -> Environment:
    """Every value that a template prints is escaped, unless a filter has made Markdown of it."""
    own = _environment().overlay(finalize=escaped)
    own.filters.update(code=code, fenced=fenced)
    return own
