"""Replies: what a judge says becomes a label, a distribution or a rating by hand-checked rules, or is no grade."""

import json
import math
import time

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from benchmarks import fuzz_replies
from eightball_ppo.graders.api.modes import JudgeTask
from eightball_ppo.graders.api.replies import (
    BadReplyError,
    json_value,
    label_of_text,
    logp_of_counts,
    logp_of_tokens,
    looks_refused,
    rating_of_text,
    rating_of_tokens,
)
from eightball_ppo.graders.base import GradeRequest
from eightball_ppo.graders.prompts import Prompt
from eightball_ppo.graders.verbalizers import MIN_MASS, expected_rating, labels_of_token, parse_verbalizers
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

LABELS = LabelSet.of(EIGHTBALL_LABELS)
WORDS = parse_verbalizers([], LABELS)
SPANISH = parse_verbalizers(["Yes=sí|claro que sí", "No=no|nunca", "Maybe=quizás"], LABELS)
JUDGED = JudgeTask(Prompt.load("wanted_answer", LABELS), LABELS, WORDS)
CHOOSE, RATE = GradeRequest("Is it?"), GradeRequest("Is it?", "No")


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
    assert [labels_of_token(token, four) for token in ("N", "No", "Not")] == [[1, 3], [1], [3]]
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
    assert certain[1:] == pytest.approx([math.log(MIN_MASS)] * 2)


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


def test_whatever_a_server_answers_is_a_grade_or_says_why_not() -> None:
    """The benchmark's inputs, for five minutes there; the first of them here."""
    tally, failures = fuzz_replies.fuzz(seconds=60, most=150)
    assert not failures and tally["inputs"] >= 100
    grades = {name.split(":")[0] for name in tally if name.endswith(": ok")}
    assert len(grades) >= 3, tally  # of eight ways to ask: not every input is nonsense


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
