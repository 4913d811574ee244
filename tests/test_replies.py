"""Texts and token log-probabilities of a judge become a label, a distribution or a rating, or are a bad reply."""

import math
import time

import pytest

from benchmarks import fuzz_replies
from eightball_ppo.graders.api.replies import (
    BadReplyError,
    json_value,
    label_of_text,
    logp_of_tokens,
    looks_refused,
    rating_of_text,
    rating_of_tokens,
)
from eightball_ppo.graders.verbalizers import MIN_MASS, labels_of_token, parse_verbalizers
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

LABELS = LabelSet.of(EIGHTBALL_LABELS)
WORDS = parse_verbalizers([], LABELS)
SPANISH = parse_verbalizers(["Yes=sí|claro que sí", "No=no|nunca", "Maybe=quizás"], LABELS)


def logs(*tokens: tuple[str, float]) -> list[tuple[str, float]]:
    """(token, log-probability) of (token, probability)."""
    return [(token, math.log(p)) for token, p in tokens]


def probabilities(logp_K: list[float]) -> list[float]:
    return [math.exp(logp) for logp in logp_K]


def is_distribution(logp_K: list[float], num_labels: int = len(LABELS)) -> bool:
    """Finite log-probabilities of K labels that sum to one."""
    p_K = probabilities(logp_K)
    return len(logp_K) == num_labels and all(map(math.isfinite, logp_K)) and abs(math.fsum(p_K) - 1) < 1e-9


@pytest.mark.parametrize(
    ("text", "label"),
    [
        *[
            *[("Yes", 0), ("no", 1), ("MAYBE", 2), (" Yes.\n", 0), ('"No."', 1), ("**Maybe**", 2), ("`yes`", 0)],
            ("_No_!", 1),
        ],
        *[("'Maybe'.", 2), ("Answer: Yes", 0), ("**Answer:** no.", 1), ('The answer is "Maybe".', 2)],
    ],
)
def test_a_label_alone_is_read_with_any_markup_around_it(text: str, label: int) -> None:
    assert label_of_text(text, WORDS) == label


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", '""', "...", "Yes, because", "yes no", "No. Yes", "Ye", "Yess", "[Yes]", "Yes\nNo", "{}"),
        *("Answer:", "The answer", "Answer: Yes, because", "The answer is not yes", "Question: Yes", "Answers: Yes"),
        *("The answer isn't no", "The answer isno", "Answer: Yes\nAnswer: No", "Yes is the answer"),
    ],
)
def test_anything_but_a_label_alone_is_a_bad_reply(text: str) -> None:
    with pytest.raises(BadReplyError, match="is not one of the labels alone") as caught:
        label_of_text(text, WORDS)
    assert caught.value.status == "failed"


@pytest.mark.parametrize(
    "text",
    [
        *("I'm sorry, but I can't help with that.", "I\u2019m sorry, I can\u2019t say.", "I cannot answer this."),
        *("As an AI, I have no opinion.", "I am not able to judge people.", "I WON'T DO THAT"),
        "Yes - but I'd rather not say more.",
    ],
)
def test_refusals_are_told_from_failures(text: str) -> None:
    for read in (lambda: label_of_text(text, WORDS), lambda: rating_of_text(text), lambda: json_value(text, "answer")):
        with pytest.raises(BadReplyError) as caught:
            read()
        assert caught.value.status == "refused"


@pytest.mark.parametrize("text", ["It can not rain", "He is sorry", "I am sure", "Candid: I am", "As an aid", ""])
def test_a_no_in_other_words_is_no_refusal(text: str) -> None:
    assert not looks_refused(text)


def test_verbalizers_replace_the_name_of_the_label() -> None:
    assert [label_of_text(text, SPANISH) for text in ("Sí.", "CLARO QUE SÍ", "nunca", '"Quizás"')] == [0, 0, 1, 2]
    with pytest.raises(BadReplyError):
        label_of_text("Yes", SPANISH)


def test_a_long_reply_of_white_space_is_read_quickly() -> None:
    started = time.perf_counter()
    with pytest.raises(BadReplyError):
        label_of_text("Answer" + " " * 8000, WORDS)
    assert time.perf_counter() - started < 0.2


@pytest.mark.parametrize("rating", range(1, 11))
@pytest.mark.parametrize("around", ["{}", " {}. ", '"{}"', "**{}**", "{}/10", "{} / 10.", "\n{}\n", "Rating: {}"])
def test_a_rating_alone_is_read(rating: int, around: str) -> None:
    assert rating_of_text(around.format(rating)) == rating


@pytest.mark.parametrize(
    "text",
    [
        *("0", "11", "7.5", "seven", "-7", "+7", "07", "7,", "7/5", "7/100", "7 8", "1 0", "1e1", "", "/10", "7/10/10"),
        *(
            *(".7", "..7", "Rating: .7", "Rating: -7", "\u0663", "\uff17", "三", "²", "1\u0660", "\u0667/10"),
            *("7\u2003/10", "7 out of 10"),
        ),
    ],
)
def test_anything_but_an_integer_from_1_to_10_is_no_rating(text: str) -> None:
    with pytest.raises(BadReplyError, match="is not a whole number from 1 to 10 alone"):
        rating_of_text(text)


def test_the_value_of_the_only_key_is_read() -> None:
    assert json_value(' {"answer": "No"}\n', "answer") == "No" and json_value('{"rating": 7}', "rating") == 7


@pytest.mark.parametrize(
    "text",
    [
        *("", "No", '["No"]', '"No"', "null", '{"Answer": "No"}', '{"answer": "No", "why": ""}', "{}"),
        *('{"answer": "No"', '{"answer": "Yes", "answer": "No"}'),
    ],
)
def test_anything_but_an_object_with_that_key_alone_is_a_bad_reply(text: str) -> None:
    with pytest.raises(BadReplyError):
        json_value(text, "answer")


@pytest.mark.parametrize("bomb", ["[" * 100_000, '{"answer":' * 100_000, "9" * 100_000])
def test_a_nested_bomb_is_a_bad_reply(bomb: str) -> None:
    with pytest.raises(BadReplyError, match="is not ") as caught:
        json_value(bomb, "answer")
    assert len(str(caught.value)) < 200


def test_spellings_of_a_label_are_summed() -> None:
    """Yes 0.3 + 0.2 + 0.1, No 0.2, Maybe 0.1, and 0.1 on another word: 6/9, 2/9, 1/9."""
    top = logs(("Yes", 0.3), (" yes", 0.2), ('"YES', 0.1), (" No", 0.2), ("maybe", 0.1), ("The", 0.1))
    assert probabilities(logp_of_tokens(top, WORDS)) == pytest.approx([6 / 9, 2 / 9, 1 / 9], abs=1e-12)


def test_a_prefix_of_one_label_counts_as_that_label() -> None:
    """May 0.5 + M 0.1 and Ye 0.2 are beginnings; N 0.12 begins No alone."""
    top = logs(("May", 0.5), ("M", 0.1), (" Ye", 0.2), ("N", 0.12))
    assert probabilities(logp_of_tokens(top, WORDS)) == pytest.approx([0.2 / 0.92, 0.12 / 0.92, 0.6 / 0.92], abs=1e-12)


def test_a_prefix_of_two_labels_counts_as_neither_and_too_much_of_it_is_a_bad_reply() -> None:
    """N 0.04 begins No and Not now, which are not listed: each may have the 0.04 that is the smallest listed."""
    four = parse_verbalizers([], LabelSet.of(["Yes", "No", "Maybe", "Not now"]))
    assert [labels_of_token(token, four) for token in ("N", "No", "Not")] == [[1, 3], [1], [3]]
    p_K = probabilities(logp_of_tokens(logs(("Maybe", 0.7), ("Yes", 0.2), ("N", 0.04)), four))
    assert p_K == pytest.approx([0.2 / 0.98, 0.04 / 0.98, 0.7 / 0.98, 0.04 / 0.98], abs=1e-12)
    with pytest.raises(BadReplyError, match=r"^0\.06 of the probability is on tokens that begin several labels"):
        logp_of_tokens(logs(("Maybe", 0.7), ("Yes", 0.2), ("N", 0.04), (" n", 0.02)), four)


def test_an_unlisted_label_gets_the_most_that_it_can_have() -> None:
    """The smallest that is listed (0.02), or what is left over (0.01) if that is less."""
    smallest = logp_of_tokens(logs(("Yes", 0.8), ("So", 0.02)), WORDS)
    assert probabilities(smallest) == pytest.approx([0.8 / 0.84, 0.02 / 0.84, 0.02 / 0.84], abs=1e-12)
    left_over = logp_of_tokens(logs(("Yes", 0.9), ("No", 0.09)), WORDS)
    assert probabilities(left_over) == pytest.approx([0.9, 0.09, 0.01], abs=1e-12)
    certain = logp_of_tokens([("Yes", 0.0)], WORDS)
    assert certain[1:] == pytest.approx([math.log(MIN_MASS)] * 2)


def test_more_than_half_on_other_tokens_is_a_bad_reply() -> None:
    assert is_distribution(logp_of_tokens(logs(("Yes", 0.26), ("No", 0.25), ("I", 0.49)), WORDS))
    bad = logs(("Yes", 0.25), ("No", 0.24), ("I", 0.51))
    with pytest.raises(BadReplyError, match=r"^0\.51 of the probability is on other than the labels") as caught:
        logp_of_tokens(bad, WORDS, "In this")
    assert caught.value.status == "failed"
    with pytest.raises(BadReplyError) as caught:
        logp_of_tokens(bad, WORDS, "I can\u2019t say")
    assert caught.value.status == "refused"


@pytest.mark.parametrize("logp", [math.nan, math.inf, -math.inf, 0.01, 3.0])
def test_log_probabilities_must_be_finite_and_not_positive(logp: float) -> None:
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


def test_a_1_whose_second_token_is_unknown_is_no_rating() -> None:
    """The second token follows the sampled 8, which says nothing about 1 and 10."""
    second = logs(("0", 0.75), (".", 0.25))
    assert rating_of_tokens([logs(("8", 0.6), ("1", 0.4)), second], "8.") == pytest.approx(8)
    with pytest.raises(BadReplyError, match=r"^0\.60 of the probability is on other than 1 to 10"):
        rating_of_tokens([logs(("1", 0.6), ("8", 0.4)), second], "8.")
    one_token = logs(("8", 0.5), ("1", 0.25), ("10", 0.25))  # a judge that has 10 as one token
    assert rating_of_tokens([one_token, second], "8.") == pytest.approx(4 + 0.25 + 2.5)


def test_fuzzed_replies_are_a_grade_or_a_bad_reply() -> None:
    """The first inputs of the benchmark, which fuzzes all readers and modes for five minutes."""
    tally, failures = fuzz_replies.fuzz(seconds=60, most=120)
    assert not failures and tally["inputs"] >= 100
    grades = {name.split(":")[0] for name in tally if name.endswith(": ok")}
    assert len(grades) >= 3, tally  # of eight ways to ask: not every input is nonsense
