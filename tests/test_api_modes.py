"""Whole replies of a server, in every mode: each is a grade or a `BadReplyError`."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_replies import is_distribution, logs, replies

from eightball_ppo.graders.api.modes import (
    MODES,
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
    reply = chat("10", [position(("1", 1.0)), position(("0", 0.5), (".", 0.5))])
    assert LogprobsMode().read(JUDGED, reply, RATE)[0] == [pytest.approx(5.5)]


@pytest.mark.parametrize("front", ['"', "**", '{"'])
def test_a_ten_of_two_tokens_behind_a_quote(front: str) -> None:
    reply = chat(f"{front}10", [position((front, 1.0)), position(("1", 1.0)), position(("0", 1.0))])
    assert LogprobsMode().read(JUDGED, reply, RATE)[0] == [pytest.approx(10)]


def test_schema_and_text_modes_read_one_verdict() -> None:
    schema, text = SchemaMode(), TextMode()
    assert schema.verdict(JUDGED, choices_of(chat('{"answer": "Maybe"}'))[0], CHOOSE) == 2
    assert schema.verdict(JUDGED, choices_of(chat('{"rating": 10}'))[0], RATE) == 10
    assert text.verdict(JUDGED, choices_of(chat("maybe."))[0], CHOOSE) == 2
    assert text.verdict(JUDGED, choices_of(chat("10/10"))[0], RATE) == 10
    assert scores_of_verdicts([0, 0, 1], JUDGED, CHOOSE) == pytest.approx([math.log(p) for p in (0.5, 1 / 3, 1 / 6)])
    assert scores_of_verdicts([7, 8, 8], JUDGED, RATE) == [pytest.approx(23 / 3)]


@pytest.mark.parametrize("value", ['"maybe"', "true", "null", "[]", "{}", "1", '"Maybe."', '"Yes|No"'])
def test_a_schema_that_the_server_did_not_keep_to(value: str) -> None:
    with pytest.raises(BadReplyError, match="is none of"):
        SchemaMode().verdict(JUDGED, choices_of(chat(f'{{"answer": {value}}}'))[0], CHOOSE)


@pytest.mark.parametrize("value", ["0", "11", "7.5", "true", '"7"', "null", "NaN", "[7]"])
def test_a_rating_that_the_schema_forbids(value: str) -> None:
    with pytest.raises(BadReplyError, match="is none of"):
        SchemaMode().verdict(JUDGED, choices_of(chat(f'{{"rating": {value}}}'))[0], RATE)


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
        {"Yes": 0.5, "No": 0.5},
        {"Yes": 0.5, "No": 0.25, "Maybe": 0.25, "Else": 0.0},
        {"Yes": 0.5, "No": 0.5, "maybe": 0.0},
        {"Yes": 0.4, "No": 0.2, "Maybe": 0.2},
        {"Yes": 1.5, "No": -0.25, "Maybe": -0.25},
        {"Yes": True, "No": 0, "Maybe": 0},
        {"Yes": "1", "No": 0, "Maybe": 0},
        {"Yes": math.nan, "No": 0.5, "Maybe": 0.5},
        {"Yes": 10**400, "No": 0, "Maybe": 0},
        {"Yes": None, "No": 0.5, "Maybe": 0.5},
    ],
)
def test_what_is_no_distribution_is_no_choice(p: dict[str, Any]) -> None:
    with pytest.raises(BadReplyError):
        ChoiceMode().read(JUDGED, {"answers": {"answer": {"probabilities": p}}}, CHOOSE)[0]


def test_what_the_server_refused_is_refused() -> None:
    said: dict[str, Any] = {"message": {"content": None, "refusal": "I can't."}}
    for choice in (said, {"message": {"content": "Yes"}, "finish_reason": "content_filter"}):
        with pytest.raises(BadReplyError) as caught:
            text_of(choice)
        assert caught.value.status == "refused"
    with pytest.raises(BadReplyError) as caught:
        text_of({"message": {"content": None, "refusal": None}})
    assert caught.value.status == "failed"


def test_quotes_and_spaces_in_front_are_left_out_of_the_positions() -> None:
    quote, label = position(('"', 1.0)), position(("Yes", 0.5), ("No", 0.5))
    expected = logs(("Yes", 0.5), ("No", 0.5))
    assert positions_of(chat("", [label, quote])["choices"][0])[0] == expected
    assert positions_of(chat("", [quote, position((" \n", 1.0)), label])["choices"][0]) == [expected]
    assert positions_of(chat("", [quote])["choices"][0]) == [[('"', 0.0)]]  # and there it ends
    nothings: list[dict[str, Any]] = [
        {},
        {"logprobs": None},
        {"logprobs": {"content": None}},
        chat("", [])["choices"][0],
    ]
    for nothing in nothings:
        assert positions_of(nothing) == []


@pytest.mark.parametrize("logprob", [10**400, -(10**400)])
def test_a_whole_number_that_is_no_float(logprob: int) -> None:
    reply = chat("Yes", [{"token": "Yes", "top_logprobs": [{"token": "Yes", "logprob": logprob}]}])
    with pytest.raises(BadReplyError):
        LogprobsMode().read(JUDGED, reply, CHOOSE)[0]


@pytest.mark.parametrize(("token", "logprob"), [(None, -0.1), ("None", "-0.1"), ("None", False)])
def test_tokens_are_strings_and_log_probabilities_numbers(token: Any, logprob: Any) -> None:
    judged = JUDGED._replace(words=(("None",), ("Some",), ("All",)))
    reply = chat("None", [{"token": "None", "top_logprobs": [{"token": token, "logprob": logprob}]}])
    with pytest.raises(BadReplyError):
        LogprobsMode().read(judged, reply, CHOOSE)[0]


KEYS = "choices message content refusal finish_reason logprobs token logprob top_logprobs answers answer probabilities"
scalars = (
    st.none() | st.booleans() | st.integers(-(10**300), 10**300) | st.floats() | replies | st.sampled_from(["Yes", "7"])
)
keys = st.sampled_from([*KEYS.split(), *LABELS.names, "rating"]) | st.text(max_size=3)
anything = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=4), max_leaves=12
)
GOOD: list[dict[str, Any]] = [
    chat("No", [position(("No", 0.75), ("Yes", 0.25))], finish_reason="stop"),
    chat('"10"', [position(('"', 1.0)), position(("1", 0.75), ("7", 0.25)), position(("0", 1.0))]),
    chat('{"answer": "Maybe"}'),
    chat('{"rating": 3}'),
    {"answers": {"answer": {"probabilities": {"Yes": 0.5, "No": 0.25, "Maybe": 0.25}}}},
]


def paths(node: Any, here: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where every value in a JSON structure is, below the root."""
    items = list(node.items() if isinstance(node, dict) else enumerate(node)) if isinstance(node, dict | list) else []
    return [path for key, value in items for path in [(*here, key), *paths(value, (*here, key))]]


@st.composite
def replies_of_servers(draw: st.DrawFn) -> dict[str, Any]:
    """A good reply in which one or two values are replaced by anything, or anything at all."""
    if draw(st.integers(0, 4)) == 0:
        return draw(st.dictionaries(keys, anything, max_size=4))
    reply: dict[str, Any] = json.loads(json.dumps(draw(st.sampled_from(GOOD))))
    for _ in range(draw(st.integers(1, 2))):
        *way, last = draw(st.sampled_from(paths(reply) or [("choices",)]))
        node: Any = reply
        for key in way:
            node = node[key]
        node[last] = draw(anything)
    return reply


def is_grade(scores: list[float], request: GradeRequest) -> bool:
    return is_distribution(scores) if request.label is None else 1 - 1e-9 <= scores[0] <= 10 + 1e-9 and len(scores) == 1


@given(replies_of_servers())
@settings(deadline=None, max_examples=300)
def test_any_reply_is_a_grade_or_a_bad_reply(reply: dict[str, Any]) -> None:
    for request in (CHOOSE, RATE):
        for mode in MODES.values():
            try:
                if isinstance(mode, LogprobsMode | ChoiceMode):
                    assert is_grade(mode.read(JUDGED, reply, request)[0], request)
                else:
                    verdicts = [mode.verdict(JUDGED, choice, request) for choice in choices_of(reply)]
                    assert all(verdict in (range(3) if request.label is None else range(1, 11)) for verdict in verdicts)
                    assert is_grade(scores_of_verdicts(verdicts, JUDGED, request), request)
            except BadReplyError as error:
                assert error.status in ("failed", "refused")


@given(st.dictionaries(keys, anything, max_size=4))
@settings(deadline=None)
def test_any_choice_is_read_or_is_a_bad_reply(choice: dict[str, Any]) -> None:
    for read in (text_of, positions_of):
        try:
            assert isinstance(read(choice), str | list)
        except BadReplyError as error:
            assert error.status in ("failed", "refused")


def test_the_good_replies_are_good() -> None:
    """So that the test of any reply starts from replies that are read."""
    assert is_grade(LogprobsMode().read(JUDGED, GOOD[0], CHOOSE)[0], CHOOSE)
    assert is_grade(LogprobsMode().read(JUDGED, GOOD[1], RATE)[0], RATE)
    assert SchemaMode().verdict(JUDGED, choices_of(GOOD[2])[0], CHOOSE) == 2
    assert SchemaMode().verdict(JUDGED, choices_of(GOOD[3])[0], RATE) == 3
    assert is_grade(ChoiceMode().read(JUDGED, GOOD[4], CHOOSE)[0], CHOOSE)
