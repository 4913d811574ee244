"""Write what a comparison found: results.parquet, summary.json, the report and its figures."""

import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from eightball_ppo.comparison import workspace
from eightball_ppo.comparison.pairwise import compare_methods, headline
from eightball_ppo.comparison.report import figures, page
from eightball_ppo.comparison.report.data import ComparisonData
from eightball_ppo.comparison.results import (
    RunResult,
    coverage_frame,
    curves_frame,
    flips_frame,
    frontier_frame,
    results_frame,
)
from eightball_ppo.comparison.workers import FailedRuns
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.methods.task import Task
from eightball_ppo.runtime.atomic_io import atomic_path, write_json, write_text
from eightball_ppo.runtime.redaction import redacted


def write(
    config: CompareConfig, task: Task, found: list[RunResult], holes: FailedRuns, made_with: dict[str, Any]
) -> None:
    """results.parquet, summary.json and the report; prints the sentences that matter. `made_with`: versions, machine
    and command of the runs."""
    root = Path(config.output_dir)
    results = results_frame(found, root)
    intervals, pairs = compare_methods(found, task, config.resamples)
    lines = headline(pairs, config.methods)
    known = workspace.manifest(config)
    settings = {name: value for name, value in redacted(vars(config)).items() if name != "overwrite_output_dir"}
    missing = [{**cell.key, "why": why} for cell, why in holes.items()]
    data = ComparisonData(
        results=results,
        intervals=intervals,
        pairs=pairs,
        frontier=frontier_frame(task),
        curves=curves_frame(found, task),
        coverage=coverage_frame(task),
        flips=flips_frame(found, task),
        labels=list(task.labels.names),
        dataset=config.dataset_name,
        grader=known["grader"],
        command=shlex.join(["python", "scripts/compare.py", *made_with["command"][1:]]),
        headline=lines,
        holes=missing,
        settings=settings,
        environment=made_with,
    )
    with atomic_path(root / "results.parquet") as file:
        results.to_parquet(file)
    summary: dict[str, Any] = {"settings": settings, "environment": made_with, **known, "runs": len(found)}
    summary |= {"holes": missing, "headline": lines}
    summary |= {"intervals": _records(intervals), "pairs": _records(pairs)}
    write_report(data, root)
    write_json(root / "summary.json", summary)
    print("\n".join([*lines, f"{len(found)} runs -> {root / 'report.html'}"]))


def _records(frame: pd.DataFrame) -> list[Any]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def write_report(data: ComparisonData, directory: Path) -> None:
    """report.html and report.md, and in figures/ every figure as PNG and SVG and its numbers as Parquet."""
    folder = directory / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    charts = figures.charts(data)
    for chart in charts:
        figures.save(chart, folder)
    write_text(directory / "report.html", page.render_html(data, charts))
    write_text(directory / "report.md", page.render_markdown(data, charts))
