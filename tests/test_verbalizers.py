"""The words that stand for a label, and the masses made of them."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from eightball_ppo.errors import InputError
from eightball_ppo.graders.api.replies import label_of_text
from eightball_ppo.graders.verbalizers import labels_of_token, parse_verbalizers, word_variants
from eightball_ppo.labels import EIGHTBALL_LABELS, LabelSet

LABELS = LabelSet.of(EIGHTBALL_LABELS)
WORDS = parse_verbalizers([], LABELS)


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        *[("Yes", "LABEL=word|word is needed"), ("yes=ja", r"a label of \['Yes', 'No', 'Maybe'\]")],
        *[("=ja", "LABEL=word|word is needed"), ("Yes=", "LABEL=word|word is needed")],
        *[("Yes=ja||jo", "LABEL=word|word is needed"), ("Yes=ja| ", "LABEL=word|word is needed")],
        ("Yes=NO", "'No'.*'Yes'"),
        ("Maybe=perhaps|yes", "'yes'.*'Maybe'"),
        *[(entry, "--grader_verbalizers") for entry in ("Maybe=Yes.", "Maybe='no'", "Maybe=...")],
    ],
)
def test_bad_verbalizers_are_refused_in_one_line(entry: str, message: str) -> None:
    with pytest.raises(InputError, match=message.replace("|", r"\|")) as caught:
        parse_verbalizers([entry], LABELS)
    assert "\n" not in str(caught.value)


def test_verbalizers_come_in_the_order_of_the_labels() -> None:
    assert parse_verbalizers(["No=nein | nö", "Yes=ja"], LABELS) == (("ja",), ("nein", "nö"), ("Maybe",))
    assert parse_verbalizers(["Yes=a=b"], LABELS)[0] == ("a=b",)


def test_a_label_of_punctuation_alone_needs_a_word() -> None:
    """An empty reply would be read as that label."""
    labels = LabelSet.of(["...", "Yes"])
    with pytest.raises(InputError, match=r"'\.\.\.' is no word; give '\.\.\.' one, e\.g\. \.\.\.=WORD"):
        parse_verbalizers([], labels)
    assert parse_verbalizers(["...=unsure"], labels) == (("unsure",), ("Yes",))


@given(st.text(st.characters(codec="ascii", categories=["L"]), min_size=1))
@settings(deadline=None)
def test_every_spelling_of_a_word_is_read_as_its_label(word: str) -> None:
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
def test_first_tokens_are_read_as_labels_or_none(token: str, label: int | None) -> None:
    assert labels_of_token(token, WORDS) == ([] if label is None else [label])
