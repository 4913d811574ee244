"""Grades a data set: fills the grade store and exports the grade table."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eightball_ppo.config.stages import GradeConfig
from eightball_ppo.data import Questions, load_both, load_named, train_split
from eightball_ppo.data.reading import measured_on
from eightball_ppo.data.texts import ArrowTexts
from eightball_ppo.errors import DryRun, InputError
from eightball_ppo.graders import job
from eightball_ppo.graders.judges import reward_functions
from eightball_ppo.graders.registry import check_graders, load_graders, panels_of
from eightball_ppo.graders.reward_functions import columns_by_text
from eightball_ppo.graders.storage.score_table import STATUSES
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.graders.storage.table import write_table
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.runtime.distributed import broadcast_from_main
from eightball_ppo.runtime.run import Run, check_output_dir

TABLE = "grades.parquet"


def run(config: GradeConfig) -> Path:
    """Grades every distinct question of the splits; returns the directory with `grades.parquet`.

    Raises:
        DryRun: On a dry run, with the estimated cost.
        InputError: Bad data, grader or output directory.
        IncompleteError: Too many grades failed, or calls were no longer allowed; the store has the finished grades.
    """
    check_output_dir(config)
    config = with_labels(config)
    labels = config.label_set()
    check_graders(config, labels)
    if config.grade_table is not None:
        raise InputError(f"--grade_table {config.grade_table}: is a finished table; there is nothing to grade")
    splits = _splits(config)
    if config.dry_run:
        texts = ArrowTexts.concatenate(split.texts for split in splits)
        raise DryRun(job.estimate_cost(config, labels, texts, columns=columns_by_text(*splits)))
    with Run(config, "grade") as run:
        return run.finish(broadcast_from_main(lambda: _grade(config, labels, splits, run), config.ddp_timeout))


def _splits(config: GradeConfig) -> Sequence[Questions]:
    """The named splits, or those for training and evaluation; a single one is not cut."""
    keep_columns = bool(reward_functions(config.grader))
    if config.splits:
        return [load_named(config, split, keep_columns=keep_columns) for split in config.splits]
    if isinstance(measured_on(config), float):
        return [load_named(config, train_split(config), keep_columns=keep_columns)]
    return load_both(config, None, None, keep_columns)


def _grade(config: GradeConfig, labels: LabelSet, splits: Sequence[Questions], run: Run) -> dict[str, Any]:
    """Fills the store, exports the table, prints a summary line; returns the results of the run."""
    budget, texts = job.make_budget(config), ArrowTexts.concatenate(split.texts for split in splits)
    with GradeStore(config.grade_store) as store:
        source = load_graders(config, labels, store, budget, columns_by_text(*splits))
        source.grade_missing(texts)
        count, details = write_table(source, texts, run.path / TABLE)
    job.check_failures(config, count, details, budget)
    if count["skipped"]:
        raise job.incomplete(config, f"{budget.stopped}; {count['skipped']} of {count.total()} grades are missing")
    table = Path(config.output_dir) / TABLE
    command = ["eightball", "ppo", "--grade_table", str(table), *config.flags(), "--labels", *labels.names]
    command += ["--grader", config.grader] if panels_of(config.grader) else []  # who graded is not gold
    verdict = [
        f"{config.grader}: {count['ok']} ok, {count['failed']} failed, {count['refused']} refused; {budget.calls} "
        f"calls in {run.seconds:.1f} s ({budget.calls / run.seconds:.0f}/s), {budget.tokens} tokens",
        f"Saved in {table}",
        f"Next: {shlex.join(command)}",
    ]
    print("\n".join(verdict))
    return {
        "verdict": verdict,
        "method": "grade",
        "seed": config.seed,
        "grader": source.fingerprint,
        "grader_settings": source.settings,
        "grades": {status: count[status] for status in STATUSES},
        "failure_rate": job.failure_rate(count),
        **job.cost_record(config, budget),
        "seconds": run.seconds,
    }
