"""`eightball report`: runs as Markdown tables, and the page of a comparison or an audit made anew from its records."""

import dataclasses
import json
from pathlib import Path
from typing import Any

from eightball_ppo.audit.page import render_audit
from eightball_ppo.comparison import grid, workspace
from eightball_ppo.comparison.report.write import write
from eightball_ppo.comparison.results import collect_results, load_shared_task
from eightball_ppo.config.compare import CompareConfig
from eightball_ppo.config.fields import options_without_effect
from eightball_ppo.config.recipes import read_recipe, sections
from eightball_ppo.config.tools import ReportConfig
from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.methods.task import load_splits
from eightball_ppo.report.summary import markdown_tables
from eightball_ppo.runtime.atomic_io import write_text
from eightball_ppo.runtime.run import CONFIG, read_config, read_environment


def run(config: ReportConfig) -> None:
    """Print the tables of the runs, or write the page of the one comparison or audit that is named.

    Raises:
        InputError: no finished run, or a comparison or audit among several directories.
    """
    directories = [Path(name).expanduser() for name in config.run_dirs]
    pages = [own for own in directories if (own / "audit.json").is_file() or (own / "manifest.json").is_file()]
    if not pages:
        print(markdown_tables(directories, options_without_effect(*sections().values())))
    elif len(directories) > 1:
        raise InputError(f"{pages[0]}: a comparison or an audit is reported alone")
    elif (pages[0] / "audit.json").is_file():
        print(audit_again(pages[0]))
    else:
        rewrite(CompareConfig(**_options(pages[0], config.trust_remote_code)))


def _options(directory: Path, trust_remote_code: bool) -> dict[str, Any]:
    """Those of the comparison, which may come from a stranger: no code of its models runs because they say so."""
    if "env" in read_config(directory):  # says what is wrong where there is none
        raise InputError(f"{directory / CONFIG}: holds env, which no run writes; take it out")
    own = read_recipe(directory / CONFIG, CompareConfig)
    if own.get("trust_remote_code") and not trust_remote_code:
        raise InputError(
            f"{directory}: was made with --trust_remote_code; pass it if code that came with its models may run here"
        )
    return {**own, "output_dir": str(directory)}


def audit_again(directory: Path) -> Path:
    """Write audit.html from audit.json."""
    file = directory / "audit.json"
    try:
        page = render_audit(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(f"{file}: damaged; audit the grader again") from None
    write_text(directory / "audit.html", page)
    return directory / "audit.html"


def rewrite(config: CompareConfig) -> None:
    """The report of a comparison that stands, from its runs as they are; nothing is trained, and no recipe read.

    Raises:
        InputError: no comparison, or one whose reference, grades or data are missing or other ones by now.
        IncompleteError: none of its runs stands.
    """
    without_store = dataclasses.replace(config, grade_store=":memory:")  # nobody is asked, so no such file is opened
    workspace.check(config, load_splits(without_store))
    root = Path(config.output_dir)
    if not (root / grid.REFERENCE).is_dir():
        raise InputError(f"{root / grid.REFERENCE}: missing, so this is no comparison that stands; run it again")
    cells = [cell for job in grid.run_groups(config) for cell in job.cells]
    holes = {cell: "was not made" for cell in cells if not (root / grid.RUNS / cell.name).is_dir()}
    task = load_shared_task(without_store)
    found = collect_results(cells, config, task, holes)
    if not found:
        raise IncompleteError(f"{root}: none of its runs stands; run the comparison again")
    write(config, task, found, holes, read_environment(root))
