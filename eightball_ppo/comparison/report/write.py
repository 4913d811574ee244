"""Writes results.parquet, summary.json, the report of a comparison and its figures."""

import dataclasses
import shlex
from pathlib import Path
from typing import Any

import pandas as pd

from eightball_ppo.comparison import results as frames
from eightball_ppo.comparison import workspace
from eightball_ppo.comparison.pairwise import compare_methods, headline
from eightball_ppo.comparison.report import figures, page
from eightball_ppo.comparison.report.data import ComparisonData
from eightball_ppo.comparison.results import RunResult, Tasks
from eightball_ppo.comparison.workers import FailedRuns
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.report.verdict import NOT_SAVED, next_sentence, print_verdict, saved_sentence
from eightball_ppo.runtime.atomic_io import atomic_path, write_json, write_text
from eightball_ppo.runtime.redaction import redacted


def write(
    config: CompareConfig,
    tasks: Tasks,
    results: list[RunResult],
    failed: FailedRuns,
    environment: dict[str, Any],
    temporary: bool = False,
) -> None:
    """Writes all files of the report and prints the headline.

    Args:
        config: of the comparison.
        tasks: the shared questions, scores and references.
        results: the finished runs.
        failed: the failed ones.
        environment: versions, machine and command of the runs.
        temporary: whether the caller will remove the directory, so that the verdict must not name it.
    """
    root = Path(config.output_dir)
    manifest, task = workspace.manifest(root), tasks[0]
    intervals, pairs = compare_methods(results, tasks, config)
    shared: dict[str, Any] = {
        "settings": {name: value for name, value in redacted(vars(config)).items() if name != "overwrite_output_dir"},
        "environment": environment,
        "failed_runs": [{**dataclasses.asdict(spec), "why": why} for spec, why in failed.items()],
        "headline": headline(pairs),
    }
    data = ComparisonData(
        results=frames.results_frame(results, root),
        intervals=intervals,
        pairs=pairs,
        frontier=frames.frontier_frame(task),
        curves=frames.curves_frame(results, tasks),
        coverage=frames.coverage_frame(task),
        confidence=frames.confidence_frame(results, tasks),
        flips=frames.flips_frame(results, tasks),
        labels=list(task.labels.names),
        dataset=config.dataset_name,
        grader=manifest["grader"],
        command=shlex.join(["python", "scripts/compare.py", *environment["command"][1:]]),
        **shared,
    )
    with atomic_path(root / "results.parquet") as file:
        frames.results_frame(results, root).to_parquet(file)
    write_report(data, root)
    report = root / "report.html"
    lines = [*data.headline, f"{len(results)} runs, {len(failed)} failed"]
    lines += [NOT_SAVED] if temporary else [saved_sentence(report), _next(data, root)]
    summary = {
        **shared,
        **manifest,
        "verdict": lines,
        "runs": len(results),
        "intervals": _records(intervals),
        "pairs": _records(pairs),
    }
    write_json(root / "summary.json", summary)
    print_verdict(lines)


def _next(data: ComparisonData, root: Path) -> str:
    """The command that shows the runs in the browser."""
    return next_sentence("demo", *(str(root / run) for run in dict.fromkeys(data.results["run_dir"][:2])))


def _records(frame: pd.DataFrame) -> list[Any]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def write_report(data: ComparisonData, directory: Path) -> None:
    """Writes report.html, report.md, and each figure in figures/ as PNG, SVG and Parquet."""
    folder = directory / "figures"
    folder.mkdir(parents=True, exist_ok=True)
    charts = figures.charts(data)
    for chart in charts:
        figures.save(chart, folder)
    write_text(directory / "report.html", page.render_html(data, charts))
    write_text(directory / "report.md", page.render_markdown(data, charts))
