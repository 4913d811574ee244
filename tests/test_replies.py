"""Replies: what a judge says becomes a label, a distribution or a rating by hand-checked rules, or is no grade."""

import json
import math
import time
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from eightball_ppo.errors import InputError
from eightball_ppo.graders.api_modes import (
    MODES,
    ChoiceMode,
    Judged,
    LogprobsMode,
    SchemaMode,
    TextMode,
    choices_of,
    positions_of,
    scores_of_verdicts,
    text_of,
)
from eightball_ppo.graders.base import Ask
from eightball_ppo.graders.prompts import Prompt
from eightball_ppo.graders.replies import (
    LEAST_MASS,
    BadReplyError,
    json_value,
    label_of_text,
    logp_of_counts,
    logp_of_tokens,
    looks_refused,
    rating_of_text,
    rating_of_tokens,
)
from eightball_ppo.graders.verbalizers import (
    expected_rating,
    label_masses,
    label_of_token,
    normalised_logp,
    parse_verbalizers,
    variants,
)
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

LABELS = LabelSet.of(EIGHTBALL_LABELS)
WORDS = parse_verbalizers([], LABELS)
SPANISH = parse_verbalizers(["Yes=sí|claro que sí", "No=no|nunca", "Maybe=quizás"], LABELS)
JUDGED = Judged(Prompt.load("wanted_answer", LABELS), LABELS, WORDS)
CHOOSE, RATE = Ask("Is it?"), Ask("Is it?", "No")


def logs(*tokens: tuple[str, float]) -> list[tuple[str, float]]:
    """(token, log-probability) of (token, probability)."""
    return [(token, math.log(p)) for token, p in tokens]


def probabilities(logp_K: list[float]) -> list[float]:
    return [math.exp(logp) for logp in logp_K]


def is_distribution(logp_K: list[float], num_labels: int = len(LABELS)) -> bool:
    """Finite log-probabilities of K labels that sum to one."""
    p_K = probabilities(logp_K)
    return len(logp_K) == num_labels and all(map(math.isfinite, logp_K)) and abs(math.fsum(p_K) - 1) < 1e-9


# --- words


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("Yes", 0),
        ("no", 1),
        ("MAYBE", 2),
        (" Yes.\n", 0),
        ('"No."', 1),
        ("**Maybe**", 2),
        ("`yes`", 0),
        ("_No_!", 1),
        ("'Maybe'.", 2),
        ("Answer: Yes", 0),
        ("**Answer:** no.", 1),
        ('The answer is "Maybe".', 2),
    ],
)
def test_a_label_alone_is_read_whatever_is_around_it(text: str, label: int) -> None:
    assert label_of_text(text, WORDS) == label


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", '""', "...", "Yes, because", "yes no", "No. Yes", "Ye", "Yess", "[Yes]", "Yes\nNo", "{}"),
        *("Answer:", "The answer", "Answer: Yes, because", "The answer is not yes", "Question: Yes", "Answers: Yes"),
        *("The answer isn't no", "Answer: Yes\nAnswer: No", "Yes is the answer"),
    ],
)
def test_anything_but_a_label_alone_is_no_grade(text: str) -> None:
    with pytest.raises(BadReplyError, match="is not one of the labels alone") as caught:
        label_of_text(text, WORDS)
    assert caught.value.status == "failed"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.",
        "I\u2019m sorry, I can\u2019t say.",
        "I cannot answer this.",
        "As an AI, I have no opinion.",
        "I am not able to judge people.",
        "I WON'T DO THAT",
        "Yes - but I'd rather not say more.",
    ],
)
def test_a_refusal_is_told_from_a_failure(text: str) -> None:
    for read in (lambda: label_of_text(text, WORDS), lambda: rating_of_text(text), lambda: json_value(text, "answer")):
        with pytest.raises(BadReplyError) as caught:
            read()
        assert caught.value.status == "refused"


@pytest.mark.parametrize("text", ["It can not rain", "He is sorry", "I am sure", "Candid: I am", "As an aid", ""])
def test_not_every_no_is_a_refusal(text: str) -> None:
    assert not looks_refused(text)


def test_words_of_ones_own_replace_the_name() -> None:
    assert [label_of_text(text, SPANISH) for text in ("Sí.", "CLARO QUE SÍ", "nunca", '"Quizás"')] == [0, 0, 1, 2]
    with pytest.raises(BadReplyError):
        label_of_text("Yes", SPANISH)


def test_a_reply_of_white_space_is_read_at_once() -> None:
    started = time.perf_counter()
    with pytest.raises(BadReplyError):
        label_of_text("Answer" + " " * 8000, WORDS)
    assert time.perf_counter() - started < 0.2


def test_a_word_that_begins_with_is_is_another_word() -> None:
    with pytest.raises(BadReplyError):
        label_of_text("The answer isno", WORDS)


# --- ratings in words and JSON


@pytest.mark.parametrize("rating", range(1, 11))
@pytest.mark.parametrize("around", ["{}", " {}. ", '"{}"', "**{}**", "{}/10", "{} / 10.", "\n{}\n", "Rating: {}"])
def test_a_rating_alone_is_read(rating: int, around: str) -> None:
    assert rating_of_text(around.format(rating)) == rating


@pytest.mark.parametrize(
    "text",
    [
        *("0", "11", "7.5", "seven", "-7", "+7", "07", "7,", "7/5", "7/100", "7 8", "1 0", "1e1", "", "/10", "7/10/10"),
        *("\u0663", "\uff17", "三", "²", "1\u0660", "\u0667/10", "7\u2003/10", "7 out of 10"),
    ],
)
def test_anything_but_a_whole_number_from_1_to_10_is_no_rating(text: str) -> None:
    with pytest.raises(BadReplyError, match="is not a whole number from 1 to 10 alone"):
        rating_of_text(text)


@pytest.mark.parametrize("text", [".7", "..7", "Rating: .7", "Rating: -7"])
def test_a_fraction_is_no_rating(text: str) -> None:
    with pytest.raises(BadReplyError):
        rating_of_text(text)


def test_the_value_of_the_only_key_is_read() -> None:
    assert json_value(' {"answer": "No"}\n', "answer") == "No" and json_value('{"rating": 7}', "rating") == 7


@pytest.mark.parametrize(
    "text",
    ["", "No", '["No"]', '"No"', "null", '{"Answer": "No"}', '{"answer": "No", "why": ""}', "{}", '{"answer": "No"'],
)
def test_anything_but_an_object_with_that_key_alone_is_no_value(text: str) -> None:
    with pytest.raises(BadReplyError):
        json_value(text, "answer")


@pytest.mark.parametrize("bomb", ["[" * 100_000, '{"answer":' * 100_000, "9" * 100_000])
def test_a_nested_bomb_is_a_bad_reply(bomb: str) -> None:
    with pytest.raises(BadReplyError, match="is not ") as caught:
        json_value(bomb, "answer")
    assert len(str(caught.value)) < 200


def test_a_key_that_stands_twice_is_two_answers() -> None:
    with pytest.raises(BadReplyError):
        json_value('{"answer": "Yes", "answer": "No"}', "answer")


# --- log-probabilities of tokens


def test_spellings_of_a_label_are_summed() -> None:
    """Yes 0.3 + 0.2 + 0.1, No 0.2, Maybe 0.1, and 0.1 on another word: 6/9, 2/9, 1/9."""
    top = logs(("Yes", 0.3), (" yes", 0.2), ('"YES', 0.1), (" No", 0.2), ("maybe", 0.1), ("The", 0.1))
    assert probabilities(logp_of_tokens(top, WORDS)) == pytest.approx([6 / 9, 2 / 9, 1 / 9], abs=1e-12)


def test_beginnings_of_a_label_count_as_it() -> None:
    """May 0.5 + M 0.1 and Ye 0.2 are beginnings; N 0.12 begins No alone."""
    top = logs(("May", 0.5), ("M", 0.1), (" Ye", 0.2), ("N", 0.12))
    assert probabilities(logp_of_tokens(top, WORDS)) == pytest.approx([0.2 / 0.92, 0.12 / 0.92, 0.6 / 0.92], abs=1e-12)


def test_a_beginning_of_two_labels_is_of_neither_and_too_much_of_it_is_no_grade() -> None:
    """N 0.04 begins No and Not now, which are not listed: each may have the 0.04 that is the smallest listed."""
    four = parse_verbalizers([], LabelSet.of(["Yes", "No", "Maybe", "Not now"]))
    assert [label_of_token(token, four) for token in ("N", "No", "Not")] == [None, 1, 3]
    p_K = probabilities(logp_of_tokens(logs(("Maybe", 0.7), ("Yes", 0.2), ("N", 0.04)), four))
    assert p_K == pytest.approx([0.2 / 0.98, 0.04 / 0.98, 0.7 / 0.98, 0.04 / 0.98], abs=1e-12)
    with pytest.raises(BadReplyError, match=r"^0\.06 of the probability is on tokens that begin several labels"):
        logp_of_tokens(logs(("Maybe", 0.7), ("Yes", 0.2), ("N", 0.04), (" n", 0.02)), four)


def test_an_unlisted_label_gets_as_much_as_it_can_have() -> None:
    """The smallest that is listed (0.02), or what is left over (0.01) if that is less."""
    smallest = logp_of_tokens(logs(("Yes", 0.8), ("So", 0.02)), WORDS)
    assert probabilities(smallest) == pytest.approx([0.8 / 0.84, 0.02 / 0.84, 0.02 / 0.84], abs=1e-12)
    left_over = logp_of_tokens(logs(("Yes", 0.9), ("No", 0.09)), WORDS)
    assert probabilities(left_over) == pytest.approx([0.9, 0.09, 0.01], abs=1e-12)
    certain = logp_of_tokens([("Yes", 0.0)], WORDS)
    assert certain[1:] == pytest.approx([math.log(LEAST_MASS)] * 2)


def test_more_than_half_on_other_words_is_no_grade() -> None:
    assert is_distribution(logp_of_tokens(logs(("Yes", 0.26), ("No", 0.25), ("I", 0.49)), WORDS))
    bad = logs(("Yes", 0.25), ("No", 0.24), ("I", 0.51))
    with pytest.raises(BadReplyError, match=r"^0\.51 of the probability is on other than the labels") as caught:
        logp_of_tokens(bad, WORDS, "In this")
    assert caught.value.status == "failed"
    with pytest.raises(BadReplyError) as caught:
        logp_of_tokens(bad, WORDS, "I can\u2019t say")
    assert caught.value.status == "refused"


@pytest.mark.parametrize("logp", [math.nan, math.inf, -math.inf, 0.01, 3.0])
def test_what_is_no_log_probability_is_no_grade(logp: float) -> None:
    for read in (
        lambda: logp_of_tokens([("Yes", -0.1), ("x", logp)], WORDS),
        lambda: rating_of_tokens([[("1", logp)]]),
    ):
        with pytest.raises(BadReplyError, match="log-probability"):
            read()
    with pytest.raises(BadReplyError, match="no log-probabilities"):
        logp_of_tokens([], WORDS)


def test_ratings_of_single_tokens_by_hand() -> None:
    """10 with 0.5, 7 with 0.2 + 0.1, other words 0.2: (10 * 0.5 + 7 * 0.3) / 0.8."""
    top = logs(("10", 0.5), ("7", 0.2), (" 7", 0.1), ("0", 0.1), ("\u0667", 0.1))
    assert rating_of_tokens([top], "10") == pytest.approx(7.1 / 0.8)


def test_ratings_of_two_tokens_by_hand() -> None:
    """1 with 0.6, of which 0.75 go on with 0: 1 * 0.15 + 10 * 0.45 + 8 * 0.4, of 1 in all."""
    first, second = logs(("1", 0.6), ("8", 0.4)), logs(("0", 0.75), (".", 0.2), ("00", 0.05))
    assert rating_of_tokens([first, second], "10") == pytest.approx(0.15 + 4.5 + 3.2)
    assert rating_of_tokens([first, second], " 1.") == pytest.approx(0.15 + 4.5 + 3.2)
    assert rating_of_tokens([first], "1") == pytest.approx(0.6 + 3.2)
    twice = [("0", 0.0), ("0", 0.0)]  # listed twice: still no more than all of it
    assert rating_of_tokens([first, twice], "10") == pytest.approx(6 + 3.2)


def test_a_first_1_of_which_nobody_knows_how_it_goes_on_is_no_rating() -> None:
    """The second token follows the 8 that was said, so that of 1 and 10 nothing is known."""
    second = logs(("0", 0.75), (".", 0.25))
    assert rating_of_tokens([logs(("8", 0.6), ("1", 0.4)), second], "8.") == pytest.approx(8)
    with pytest.raises(BadReplyError, match=r"^0\.60 of the probability is on other than 1 to 10"):
        rating_of_tokens([logs(("1", 0.6), ("8", 0.4)), second], "8.")
    whole = logs(("8", 0.5), ("1", 0.25), ("10", 0.25))  # a judge that has 10 as one token
    assert rating_of_tokens([whole, second], "8.") == pytest.approx(4 + 0.25 + 2.5)


def test_too_little_on_ratings_is_no_rating() -> None:
    bad: list[list[list[tuple[str, float]]]] = [[], [[]], [logs(("7", 0.49), ("I", 0.51))], [logs(("11", 0.9))]]
    for positions in [*bad, [logs(("1", 0.9)), []]]:
        with pytest.raises(BadReplyError):
            rating_of_tokens(positions, "1")


@given(st.lists(st.integers(0, 4), max_size=30))
@settings(deadline=None)
def test_counts_are_smoothed_frequencies(label_S: list[int]) -> None:
    p_K = probabilities(logp_of_counts(label_S, 5))
    assert p_K == pytest.approx([(label_S.count(k) + 1) / (len(label_S) + 5) for k in range(5)])
    assert math.fsum(p_K) == pytest.approx(1)


@given(st.lists(st.floats(0, 1), min_size=10, max_size=10).filter(lambda mass_R: sum(mass_R) > 1e-6))
@settings(deadline=None)
def test_expected_ratings_are_means(mass_R: list[float]) -> None:
    mean = sum(rating * mass for rating, mass in enumerate(mass_R, start=1)) / sum(mass_R)
    assert expected_rating(mass_R) == pytest.approx(mean) and 1 - 1e-9 <= expected_rating(mass_R) <= 10 + 1e-9


# --- words that stand for labels


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("Yes", "LABEL=word|word is needed"),
        ("yes=ja", r"a label of \['Yes', 'No', 'Maybe'\]"),
        ("=ja", "LABEL=word|word is needed"),
        ("Yes=", "LABEL=word|word is needed"),
        ("Yes=ja||jo", "LABEL=word|word is needed"),
        ("Yes=ja| ", "LABEL=word|word is needed"),
        ("Yes=NO", "'No' stands for 'Yes' and for 'No'"),
        ("Maybe=perhaps|yes", "'yes' stands for 'Yes' and for 'Maybe'"),
    ],
)
def test_bad_verbalizers_are_one_clear_line(entry: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("|", r"\|")) as caught:
        parse_verbalizers([entry], LABELS)
    assert "\n" not in str(caught.value)


def test_verbalizers_come_in_the_order_of_the_labels() -> None:
    assert parse_verbalizers(["No=nein | nö", "Yes=ja"], LABELS) == (("ja",), ("nein", "nö"), ("Maybe",))
    assert parse_verbalizers(["Yes=a=b"], LABELS)[0] == ("a=b",)


@pytest.mark.parametrize("entry", ["Maybe=Yes.", "Maybe='no'", "Maybe=..."])
def test_words_that_differ_only_in_what_is_stripped(entry: str) -> None:
    with pytest.raises(InputError):
        parse_verbalizers([entry], LABELS)


def test_a_label_of_which_nothing_is_left_needs_a_word() -> None:
    """Else an empty reply would be that label."""
    labels = LabelSet.of(["...", "Yes"])
    with pytest.raises(InputError, match=r"'\.\.\.' is no word; give '\.\.\.' one, e\.g\. \.\.\.=WORD"):
        parse_verbalizers([], labels)
    assert parse_verbalizers(["...=unsure"], labels) == (("unsure",), ("Yes",))


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("yes", ["yes", " yes", "YES", " YES", "Yes", " Yes"]),
        ("7", ["7", " 7"]),
        (
            "New York",
            ["New York", " New York", "new york", " new york", "NEW YORK", " NEW YORK", "New york", " New york"],
        ),
    ],
)
def test_variants_by_hand(word: str, expected: list[str]) -> None:
    assert variants(word) == expected


@given(st.text(st.characters(codec="ascii", categories=["L"]), min_size=1))
@settings(deadline=None)
def test_every_variant_is_the_label_that_it_is_made_of(word: str) -> None:
    words = ((word,), ("1",))
    assert variants(word)[0] == word and len(set(variants(word))) == len(variants(word))
    assert {label_of_token(spelling, words) for spelling in variants(word)} == {0}
    assert {label_of_text(spelling, words) for spelling in variants(word)} == {0}


@pytest.mark.parametrize(
    ("token", "label"),
    [
        *[("Yes", 0), (" y", 0), ('"No', 1), ("**May", 2), ("\nMaybe", 2)],
        *[(token, None) for token in ("Yess", "Yes.", "None", "", " ", '"', "e", "Ño")],
    ],
)
def test_labels_of_first_tokens(token: str, label: int | None) -> None:
    assert label_of_token(token, WORDS) == label


def test_masses_by_hand() -> None:
    mass_K, smallest = label_masses(logs(("Yes", 0.5), ("ye", 0.25), ("So", 0.125)), WORDS)
    assert mass_K == [pytest.approx(0.75), None, None] and smallest == pytest.approx(0.125)
    assert label_masses([], WORDS) == ([None, None, None], 0.0)
    assert probabilities(normalised_logp([1.0, 2.0, 1.0])) == pytest.approx([0.25, 0.5, 0.25])


# --- whatever a judge says

FRAGMENTS = [
    "Yes",
    "no",
    "May",
    "be",
    "1",
    "10",
    "0",
    "7",
    "/10",
    '"',
    "**",
    ".",
    " ",
    "\n",
    "{",
    "}",
    '"answer":',
    "[",
    "]",
]
FRAGMENTS += ["I'm sorry", "\u2019", "\ud800", "\x00", "\u0663", "N", "\u2028", "ß", "\u0130", "e"]
replies = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=5), max_size=6).map("".join)
logps = st.floats() | st.floats(-20, 0) | st.sampled_from([0.0, -0.0, 1e-3, -1e308, -0.5, -5e-324])
tops = st.lists(st.tuples(replies, logps), max_size=6)


@given(replies)
@settings(deadline=None)
def test_any_text_is_read_or_is_a_bad_reply(text: str) -> None:
    for words in (WORDS, SPANISH):
        try:
            assert label_of_text(text, words) in range(3)
        except BadReplyError as error:
            assert error.status in ("failed", "refused") and str(error)
    try:
        assert rating_of_text(text) in range(1, 11)
    except BadReplyError as error:
        assert error.status in ("failed", "refused")
    try:
        value = json_value(text, "answer")
        assert isinstance(value, list) or json.loads(text) == {"answer": value}
    except BadReplyError as error:
        assert error.status in ("failed", "refused")


@given(tops, replies, st.lists(tops, max_size=2))
@settings(deadline=None)
@example([("Yes", 1e-3), ("No", 1e-3), ("Maybe", 1e-3)], "", [])
@example([("Yes", 0.0), ("No", -1e308)], "", [])
def test_any_log_probabilities_are_read_or_are_a_bad_reply(
    top: list[tuple[str, float]], text: str, rest: list[list[tuple[str, float]]]
) -> None:
    for words in (WORDS, SPANISH):
        try:
            assert is_distribution(logp_of_tokens(top, words, text))
        except BadReplyError as error:
            assert error.status in ("failed", "refused")
    try:
        assert 1 - 1e-9 <= rating_of_tokens([top, *rest], text) <= 10 + 1e-9
    except BadReplyError as error:
        assert error.status in ("failed", "refused")


# --- whole replies of a server


def chat(content: Any, positions: Any = None, **more: Any) -> dict[str, Any]:
    """A chat completion with one choice."""
    return {"choices": [{"message": {"content": content}, "logprobs": {"content": positions}, **more}]}


def position(*tokens: tuple[str, float]) -> dict[str, Any]:
    """One position of a reply, its first token the one that was sampled."""
    listed = [{"token": token, "logprob": logp} for token, logp in logs(*tokens)]
    return {**listed[0], "top_logprobs": listed}


def test_logprobs_mode_reads_the_first_word() -> None:
    label = position(("No", 0.75), ("Yes", 0.25))
    expected = [math.log(0.25), math.log(0.75), math.log(LEAST_MASS)]
    for reply in (chat("No", [label]), chat('"No"', [position(('"', 1.0)), label, position(('"', 1.0))])):
        assert LogprobsMode().scores(JUDGED, reply, CHOOSE) == pytest.approx(expected, abs=1e-6)
    reply = chat("10", [position(("1", 1.0)), position(("0", 0.5), (".", 0.5))])
    assert LogprobsMode().scores(JUDGED, reply, RATE) == [pytest.approx(5.5)]


@pytest.mark.parametrize("front", ['"', "**", '{"'])
def test_a_ten_of_two_tokens_behind_a_quote(front: str) -> None:
    reply = chat(f"{front}10", [position((front, 1.0)), position(("1", 1.0)), position(("0", 1.0))])
    assert LogprobsMode().scores(JUDGED, reply, RATE) == [pytest.approx(10)]


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
    logp_K = ChoiceMode().scores(JUDGED, {"answers": {"answer": {"probabilities": p}}}, CHOOSE)
    assert logp_K == pytest.approx([math.log(0.5), math.log(1e-9), math.log(0.5)], abs=1e-6)
    ratings = {str(rating): 0.1 for rating in range(1, 11)}
    assert ChoiceMode().scores(JUDGED, {"answers": {"answer": {"probabilities": ratings}}}, RATE) == [
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
        ChoiceMode().scores(JUDGED, {"answers": {"answer": {"probabilities": p}}}, CHOOSE)


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
        LogprobsMode().scores(JUDGED, reply, CHOOSE)


@pytest.mark.parametrize(("token", "logprob"), [(None, -0.1), ("None", "-0.1"), ("None", False)])
def test_tokens_are_strings_and_log_probabilities_numbers(token: Any, logprob: Any) -> None:
    judged = JUDGED._replace(words=(("None",), ("Some",), ("All",)))
    reply = chat("None", [{"token": "None", "top_logprobs": [{"token": token, "logprob": logprob}]}])
    with pytest.raises(BadReplyError):
        LogprobsMode().scores(judged, reply, CHOOSE)


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


def is_grade(scores: list[float], ask: Ask) -> bool:
    return is_distribution(scores) if ask.label is None else 1 - 1e-9 <= scores[0] <= 10 + 1e-9 and len(scores) == 1


@given(replies_of_servers())
@settings(deadline=None, max_examples=300)
def test_any_reply_is_a_grade_or_a_bad_reply(reply: dict[str, Any]) -> None:
    for ask in (CHOOSE, RATE):
        for mode in MODES.values():
            try:
                if isinstance(mode, LogprobsMode | ChoiceMode):
                    assert is_grade(mode.scores(JUDGED, reply, ask), ask)
                else:
                    verdicts = [mode.verdict(JUDGED, choice, ask) for choice in choices_of(reply)]
                    assert all(verdict in (range(3) if ask.label is None else range(1, 11)) for verdict in verdicts)
                    assert is_grade(scores_of_verdicts(verdicts, JUDGED, ask), ask)
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
    assert is_grade(LogprobsMode().scores(JUDGED, GOOD[0], CHOOSE), CHOOSE)
    assert is_grade(LogprobsMode().scores(JUDGED, GOOD[1], RATE), RATE)
    assert SchemaMode().verdict(JUDGED, choices_of(GOOD[2])[0], CHOOSE) == 2
    assert SchemaMode().verdict(JUDGED, choices_of(GOOD[3])[0], RATE) == 3
    assert is_grade(ChoiceMode().scores(JUDGED, GOOD[4], CHOOSE), CHOOSE)
