"""The words that stand for a label, and the masses made of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_replies import logs, probabilities

from eightball_ppo.errors import InputError
from eightball_ppo.graders.api.replies import label_of_text
from eightball_ppo.graders.verbalizers import (
    label_masses,
    labels_of_token,
    normalize_logp,
    parse_verbalizers,
    word_variants,
)
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

LABELS = LabelSet.of(EIGHTBALL_LABELS)
WORDS = parse_verbalizers([], LABELS)


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
    assert word_variants(word) == expected


@given(st.text(st.characters(codec="ascii", categories=["L"]), min_size=1))
@settings(deadline=None)
def test_every_variant_is_the_label_that_it_is_made_of(word: str) -> None:
    words = ((word,), ("1",))
    assert word_variants(word)[0] == word and len(set(word_variants(word))) == len(word_variants(word))
    assert all(labels_of_token(spelling, words) == [0] for spelling in word_variants(word))
    assert {label_of_text(spelling, words) for spelling in word_variants(word)} == {0}


@pytest.mark.parametrize(
    ("token", "label"),
    [
        *[("Yes", 0), (" y", 0), ('"No', 1), ("**May", 2), ("\nMaybe", 2)],
        *[(token, None) for token in ("Yess", "Yes.", "None", "", " ", '"', "e", "Ño")],
    ],
)
def test_labels_of_first_tokens(token: str, label: int | None) -> None:
    assert labels_of_token(token, WORDS) == ([] if label is None else [label])


def test_masses_by_hand() -> None:
    mass_K, smallest = label_masses(logs(("Yes", 0.5), ("ye", 0.25), ("So", 0.125)), WORDS)
    assert mass_K == [pytest.approx(0.75), None, None] and smallest == pytest.approx(0.125)
    assert label_masses([], WORDS) == ([None, None, None], 0.0)
    assert probabilities(normalize_logp([1.0, 2.0, 1.0])) == pytest.approx([0.25, 0.5, 0.25])
