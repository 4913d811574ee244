"""TRL's reward functions, written to its documented signature, run unchanged as judges."""

import math
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from test_judges import details_of, scores_of

from eightball_ppo.config.data import DataConfig
from eightball_ppo.data import questions_from
from eightball_ppo.errors import InputError
from eightball_ppo.graders.judges import as_grader, reward_functions
from eightball_ppo.graders.reward_functions import columns_by_text
from eightball_ppo.labels import LabelSet

LABELS = LabelSet.of(["Yes", "No", "Maybe"])
COLUMNS: dict[str, dict[str, Any]] = {"Is it?": {"solution": "Yes"}, "Was it?": {"solution": None}}


def exact_match(
    completions: list[Any], solution: list[str], log_extra: Any = None, **kwargs: Any
) -> list[float | None]:
    """As TRL's `accuracy_reward`: completions are message lists, None where the solution cannot be read."""
    contents = [completion[0]["content"] for completion in completions]
    if log_extra is not None:
        log_extra("solution", list(solution))
    return [None if gold is None else float(found == gold) for found, gold in zip(contents, solution, strict=True)]


def brevity(prompts: list[str], completions: list[str], completion_ids: list[list[int]], **kwargs: Any) -> list[float]:
    assert set(kwargs) >= {"trainer_state", "log_extra", "log_metric"} and kwargs["trainer_state"] is None
    kwargs["log_metric"]("length", 3.0)
    assert len(prompts) == len(completions) == len(completion_ids)
    return [float(-len(completion)) for completion in completions]


async def async_match(completions: list[str], solution: list[str | None], **_: Any) -> list[float | None]:
    return [None if gold is None else float(text == gold) for text, gold in zip(completions, solution, strict=True)]


def test_rewards_are_asked_once_for_every_text_and_label() -> None:
    asked: list[tuple[str, str]] = []

    def reward(prompts: list[str], completions: list[str], **_: Any) -> list[float]:
        asked.extend(zip(prompts, completions, strict=True))
        return [float(number) for number in range(len(prompts))]

    assert scores_of(reward, ["a", "b"]) == [[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]]
    assert asked == [(text, label) for text in "ab" for label in LABELS.names]


def test_an_async_reward_gets_the_columns_of_the_data() -> None:
    assert scores_of(async_match, ["Is it?"], columns=COLUMNS) == [[1.0, 0.0, 0.0]]
    assert details_of(async_match, ["Was it?"], columns=COLUMNS) == [
        "every function returned None for ['Yes', 'No', 'Maybe']"
    ]


def test_a_list_is_summed_with_its_weights_and_none_leaves_a_function_out() -> None:
    texts = ["Is it?", "Was it?"]
    both = scores_of([async_match, brevity], texts, columns=COLUMNS, weights=[10.0, 0.5])
    assert both == [[10 - 1.5, -1.0, -2.5], [-1.5, -1.0, -2.5]]
    fingerprints = {
        as_grader([async_match, brevity], LABELS, columns=COLUMNS, weights=weights).fingerprint
        for weights in (None, [1.0, 1.0], [10.0, 0.5])
    }
    assert len(fingerprints) == 2


def test_completions_are_messages_where_the_prompts_are() -> None:
    prompt = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Is it?"}]
    data = Dataset.from_dict({"prompt": [prompt], "solution": ["No"]})
    questions = questions_from(data, DataConfig(), LABELS, "train", keep_columns=True)
    assert list(questions.texts) == ["Be brief.\nIs it?"]
    assert scores_of(exact_match, list(questions.texts), columns=columns_by_text(questions)) == [[0.0, 1.0, 0.0]]
    number = Dataset.from_dict({"prompt": [[{"role": "user", "content": 3}]]})
    with pytest.raises(InputError, match=r"train data:.*pass --text_column"):
        questions_from(number, DataConfig(), LABELS, "train")


def test_a_column_that_the_data_lack_is_named_before_any_call() -> None:
    with pytest.raises(InputError, match=r"async_match: needs the column 'solution'; the data have no other columns"):
        as_grader(async_match, LABELS)
    with pytest.raises(InputError, match=r"the other columns of the data are \['answer'\]"):
        as_grader(async_match, LABELS, columns={"Is it?": {"answer": "Yes"}})


def test_a_reward_of_nan_is_a_missing_grade_and_one_too_few_an_error() -> None:
    assert "nan" in details_of(lambda completions, **_: [math.nan] * len(completions), ["Is it?"])[0]
    with pytest.raises(InputError, match="returned 1 rewards; a list of 3 rewards is needed"):
        scores_of(lambda completions, **_: [1.0], ["Is it?"])


def test_grades_of_other_columns_are_other_grades() -> None:
    one, other = (as_grader(async_match, LABELS, columns={"Is it?": {"solution": name}}) for name in ("Yes", "No"))
    assert one.fingerprint != other.fingerprint


def test_only_reward_functions_take_the_columns_of_the_data(tmp_path: Path) -> None:
    file = tmp_path / "judge.py"
    file.write_text("def reward(completions, **columns):\n    return [0.0] * len(completions)\n")
    assert (
        reward_functions(async_match)
        and reward_functions([brevity, "rule:Yes"])
        and reward_functions(f"python:{file}:reward")
    )
    assert not reward_functions("bert,rule:Yes") and not reward_functions(lambda texts, labels: [])
