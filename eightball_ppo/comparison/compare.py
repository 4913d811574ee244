"""The comparison: prepare the ground, make every run, read all of them back, say what they say."""

import contextlib
import sys
from pathlib import Path

from eightball_ppo.comparison import grid, workspace
from eightball_ppo.comparison.report.write import write
from eightball_ppo.comparison.results import collect_results, load_shared_task
from eightball_ppo.comparison.workers import run_grid
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.data import Questions
from eightball_ppo.errors import DryRun, IncompleteError, InputError
from eightball_ppo.methods.prerequisites import estimate_stage_cost
from eightball_ppo.methods.task import load_splits
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.runtime.atomic_io import DirectoryLock
from eightball_ppo.runtime.distributed import num_processes
from eightball_ppo.runtime.redaction import redacted
from eightball_ppo.runtime.run import check_output_dir, environment


def run(config: CompareConfig) -> Path:
    """Compare every method of the grid in `config.output_dir` and return that; finished runs are not made again.

    Raises:
        DryRun: on a dry run, with the runs to make and what grading would cost.
        InputError: bad options, data, checkpoint or grader, or a directory of another comparison.
        IncompleteError: some runs failed; the report shows the holes, and the same command tries them again.
    """
    if num_processes() > 1:
        raise InputError("compare: starts its own processes; launch it with plain python")
    check_output_dir(config)
    config = with_labels(config)
    all_jobs = list(grid.run_groups(config))
    cells = [cell for job in all_jobs for cell in job.cells]
    for cell in cells:
        grid.run_config(cell, config)  # says what is wrong before anything is trained
    questions = load_splits(config)
    workspace.check(config, questions)
    if config.dry_run:
        raise DryRun(estimate_grid_cost(cells, config, questions))
    with contextlib.closing(DirectoryLock(Path(config.output_dir))):
        workspace.check(config, questions)  # what another process may have made of it meanwhile
        _make(config, all_jobs, cells)
    return Path(config.output_dir)


def estimate_grid_cost(cells: list[grid.RunSpec], config: CompareConfig, questions: dict[str, Questions]) -> str:
    """What is still to make, in words."""
    missing = [cell for cell in cells if not (Path(config.output_dir) / grid.RUNS / cell.name).exists()]
    grades = "all grades are made" if workspace.is_prepared(config) else estimate_stage_cost(config, questions)
    return f"{len(cells)} runs, {len(missing)} of them to make; {grades}"


def _make(config: CompareConfig, all_jobs: list[grid.RunGroup], cells: list[grid.RunSpec]) -> None:
    workspace.prepare(config)
    task = load_shared_task(config)
    holes = run_grid(all_jobs, config)
    found = collect_results(cells, config, task, holes)
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
