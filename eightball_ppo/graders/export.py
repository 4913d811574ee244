"""Grade a dataset: fill the grade store, export the table."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eightball_ppo.config.stages import GradeConfig
from eightball_ppo.data import load_both, load_named
from eightball_ppo.errors import DryRun, IncompleteError, InputError
from eightball_ppo.graders.job import (
    check_failures,
    cost_record,
    estimate_cost,
    failure_rate,
    make_budget,
    resume_hint,
    store_path,
)
from eightball_ppo.graders.registry import check_graders, load_graders
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.graders.storage.table import write_table
from eightball_ppo.graders.storage.texts import ConcatTexts
from eightball_ppo.labels import LabelSet
from eightball_ppo.models.label_inference import with_labels
from eightball_ppo.runtime.distributed import broadcast_from_main
from eightball_ppo.runtime.run import Run, check_output_dir

TABLE = "grades.parquet"


def run(config: GradeConfig) -> Path:
    """Grade every question of the splits, once, into the store; write the run with `grades.parquet` and return it.

    Raises:
        DryRun: on a dry run, with what that would cost.
        InputError: bad data, grader or output directory.
        IncompleteError: too many grades failed, or calls were no longer allowed; the store keeps what was made.
    """
    check_output_dir(config)
    config = with_labels(config)
    labels = config.label_set()
    check_graders(config, labels)
    if config.grade_table is not None:
        raise InputError(f"--grade_table {config.grade_table}: is a finished table; there is nothing to grade")
    if config.splits:
        asked = [load_named(config, split) for split in config.splits]
    else:
        asked = list(load_both(config, None, None))
    texts = ConcatTexts([own.texts for own in asked])
    if config.dry_run:
        raise DryRun(estimate_cost(config, labels, texts))
    with Run(config, "grade") as own:
        results = broadcast_from_main(lambda: _grade(config, labels, texts, own), config.ddp_timeout)
        return own.finish(results)


def _grade(config: GradeConfig, labels: LabelSet, texts: Sequence[str], own: Run) -> dict[str, Any]:
    """Fill and export; returns the record of the run and prints its one line."""
    budget = make_budget(config)
    with GradeStore(store_path(config)) as store:
        source = load_graders(config, labels, store, budget)
        source.grade_missing(texts)
        count, details = write_table(source, texts, own.path / TABLE)
    check_failures(config, count, details, budget)
    if count["skipped"]:
        missing = f"{count['skipped']} of {count.total()} grades are missing"
        raise IncompleteError(f"grader {config.grader}: {budget.stopped}; {missing}; {resume_hint(config)}")
    speed = budget.calls / own.seconds
    print(
        f"{config.grader}: {count['ok']} ok, {count['failed']} failed, {count['refused']} refused; {budget.calls} "
        f"calls in {own.seconds:.1f} s ({speed:.0f}/s), {budget.tokens} tokens -> {own.target / TABLE}"
    )
    return {
        "method": "grade",
        "seed": config.seed,
        "grader": source.fingerprint,
        "grader_settings": source.settings,
        "grades": {status: count[status] for status in ("ok", "failed", "refused", "skipped")},
        "failure_rate": failure_rate(count),
        **cost_record(config, budget),
        "seconds": own.seconds,
    }
