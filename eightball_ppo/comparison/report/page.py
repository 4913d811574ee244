"""The comparison as a self-contained HTML page and as Markdown, with the same tables and figures."""

import json
import re
from typing import Any

import pandas as pd
from jinja2 import Environment

from eightball_ppo.comparison.report import tables
from eightball_ppo.comparison.report.data import ComparisonData
from eightball_ppo.comparison.report.figures import Chart, inline
from eightball_ppo.comparison.wording import SPLIT_NAMES
from eightball_ppo.report.markdown import code, escaped, fenced
from eightball_ppo.report.pages import NOT_MEASURED, jinja_environment, number
from eightball_ppo.report.style import outline, row_name, styles

SCORE_UNITS = {
    "log_prob": "is the grader's log-probability, in nats",
    "probability": "is the grader's probability",
    "logit_margin": "is the grader's log-odds, in nats",
    "raw": "is in the judge's own unit",
}
MAX_HEADLINE = 12  # sentences; further ones are folded


def render_html(data: ComparisonData, charts: list[Chart]) -> str:
    """The page; every value in `data` is escaped."""
    failed = [row_name(run["method"], run["threshold"]) for run in data.failed_runs]
    found = styles([*data.results["name"], *data.curves["name"], *failed])
    marks = {
        name: {"place": place, "light": style.light, "dark": style.dark, "path": outline(style.marker)}
        for place, (name, style) in enumerate(found.items())
    }
    figures = [
        {"chart": chart, "panels": inline(chart), "legend": [name for name in marks if name in chart.styles]}
        for chart in charts
    ]
    return _environment().get_template("comparison.html.jinja").render(_view(data), marks=marks, figures=figures)


def render_markdown(data: ComparisonData, charts: list[Chart]) -> str:
    """The page as GitHub's Markdown; every value is escaped, and the figures are linked."""
    environment = _environment().overlay(finalize=escaped)
    environment.filters.update(code=code, fenced=fenced)
    text = environment.get_template("comparison.md.jinja").render(_view(data), charts=charts)
    return re.sub(r"\n{3,}", "\n\n", text).strip() + "\n"


def _view(data: ComparisonData) -> dict[str, Any]:
    """The variables of both templates."""
    main, *others = tables.conditions(data)
    kinds = data.results["score_type"].dropna() if "score_type" in data.results else pd.Series(dtype=object)
    runs = data.results.drop_duplicates(["name", "seed", "beta", "noise", "budget", "run_dir"])
    return {
        "title": "Comparison of methods",
        "data": data,
        "facts": _facts(data, len(runs)),
        "blocks": tables.blocks(data, main),
        "brief": tables.brief(data, main),
        "others": [(condition.text, tables.blocks(data, condition)) for condition in others],
        "pairs": tables.pair_groups(data),
        "titles": tables.TITLES,
        "cell_text": _cell_text,
        "first": data.headline[:MAX_HEADLINE],
        "further": data.headline[MAX_HEADLINE:],
        "flips": tables.flips(data),
        "runs": runs.sort_values(["name", "beta", "noise", "budget", "seed"], kind="stable").to_dict("records"),
        "one_seed": data.results["seed"].nunique() == 1,
        "references": data.results["reference"].nunique(),
        "score_unit": SCORE_UNITS.get(str(kinds.iloc[0]) if len(kinds) else "log_prob", "is in the unit of the grader"),
        "no_gold": bool(data.results["gold_accuracy"].isna().all()),
        "lists": [("Settings", _texts(data.settings)), ("Environment", _texts(data.environment))],
    }


def _facts(data: ComparisonData, runs: int) -> str:
    """One line: how much was run."""
    counts = {
        "method": data.results["name"].nunique(),
        "run": runs,
        "seed": data.results["seed"].nunique(),
        "beta": len(tables.betas(data)),
    }
    words = [f"{count:,} {name}{'s' * (count != 1)}" for name, count in counts.items()]
    for split, questions in data.results.groupby("split", sort=False)["questions"].max().items():
        words.append(f"{number(questions, 0)} {SPLIT_NAMES[str(split)]}")
    failed = [f"{len(data.failed_runs)} runs failed"] if data.failed_runs else []
    return ", ".join([*words, f"{len(data.labels)} labels", *failed])


def _texts(values: dict[str, Any]) -> dict[str, str]:
    """Each value as text: lists and dicts as JSON."""
    texts = {}
    for name, value in values.items():
        nested = isinstance(value, list | tuple | dict)
        text = json.dumps(value, ensure_ascii=False, default=str) if nested else str(value)
        texts[name] = NOT_MEASURED if value is None else text
    return texts


def _environment() -> Environment:
    environment = jinja_environment(
        count=lambda value: number(value, 0),
        duration=lambda value: number(value, 0 if pd.notna(value) and value >= 100 else 1),
        words={"ahead": "ahead", "equal": "equal within the margin", "undecided": "undecided"}.get,
        interval=_interval,
        split=SPLIT_NAMES.get,
        p=lambda value: number(value) if pd.isna(value) or value >= 0.001 else "< 0.001",
        difference=lambda row: _interval(tables.Interval(row["estimate"], row["low"], row["high"])),
        known=lambda value: NOT_MEASURED if pd.isna(value) else str(value),
        plain=lambda value: NOT_MEASURED if pd.isna(value) else f"{value:g}",
        capitalized=lambda text: text[:1].upper() + text[1:],
    )
    environment.tests["complete"] = _complete
    return environment


def _cell_text(metric: str, interval: tables.Interval) -> str:
    """The estimate of a cell."""
    value = interval.estimate
    if metric in ("grader_calls", "episodes"):
        return number(value, 0)
    return number(value, 0 if pd.notna(value) and value >= 100 else 1) if metric == "seconds" else number(value)


def _complete(interval: tables.Interval) -> bool:
    return not pd.isna(list(interval)).any()


def _interval(interval: tables.Interval) -> str:
    """`0.982 (0.974 to 0.995)`."""
    ends = f" ({number(interval.low)} to {number(interval.high)})" if _complete(interval) else ""
    return number(interval.estimate) + ends
