"""The comparison: prepare the ground, make every run, read all of them back, say what they say."""

import dataclasses
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import Tensor

from eightball_ppo import objective
from eightball_ppo.compare_options import CompareConfig
from eightball_ppo.comparison import directory, grid
from eightball_ppo.comparison.findings import display, findings, headline
from eightball_ppo.comparison.measured import SPLITS, Measured, load_ground, read_back, results_frame
from eightball_ppo.comparison.workers import Holes, run_jobs
from eightball_ppo.data import Questions
from eightball_ppo.data.pairs import shown
from eightball_ppo.errors import DryRun, IncompleteError, InputError
from eightball_ppo.methods.label_sets import with_labels
from eightball_ppo.methods.task import Task, load_splits, outlook
from eightball_ppo.ranks import num_processes
from eightball_ppo.redaction import redacted
from eightball_ppo.report.comparison import ComparisonData, write_report
from eightball_ppo.runs import environment, read_environment, whole, write_json

FRONTIER_POINTS = 80
MOST_FLIPS = 30


def run(config: CompareConfig) -> Path:
    """Compare every method of the grid in `config.output_dir` and return that; finished runs are not made again.

    Raises:
        DryRun: on a dry run, with the runs to make and what grading would cost.
        InputError: bad options, data, checkpoint or grader, or a directory of another comparison.
        IncompleteError: some runs failed; the report shows the holes, and the same command tries them again.
    """
    if num_processes() > 1:
        raise InputError("compare: starts its own processes; launch it with plain python")
    config = with_labels(config)
    all_jobs = list(grid.jobs(config))
    cells = [cell for job in all_jobs for cell in job.cells]
    for cell in cells:
        grid.cell_config(cell, config)  # says what is wrong before anything is trained
    questions = load_splits(config)
    directory.check(config, questions)
    if config.dry_run:
        raise DryRun(prospect(cells, config, questions))
    with directory.held(config):
        directory.check(config, questions)  # what another process may have made of it meanwhile
        _make(config, all_jobs, cells)
    return Path(config.output_dir)


def prospect(cells: list[grid.Cell], config: CompareConfig, questions: dict[str, Questions]) -> str:
    """What is still to make, in words."""
    missing = [cell for cell in cells if not (Path(config.output_dir) / grid.RUNS / cell.name).exists()]
    grades = "all grades are made" if directory.is_prepared(config) else outlook(config, questions)
    return f"{len(cells)} runs, {len(missing)} of them to make; {grades}"


def _make(config: CompareConfig, all_jobs: list[grid.Job], cells: list[grid.Cell]) -> None:
    directory.prepare(config)
    task = load_ground(config)
    holes = run_jobs(all_jobs, config)
    found = read_back(cells, config, task, holes)
    if not found:
        raise IncompleteError(f"{config.output_dir}: no run was made, e.g. {next(iter(holes.values()))}")
    command = ["compare.py", *redacted(sys.argv[1:])]
    write(config, task, found, holes, {**environment(config.trust_remote_code), "command": command})
    if holes:
        cell, why = next(iter(holes.items()))
        raise IncompleteError(
            f"{config.output_dir}: {len(holes)} of {len(cells)} runs are missing, e.g. {cell.name}: {why}; the report "
            "shows the holes, and the same command tries them again"
        )


def rewrite(config: CompareConfig) -> None:
    """The report of a comparison that stands, from its runs as they are; nothing is trained, and no recipe read.

    Raises:
        InputError: no comparison, or one whose reference, grades or data are missing or other ones by now.
        IncompleteError: none of its runs stands.
    """
    without_store = dataclasses.replace(config, grade_store=":memory:")  # nobody is asked, so no such file is opened
    directory.check(config, load_splits(without_store))
    root = Path(config.output_dir)
    if not (root / grid.REFERENCE).is_dir():
        raise InputError(f"{root / grid.REFERENCE}: missing, so this is no comparison that stands; run it again")
    cells = [cell for job in grid.jobs(config) for cell in job.cells]
    holes = {cell: "was not made" for cell in cells if not (root / grid.RUNS / cell.name).is_dir()}
    task = load_ground(without_store)
    found = read_back(cells, config, task, holes)
    if not found:
        raise IncompleteError(f"{root}: none of its runs stands; run the comparison again")
    write(config, task, found, holes, read_environment(root))


def write(config: CompareConfig, task: Task, found: list[Measured], holes: Holes, made_with: dict[str, Any]) -> None:
    """results.parquet, summary.json and the report; prints the sentences that matter. `made_with`: versions, machine
    and command of the runs."""
    root = Path(config.output_dir)
    results = results_frame(found, root)
    intervals, pairs = findings(found, task, config.resamples)
    lines = headline(pairs, config.methods)
    known = directory.ground(config)
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
    with whole(root / "results.parquet") as file:
        results.to_parquet(file)
    summary: dict[str, Any] = {"settings": settings, "environment": made_with, **known, "runs": len(found)}
    summary |= {"holes": missing, "headline": lines}
    summary |= {"intervals": _records(intervals), "pairs": _records(pairs)}
    write_report(data, root)
    write_json(root / "summary.json", summary)
    print("\n".join([*lines, f"{len(found)} runs -> {root / 'report.html'}"]))


def _records(frame: pd.DataFrame) -> list[Any]:
    return frame.astype(object).where(frame.notna(), None).to_dict("records")


def frontier_frame(task: Task) -> pd.DataFrame:
    """The exact frontier of each split: KL and expected score of the optimum at many prices of KL."""
    rows = []
    for split in SPLITS:
        graded = task.graded(split)
        unit = (graded.score_NK.max() - graded.score_NK.min()).item() or 1.0
        betas = (unit * np.logspace(3, -3, FRONTIER_POINTS)).tolist()
        points = objective.frontier(graded.ref_logp_NK, graded.score_NK, betas)
        rows += [
            {"split": split, "beta": beta, "kl": kl, "expected_score": score}
            for beta, (kl, score) in zip(betas, points, strict=True)
        ]
    return pd.DataFrame(rows)


def curves_frame(found: list[Measured], task: Task) -> pd.DataFrame:
    """Training questions while each run learned, from the reference on; one point where nothing is sampled."""
    graded = task.graded("train")
    start = objective.expected_score_N(graded.ref_logp_NK, graded.score_NK).mean().item()
    rows = []
    for one in found:
        sampled = [row for row in one.curve if "episode" in row]
        if sampled:
            rows.append({**one.cell.key, "episode": 0, "grader_calls": 0, "optimum_fraction": 0.0, "kl": 0.0})
            rows[-1]["expected_score"] = start
        for row in sampled or one.curve[-1:]:
            exact = {name: row[f"exact/{name}"] for name in ("optimum_fraction", "expected_score", "kl")}
            spent = {"episode": row.get("episode", 0), "grader_calls": row["grader_calls"]}
            rows.append({**one.cell.key, **spent, **exact})
    frame = pd.DataFrame(rows)
    frame["budget"] = frame["budget"].astype("Int64")
    return frame


def coverage_frame(task: Task) -> pd.DataFrame:
    """What a threshold on the grader's confidence keeps of the held-out questions, and how much of that is right."""
    logp_NK, gold = task.grader_logp_NK["heldout"], task.questions["heldout"].label_ids
    assert gold is not None
    confidence_N = logp_NK.double().exp().max(-1).values.numpy()
    right_N = logp_NK.argmax(-1).numpy() == np.array(gold)
    thresholds = np.unique(np.concatenate([[0.0], np.quantile(confidence_N, np.linspace(0, 1, 100))]))
    rows = []
    for threshold in thresholds.tolist():
        kept_N = confidence_N >= threshold
        rows.append({"threshold": threshold, "coverage": kept_N.mean(), "accuracy": right_N[kept_N].mean()})
    return pd.DataFrame(rows)


def flips_frame(found: list[Measured], task: Task) -> pd.DataFrame:
    """The held-out questions whose most probable answer one run changed, those first whose distribution moved most."""
    trained = [one for one in found if one.cell.method not in ("sft", "best_of_n")]
    rows: list[dict[str, Any]] = []
    for one in [own for own in trained if own.cell.method == "ppo"][:1] or trained[:1]:
        graded, names = task.graded("heldout"), task.labels.names
        before_NK, after_NK = graded.ref_logp_NK.exp(), one.logp_NK["heldout"].exp()
        change_N = 0.5 * (after_NK - before_NK).abs().sum(-1)
        for row in change_N.argsort(descending=True, stable=True).tolist():
            old, new = int(before_NK[row].argmax()), int(after_NK[row].argmax())
            if old != new and len(rows) < MOST_FLIPS:
                rows.append(
                    {
                        "question": shown(graded.questions.texts[row]),
                        "wanted": names[graded.questions.label_ids[row]] if graded.questions.label_ids else None,
                        "grader": names[_best(graded.score_NK[row])],
                        "method": display(one.cell.method, one.cell.threshold),
                        "beta": one.cell.beta,
                        "before": names[old],
                        "after": names[new],
                        "p_before": before_NK[row, new].item(),
                        "p_after": after_NK[row, new].item(),
                        "change": change_N[row].item(),
                    }
                )
    return pd.DataFrame(rows)


def _best(score_K: Tensor) -> int:
    return int(score_K.argmax())
