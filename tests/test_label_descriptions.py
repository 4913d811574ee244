"""The default prompt fits the labels; descriptions of labels reach the judge and are part of its fingerprint."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from conftest import REPOSITORY
from eightball_ppo.cli.parser import build_parser
from eightball_ppo.config.methods import PPOConfig
from eightball_ppo.config.stages import GradeConfig
from eightball_ppo.errors import InputError
from eightball_ppo.graders.api.grader import ApiGrader
from eightball_ppo.graders.api.modes import MODES, JudgeTask
from eightball_ppo.graders.base import GradeRequest
from eightball_ppo.graders.prompts import DIRECTORY, Prompt
from eightball_ppo.graders.registry import check_graders
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

INTENTS = LabelSet.of(["refund", "billing issue", "other"])
DESCRIBED = ["refund=The customer wants money\n back", "other=Nothing else fits"]


def api(**options: Any) -> GradeConfig:
    return GradeConfig(grader="api", grader_model="m", grader_base_url="http://127.0.0.1:1/v1", **options)


def messages_of(config: GradeConfig, labels: LabelSet) -> list[dict[str, str]]:
    """The messages of a request to a judge."""
    task = JudgeTask.load(config, labels)
    return MODES["text"].body(task, GradeRequest("Where is my money?"), "m", 0.0)["messages"]


def test_judge_of_other_labels_gets_a_neutral_prompt() -> None:
    system, user = (message["content"] for message in messages_of(api(), INTENTS))
    assert "Choose the one of the given labels that fits the text best." in system
    assert "like to hear" not in system and "hope" not in system and "person" not in system
    assert user == 'Labels: "refund", "billing issue", "other"\nText: "Where is my money?"'


def test_judge_of_yes_no_maybe_keeps_its_prompt_in_any_order() -> None:
    for names in (EIGHTBALL_LABELS, EIGHTBALL_LABELS[::-1]):
        labels = LabelSet.of(names)
        assert Prompt.of(api(), labels) == Prompt.of(api(grader_prompt="wanted_answer"), labels)
    assert Prompt.of(api(), LabelSet.of(["Yes", "No"])).name == "classify"


def test_descriptions_reach_the_judge_in_one_line_each() -> None:
    system, user = (message["content"] for message in messages_of(api(label_descriptions=DESCRIBED), INTENTS))
    assert "What follows a label says what belongs to it." in " ".join(system.split())
    assert user.splitlines() == [
        *("Labels:", '"refund": The customer wants money back', '"billing issue"', '"other": Nothing else fits'),
        'Text: "Where is my money?"',
    ]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("d.yaml", "refund: |\n  The customer wants money\n  back\nother: Nothing else fits\n"),
        ("d.json", json.dumps({"other": "Nothing else fits", "refund": "The customer wants money back"})),
    ],
)
def test_a_file_and_a_mapping_describe_labels_as_flags_do(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    by_flags = Prompt.of(api(label_descriptions=DESCRIBED), INTENTS)
    assert Prompt.of(api(label_descriptions=[str(tmp_path / name)]), INTENTS) == by_flags
    by_mapping: Any = dict(entry.split("=") for entry in DESCRIBED)
    assert Prompt.of(api(label_descriptions=by_mapping), INTENTS) == by_flags


def test_yaml_keeps_the_labels_yes_and_no(tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text("Yes: it is so\nNo: it is not\n")
    labels = LabelSet.of(["Yes", "No"])
    prompt = Prompt.of(api(label_descriptions=[str(tmp_path / "d.yaml")]), labels)
    assert prompt.descriptions == (("Yes", "it is so"), ("No", "it is not"))


def test_prompt_and_descriptions_are_part_of_the_fingerprint(tmp_path: Path) -> None:
    def grader(config: GradeConfig) -> ApiGrader:
        return ApiGrader(config, JudgeTask.load(config, INTENTS), MODES["logprobs"])

    def fingerprint(config: GradeConfig) -> str:
        return grader(config).fingerprint

    plain, described = api(), api(label_descriptions=DESCRIBED)
    others = [replace(plain, grader_prompt="optimist"), described, api(label_descriptions=DESCRIBED[:1])]
    assert len({fingerprint(config) for config in [plain, *others]}) == 4
    assert fingerprint(api(label_descriptions=DESCRIBED[::-1])) == fingerprint(described)  # their order is no setting
    assert grader(described).settings["label_descriptions"]["refund"] == "The customer wants money back"
    copy = tmp_path / "copy.jinja"
    copy.write_bytes((DIRECTORY / "classify.jinja").read_bytes())
    assert fingerprint(replace(plain, grader_prompt=str(copy))) == fingerprint(plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"label_descriptions": ["refunds=x"]}, "no label 'refunds'; the labels are ['refund', 'billing issue',"),
        ({"label_descriptions": ["refund"]}, "--label_descriptions refund: LABEL=text is needed"),
        ({"label_descriptions": ["refund= "]}, "label 'refund' is described by ' '; a text is needed"),
        ({"label_descriptions": ["refund=a", "refund=b"]}, "label 'refund' appears twice"),
        ({"label_descriptions": ["nowhere.yaml"]}, "--label_descriptions nowhere.yaml: unreadable ("),
        ({"label_descriptions": ["refund=a"], "grader_prompt": "optimist"}, "prompt optimist shows none; pass "),
        ({"label_descriptions": ["refund=a"], "grader": "rule:other"}, "are for graders llm and api, not for"),
    ],
)
def test_a_bad_description_is_one_line(options: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        check_graders(replace(api(), **options), INTENTS)
    assert "\n" not in str(caught.value) and "--label_descriptions" in str(caught.value)


@pytest.mark.parametrize("text", ["", "- refund\n", "refund: [a]\n", "refund: {a: b}\n", "{", "refund: a\nrefund: b\n"])
@pytest.mark.parametrize("name", ["d.yaml", "d.json"])
def test_a_bad_file_of_descriptions_is_one_line(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match="--label_descriptions") as caught:
        Prompt.of(api(label_descriptions=[str(tmp_path / name)]), INTENTS)
    assert "\n" not in str(caught.value) and str(tmp_path / name) in str(caught.value)


def test_help_and_readme_name_every_prompt_of_the_package() -> None:
    (action,) = [action for action in build_parser(PPOConfig)._actions if action.dest == "grader_prompt"]
    prompts = {file.stem for file in DIRECTORY.glob("*.jinja")}
    assert prompts <= set(re.findall(r"\w+", action.help))
    assert prompts <= set(re.findall(r"`(\w+)`", (REPOSITORY / "README.md").read_text(encoding="utf-8")))
