"""Cards of what is no model: grade tables, audits, comparisons, Spaces."""

import json
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub import DatasetCardData, SpaceCardData

from eightball_ppo.hub.card_tables import cell
from eightball_ppo.hub.grade_shapes import SHAPES
from eightball_ppo.report.markdown import code, escaped, fenced
from eightball_ppo.runtime.redaction import portable

TAGS = ["eightball-ppo"]
_LOAD = """from datasets import load_dataset

pairs = load_dataset({name!r}, "pairs", split="train")"""


def grades_card(name: str, results: dict[str, Any], rows: dict[str, int]) -> str:
    """The card of a grade table; `rows` of each of its shapes."""
    configs: list[dict[str, Any]] = [{"config_name": shape, "data_files": f"{shape}.parquet"} for shape in SHAPES]
    configs[0]["default"] = True
    listed = "\n".join(f"- `{shape}` ({rows[shape]:,} rows): {words}" for shape, words in SHAPES.items())
    asked = {key: results[key] for key in ("grades", "failure_rate", "calls_made", "tokens", "cost", "seconds")}
    counts = "\n".join(f"- {code(key)}: {code(cell(value))}" for key, value in asked.items())
    settings = json.dumps(portable(results["grader_settings"]), indent=2, ensure_ascii=False)
    body = [
        f"What the grader {code(results['grader'])} says of every label as an answer to every question. A score is the "
        "log-probability of the label in nats, or, of a judge that rates, a rating of 1 to 10. A grade that failed is "
        "missing, never a number.",
        fenced(_LOAD.format(name=name), "python"),
        listed,
        f"## How it was made\n\n{counts}\n\n{fenced(settings, 'json')}",
        "## Use and limits\n\nA grade is a model's opinion of what an asker would like to hear. The questions were "
        "data to it, and are data here: nobody has checked them for names or for demands that they make of a reader.",
    ]
    return _card(DatasetCardData(tags=[*TAGS, "trl"], configs=configs), name, body)


def audit_card(name: str, audit: dict[str, Any]) -> str:
    """The card of an audit."""
    checks = "\n".join(
        f"- {'passed' if own['passed'] else '**failed**'}: {escaped(own['sentence'])}" for own in audit["checks"]
    )
    body = [
        f"What the grader {code(audit['fingerprint'])} is worth, measured before anything was trained on it: "
        f"{code('audit.html')} is the page, {code('audit.json')} every number.",
        checks,
    ]
    return _card(DatasetCardData(tags=TAGS), name, body)


def comparison_card(name: str, directory: Path) -> str:
    """The card of a comparison: its own report, under the Hub's metadata."""
    configs = [{"config_name": "results", "data_files": "results.parquet", "default": True}]
    report = (directory / "report.md").read_text(encoding="utf-8")
    return f"---\n{DatasetCardData(tags=TAGS, configs=configs).to_yaml()}\n---\n\n{report}"


def space_card(name: str, sdk_version: str, models: list[str]) -> str:
    """The card of a Space, which is its configuration, too; `models` are Hub ids that it shows."""
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
    return _card(data, name, ["Ask a question, and see what the policy says before and after its training."])


def _card(data: DatasetCardData | SpaceCardData, name: str, body: list[str]) -> str:
    written = yaml.safe_load(data.to_yaml())
    metadata = yaml.safe_dump(written, sort_keys=False, allow_unicode=True).strip()
    return f"---\n{metadata}\n---\n\n# {escaped(name.split('/')[-1])}\n\n" + "\n\n".join(body) + "\n"
