"""Cards of grade tables, audits, comparisons and Spaces."""

import json
from pathlib import Path
from typing import Any

from huggingface_hub import DatasetCardData, SpaceCardData

from eightball_ppo.hub.card_tables import cell
from eightball_ppo.hub.grade_shapes import SHAPES
from eightball_ppo.report.markdown import code, escaped, fenced
from eightball_ppo.runtime.redaction import portable

TAGS = ["eightball-ppo"]
_LOAD = """from datasets import load_dataset

pairs = load_dataset({name!r}, "pairs", split="train")"""


def grades_card(name: str, results: dict[str, Any], rows: dict[str, int]) -> str:
    """The card of a grade table; `rows` holds the number of rows of each of its shapes."""
    configs: list[dict[str, Any]] = [{"config_name": shape, "data_files": f"{shape}.parquet"} for shape in SHAPES]
    configs[0]["default"] = True
    files = "\n".join(f"- `{shape}` ({rows[shape]:,} rows): {words}" for shape, words in SHAPES.items())
    records = {key: results[key] for key in ("grades", "failure_rate", "calls_made", "tokens", "cost", "seconds")}
    counts = "\n".join(f"- {code(key)}: {code(cell(value))}" for key, value in records.items())
    settings = json.dumps(portable(results["grader_settings"]), indent=2, ensure_ascii=False)
    body = [
        f"The scores of the grader {code(results['grader'])} for every label as an answer to every question. A score "
        "is the log-probability of the label in nats; of a judge that rates, a rating of 1 to 10; of a function, "
        "its raw score. A failed grade is missing, never a number.",
        fenced(_LOAD.format(name=name), "python"),
        files,
        f"## How it was made\n\n{counts}\n\n{fenced(settings, 'json')}",
        "## Use and limits\n\nA grade is a model's opinion of what an asker would like to hear. Nobody has "
        "checked the questions for names or for instructions to the reader.",
    ]
    return _card(DatasetCardData(tags=[*TAGS, "trl"], configs=configs), name, body)


def audit_card(name: str, audit: dict[str, Any]) -> str:
    """The card of an audit."""
    checks = "\n".join(
        f"- {'passed' if check['passed'] else '**failed**'}: {escaped(check['sentence'])}" for check in audit["checks"]
    )
    body = [
        f"The audit of the grader {code(audit['fingerprint'])}, before anything was trained on its grades: "
        f"{code('audit.html')} is the page, {code('audit.json')} holds every number.",
        checks,
    ]
    return _card(DatasetCardData(tags=TAGS), name, body)


def comparison_card(name: str, directory: Path) -> str:
    """The card of a comparison: its report under the Hub's metadata."""
    configs = [{"config_name": "results", "data_files": "results.parquet", "default": True}]
    report = (directory / "report.md").read_text(encoding="utf-8")
    return _with_metadata(DatasetCardData(tags=TAGS, configs=configs), report)


def space_card(name: str, sdk_version: str, models: list[str]) -> str:
    """The card of a Space, which is also its configuration; `models` are the Hub ids of its policies."""
    data = SpaceCardData(
        title=name,
        emoji="🎱",
        colorFrom="indigo",
        colorTo="purple",
        sdk="gradio",
        sdk_version=sdk_version,
        app_file="app.py",
        models=models or None,
        tags=TAGS,
        short_description="Ask the ball before and after PPO",
    )
    return _card(data, name, ["Ask a question and compare the policy before and after its training."])


def _card(data: DatasetCardData | SpaceCardData, name: str, body: list[str]) -> str:
    return _with_metadata(data, "\n\n".join([f"# {escaped(name.split('/')[-1])}", *body]) + "\n")


def _with_metadata(data: DatasetCardData | SpaceCardData, text: str) -> str:
    return f"---\n{data.to_yaml()}\n---\n\n{text}"
