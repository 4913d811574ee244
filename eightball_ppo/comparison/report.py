"""`eightball report`: runs as Markdown tables, and the page of a comparison or an audit made anew from its records."""

import json
from pathlib import Path
from typing import Any

from eightball_ppo.compare_options import CompareConfig
from eightball_ppo.comparison.compare import rewrite
from eightball_ppo.errors import InputError
from eightball_ppo.fields import free_options
from eightball_ppo.recipes import SECTIONS, read_recipe
from eightball_ppo.report.audit_page import render_audit
from eightball_ppo.report.summary import markdown_tables
from eightball_ppo.runs import CONFIG, read_config, write_text
from eightball_ppo.sharing_options import ReportConfig


def run(config: ReportConfig) -> None:
    """Print the tables of the runs, or write the page of the one comparison or audit that is named.

    Raises:
        InputError: no finished run, or a comparison or audit among several directories.
    """
    directories = [Path(name).expanduser() for name in config.run_dirs]
    pages = [own for own in directories if (own / "audit.json").is_file() or (own / "ground.json").is_file()]
    if not pages:
        print(markdown_tables(directories, free_options(*SECTIONS.values())))
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
