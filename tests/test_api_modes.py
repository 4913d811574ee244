"""Replies of a server, in every mode: each is a grade or a `BadReplyError`."""

import math
from typing import Any

import pytest
from test_replies import logs

from eightball_ppo.graders.api.modes import (
    ChoiceMode,
    JudgeTask,
    LogprobsMode,
    SchemaMode,
    TextMode,
    choices_of,
    positions_of,
    scores_of_verdicts,
    text_of,
)
from eightball_ppo.graders.api.replies import BadReplyError
from eightball_ppo.graders.base import GradeRequest
from eightball_ppo.graders.prompts import Prompt
from eightball_ppo.graders.verbalizers import MIN_MASS, parse_verbalizers
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

LABELS = LabelSet.of(EIGHTBALL_LABELS)
WORDS = parse_verbalizers([], LABELS)
CHOOSE, RATE = GradeRequest("Is it?"), GradeRequest("Is it?", "No")
JUDGED = JudgeTask(Prompt.load("wanted_answer", LABELS), LABELS, WORDS)


def chat(content: Any, positions: Any = None, **more: Any) -> dict[str, Any]:
    """A chat completion with one choice."""
    return {"choices": [{"message": {"content": content}, "logprobs": {"content": positions}, **more}]}


def position(*tokens: tuple[str, float]) -> dict[str, Any]:
    """One position of a reply, its first token the one that was sampled."""
    listed = [{"token": token, "logprob": logp} for token, logp in logs(*tokens)]
    return {**listed[0], "top_logprobs": listed}


def test_logprobs_mode_reads_the_first_word() -> None:
    label = position(("No", 0.75), ("Yes", 0.25))
    expected = [math.log(0.25), math.log(0.75), math.log(MIN_MASS)]
    for reply in (chat("No", [label]), chat('"No"', [position(('"', 1.0)), label, position(('"', 1.0))])):
        assert LogprobsMode().read(JUDGED, reply, CHOOSE)[0] == pytest.approx(expected, abs=1e-6)
    for front in ('"', "**", '{"'):  # a ten of two tokens behind a quote
        reply = chat(f"{front}10", [position((front, 1.0)), position(("1", 1.0)), position(("0", 1.0))])
        assert LogprobsMode().read(JUDGED, reply, RATE)[0] == [pytest.approx(10)]
    reply = chat("10", [position(("1", 1.0)), position(("0", 0.5), (".", 0.5))])
    assert LogprobsMode().read(JUDGED, reply, RATE)[0] == [pytest.approx(5.5)]


def test_schema_and_text_modes_read_one_answer_and_average_several() -> None:
    schema, text = SchemaMode(), TextMode()
    assert schema.verdict(JUDGED, choices_of(chat('{"answer": "Maybe"}'))[0], CHOOSE) == 2
    assert schema.verdict(JUDGED, choices_of(chat('{"rating": 10}'))[0], RATE) == 10
    assert text.verdict(JUDGED, choices_of(chat("maybe."))[0], CHOOSE) == 2
    assert text.verdict(JUDGED, choices_of(chat("10/10"))[0], RATE) == 10
    counted = [math.exp(score) for score in scores_of_verdicts([0, 0, 1], JUDGED, CHOOSE, 1.0)]
    assert counted == pytest.approx([0.5, 1 / 3, 1 / 6])
    assert scores_of_verdicts([7, 8, 8], JUDGED, RATE, 1.0) == [pytest.approx(23 / 3)]


def test_the_only_answer_of_a_deterministic_judge_is_not_smoothed() -> None:
    """Of a judge that samples it is: there one reply of three labels counts 1/2."""
    sure = [math.exp(score) for score in scores_of_verdicts([1], JUDGED, CHOOSE, 0.0)]
    assert sure == pytest.approx([0.0005, 0.999, 0.0005])
    sampled = [math.exp(score) for score in scores_of_verdicts([1], JUDGED, CHOOSE, 1.0)]
    assert sampled == pytest.approx([0.25, 0.5, 0.25])
    twice = [math.exp(score) for score in scores_of_verdicts([1, 1, 0], JUDGED, CHOOSE, 0.0)]
    assert twice[1] == pytest.approx(2 / 3, abs=1e-3) and sum(twice) == pytest.approx(1)


ANSWERS = ['"maybe"', "true", "null", "[]", "{}", "1", '"Maybe."', '"Yes|No"']
RATINGS = ["0", "11", "7.5", "true", '"7"', "null", "NaN", "[7]"]


@pytest.mark.parametrize(
    ("key", "value"), [*[("answer", value) for value in ANSWERS], *[("rating", value) for value in RATINGS]]
)
def test_a_value_outside_the_schema_is_a_bad_reply(key: str, value: str) -> None:
    with pytest.raises(BadReplyError, match="is none of"):
        choice = choices_of(chat(f'{{"{key}": {value}}}'))[0]
        SchemaMode().verdict(JUDGED, choice, CHOOSE if key == "answer" else RATE)


def test_choice_mode_reads_the_probabilities_of_all_options() -> None:
    p = {"Maybe": 0.5, "Yes": 0.5, "No": 0.0}
    logp_K = ChoiceMode().read(JUDGED, {"answers": {"answer": {"probabilities": p}}}, CHOOSE)[0]
    assert logp_K == pytest.approx([math.log(0.5), math.log(1e-9), math.log(0.5)], abs=1e-6)
    ratings = {str(rating): 0.1 for rating in range(1, 11)}
    assert ChoiceMode().read(JUDGED, {"answers": {"answer": {"probabilities": ratings}}}, RATE)[0] == [
        pytest.approx(5.5)
    ]


@pytest.mark.parametrize(
    "p",
    [
        *[{"Yes": 0.5, "No": 0.5}, {"Yes": 0.5, "No": 0.25, "Maybe": 0.25, "Else": 0.0}],
        *[{"Yes": 0.5, "No": 0.5, "maybe": 0.0}, {"Yes": 0.4, "No": 0.2, "Maybe": 0.2}],
        *[{"Yes": 1.5, "No": -0.25, "Maybe": -0.25}, {"Yes": True, "No": 0, "Maybe": 0}],
        *[{"Yes": "1", "No": 0, "Maybe": 0}, {"Yes": math.nan, "No": 0.5, "Maybe": 0.5}],
        *[{"Yes": 10**400, "No": 0, "Maybe": 0}, {"Yes": None, "No": 0.5, "Maybe": 0.5}],
    ],
)
def test_probabilities_that_are_no_distribution_are_a_bad_reply(p: dict[str, Any]) -> None:
    with pytest.raises(BadReplyError):
        ChoiceMode().read(JUDGED, {"answers": {"answer": {"probabilities": p}}}, CHOOSE)[0]


def test_refusals_of_the_server_are_told_from_failures() -> None:
    refusal: dict[str, Any] = {"message": {"content": None, "refusal": "I can't."}}
    for choice in (refusal, {"message": {"content": "Yes"}, "finish_reason": "content_filter"}):
        with pytest.raises(BadReplyError) as caught:
            text_of(choice)
        assert caught.value.status == "refused"
    with pytest.raises(BadReplyError) as caught:
        text_of({"message": {"content": None, "refusal": None}})
    assert caught.value.status == "failed"


def test_quotes_and_spaces_before_the_answer_are_skipped() -> None:
    quote, label = position(('"', 1.0)), position(("Yes", 0.5), ("No", 0.5))
    expected = logs(("Yes", 0.5), ("No", 0.5))
    assert positions_of(chat("", [label, quote])["choices"][0])[0] == expected
    assert positions_of(chat("", [quote, position((" \n", 1.0)), label])["choices"][0]) == [expected]
    assert positions_of(chat("", [quote])["choices"][0]) == [[('"', 0.0)]]  # and there it ends
    empty: list[dict[str, Any]] = [{}, {"logprobs": None}, {"logprobs": {"content": None}}, chat("", [])["choices"][0]]
    assert all(positions_of(choice) == [] for choice in empty)


@pytest.mark.parametrize(
    ("token", "logprob"), [("None", 10**400), ("None", -(10**400)), (None, -0.1), ("None", "-0.1"), ("None", False)]
)
def test_tokens_are_strings_and_log_probabilities_finite_numbers(token: Any, logprob: Any) -> None:
    judged = JUDGED._replace(words=(("None",), ("Some",), ("All",)))
    reply = chat("None", [{"token": "None", "top_logprobs": [{"token": token, "logprob": logprob}]}])
    with pytest.raises(BadReplyError):
        LogprobsMode().read(judged, reply, CHOOSE)[0]
