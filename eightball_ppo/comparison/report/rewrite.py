"""`eightball report`: runs as Markdown tables, and the page of a comparison or an audit written again."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from eightball_ppo.auditing.page import render_audit
from eightball_ppo.comparison import grid, workspace
from eightball_ppo.comparison.report.write import write
from eightball_ppo.comparison.results import collect_results, load_shared_tasks
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.fields import options_without_effect
from eightball_ppo.config.recipes import read_recipe, sections
from eightball_ppo.config.tools import ReportConfig
from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.methods.inputs import load_splits
from eightball_ppo.report.summary import markdown_tables
from eightball_ppo.runtime.atomic_io import write_text
from eightball_ppo.runtime.run import CONFIG, read_config, read_environment

AUDIT = "audit.json"


def run(config: ReportConfig) -> None:
    """Prints the tables of the runs, or writes the page of the one comparison or audit that is named.

    Raises:
        InputError: no finished run, or a comparison or audit among several directories.
    """
    directories = [Path(name).expanduser() for name in config.run_dirs]
    pages = [path for path in directories if (path / AUDIT).is_file() or (path / workspace.MANIFEST).is_file()]
    if not pages:
        print(markdown_tables(directories, options_without_effect(*sections().values())))
    elif len(directories) > 1:
        raise InputError(f"{pages[0]}: a comparison or an audit is reported alone")
    elif (pages[0] / AUDIT).is_file():
        print(f"wrote {rewrite_audit(pages[0])}")
    else:
        rewrite_comparison(CompareConfig(**_options(pages[0], config.trust_remote_code)))


def _options(directory: Path, trust_remote_code: bool) -> dict[str, Any]:
    """The options of a comparison. They may come from a stranger, so that they cannot turn on remote code."""
    if "env" in read_config(directory):
        raise InputError(f"{directory / CONFIG}: holds env, which no run writes; take it out")
    options = read_recipe(str(directory / CONFIG), CompareConfig)
    if options.get("trust_remote_code") and not trust_remote_code:
        raise InputError(
            f"{directory}: was made with --trust_remote_code; pass it if code that came with its models may run here"
        )
    return {**options, "output_dir": str(directory)}


def rewrite_audit(directory: Path) -> Path:
    """Writes audit.html from audit.json."""
    file, page = directory / AUDIT, directory / "audit.html"
    try:
        text = render_audit(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{file}: damaged; audit the grader again") from None
    write_text(page, text)
    return page


def rewrite_comparison(config: CompareConfig) -> None:
    """Writes the report of a comparison from its finished runs; trains nothing and reads no recipe.

    Raises:
        InputError: no comparison, or its reference, grades or data are missing or have changed.
        IncompleteError: it has no finished run.
    """
    config = workspace.with_kl_coefs(config)
    root = Path(config.output_dir)
    table = str(root / grid.grades_file(0))  # so that the grader is neither loaded, nor imported, nor called
    without_grader = dataclasses.replace(config, grade_store=":memory:", grade_table=table)
    workspace.check(config, load_splits(without_grader))
    for reference in map(grid.reference_dir, range(config.references)):
        if not (root / reference).is_dir():
            raise InputError(f"{root / reference}: missing, so the comparison is not complete; run it again")
    specs = [spec for group in grid.run_groups(config) for spec in group]
    failed = {spec: "was not made" for spec in specs if not (root / grid.RUNS / spec.name).is_dir()}
    tasks = load_shared_tasks(without_grader)
    results = collect_results(specs, config, tasks, failed)
    if not results:
        raise IncompleteError(f"{root}: has no finished run; run the comparison again")
    write(config, tasks, results, failed, read_environment(root))
