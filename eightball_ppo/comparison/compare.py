"""`eightball compare`: prepares the shared files, makes every run of the grid, reads the runs back and reports."""

import contextlib
import dataclasses
import logging
import sys
from pathlib import Path

from eightball_ppo.comparison import grid, preparation, workspace
from eightball_ppo.comparison.report.write import write
from eightball_ppo.comparison.results import collect_results, load_shared_tasks
from eightball_ppo.comparison.workers import run_grid
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.data import Questions
from eightball_ppo.errors import DryRun, IncompleteError, InputError
from eightball_ppo.graders.base import Grader
from eightball_ppo.graders.judges import resolve_judge
from eightball_ppo.graders.reward_functions import columns_by_text
from eightball_ppo.methods.inputs import NO_INPUTS, Inputs, load_splits
from eightball_ppo.methods.preflight import preflight
from eightball_ppo.methods.prerequisites import estimate_stage_cost
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.runtime.atomic_io import DirectoryLock
from eightball_ppo.runtime.distributed import num_processes
from eightball_ppo.runtime.redaction import redacted
from eightball_ppo.runtime.run import check_output_dir, environment

logger = logging.getLogger(__name__)


def run(config: CompareConfig, given: Inputs = NO_INPUTS, temporary: bool = False) -> Path:
    """Compares every method of the grid in `config.output_dir`; finished runs are reused.

    Args:
        config: The options of the comparison.
        given: Objects that replace what `config` names; the runs read copies of them in the directory.
        temporary: Whether the caller will remove the directory, so that the verdict must not name it.

    Returns:
        The directory of the comparison.

    Raises:
        DryRun: on a dry run, with the number of runs to make and the cost of grading.
        InputError: bad options, data, checkpoint or grader, or a directory of another comparison.
        IncompleteError: some runs failed. The report lists them, and the same command tries them again.
    """
    if num_processes() > 1:
        raise InputError("compare: starts its processes itself; launch it with plain python")
    check_output_dir(config)
    asked = with_labels(config)
    config = workspace.with_kl_coefs(asked)
    specs = _specs(config)
    for spec in specs:
        grid.run_config(spec, config)  # refuses bad options before anything is trained
    questions = load_splits(config, given)
    if given.judge is not None:
        config, judge = resolve_judge(config, given.judge, columns_by_text(*questions.values()))
        asked = dataclasses.replace(config, kl_coefs=asked.kl_coefs)
        given = given._replace(judge=judge)
    workspace.check(config, questions)
    preparation.check_references(config, given)
    _check_runs(specs, config, questions, given)
    if config.dry_run:
        raise DryRun(_estimate_cost(specs, config, questions, given.judge))
    with contextlib.closing(DirectoryLock(Path(config.output_dir))):
        workspace.check(config, questions)  # another process may have changed it since
        _compare(asked, given, temporary)
    return Path(config.output_dir)


def _specs(config: CompareConfig) -> list[grid.RunSpec]:
    return [spec for group in grid.run_groups(config) for spec in group]


def _check_runs(
    specs: list[grid.RunSpec], config: CompareConfig, questions: dict[str, Questions], given: Inputs
) -> None:
    """Raises InputError for a run that could not be trained, before the reference is trained and a judge is asked."""
    names = () if workspace.is_prepared(config) else ("sft_model_path", "upstream_config", "grade_table")
    sources = {name: getattr(config, name) for name in names}
    reference = given.model
    for spec in specs:
        if spec.seed == config.seeds[0]:
            run = dataclasses.replace(grid.run_config(spec, config), **sources)
            _, reference = preflight(run, questions, reference)


def _estimate_cost(
    specs: list[grid.RunSpec], config: CompareConfig, questions: dict[str, Questions], judge: Grader | None
) -> str:
    missing = [spec for spec in specs if not (Path(config.output_dir) / grid.RUNS / spec.name).exists()]
    grades = "all grades are made" if workspace.is_prepared(config) else estimate_stage_cost(config, questions, judge)
    return f"{len(specs)} runs, {len(missing)} of them to make; {grades}"


def _compare(config: CompareConfig, given: Inputs, temporary: bool) -> None:
    config = preparation.prepare(config, given)
    tasks, specs = load_shared_tasks(config), _specs(config)
    failed = run_grid(list(grid.run_groups(config, workspace.has_raw_scores(config))), config)
    logger.info("%d of %d runs are finished; computing intervals and figures", len(specs) - len(failed), len(specs))
    results = collect_results(specs, config, tasks, failed)
    if not results:
        raise IncompleteError(f"{config.output_dir}: every run failed, e.g. {next(iter(failed.values()))}")
    command = ["compare.py", *redacted(sys.argv[1:])]
    write(config, tasks, results, failed, {**environment(config.trust_remote_code), "command": command}, temporary)
    if failed:
        spec, why = next(iter(failed.items()))
        raise IncompleteError(
            f"{config.output_dir}: {len(failed)} of {len(specs)} runs failed, e.g. {spec.name}: {why}; the report "
            "lists them, and the same command tries them again"
        )
