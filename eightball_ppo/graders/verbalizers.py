"""The words that stand for a label in a judge's mouth, and the probability of a label made of those of its words."""

import math
from collections.abc import Sequence

from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet

Verbalizers = tuple[tuple[str, ...], ...]  # K tuples of words, in the order of the labels

MAX_MISSING_MASS = 0.5  # share of probability on other than the labels above which there is no grade
MAX_AMBIGUOUS_MASS = 0.05  # share of probability on tokens that begin several labels above which there is no grade
MIN_MASS = 1e-9  # of a label, so that its logarithm is finite
RATINGS = tuple(range(1, 11))
_QUOTES = " \t\r\n\"'`*_"


def normalize_word(text: str) -> str:
    """`text` without quotes and emphasis around it and punctuation behind it, in one case: "**Yes**." is "yes"."""
    return text.lstrip(_QUOTES).rstrip(_QUOTES + ".!:").casefold()


def parse_verbalizers(entries: Sequence[str], labels: LabelSet) -> Verbalizers:
    """The words of every label: those of its entry `LABEL=word|word`, or its name.

    Raises:
        InputError: an entry that is none, an unknown label, or a word that stands for two labels.
    """
    words: dict[str, tuple[str, ...]] = {name: (name,) for name in labels.names}
    for entry in entries:
        name, equals, right = entry.partition("=")
        own = tuple(word.strip() for word in right.split("|"))
        if not equals or name not in labels.names or not all(own):
            raise InputError(
                f"--grader_verbalizers {entry}: LABEL=word|word is needed, with a label of {list(labels.names)}"
            )
        words[name] = own
    owner: dict[str, str] = {}
    for name, own in words.items():
        for word in own:
            if not normalize_word(word):
                raise InputError(f"--grader_verbalizers: {word!r} is no word; give {name!r} one, e.g. {name}=WORD")
            other = owner.setdefault(normalize_word(word), name)
            if other != name:
                raise InputError(
                    f"--grader_verbalizers: {word!r} stands for {other!r} and for {name!r}; give every label words of "
                    "its own"
                )
    return tuple(words[name] for name in labels.names)


def word_variants(word: str) -> list[str]:
    """`word` as a judge may write it: in four cases, with and without a space in front; each once."""
    cases = (word, word.lower(), word.upper(), word.capitalize())
    return list(dict.fromkeys(space + case for case in cases for space in ("", " ")))


def labels_of_token(token: str, words: Verbalizers) -> list[int]:
    """The labels that a first token of a reply begins; where it is the whole word of one, that one alone."""
    text = token.strip().lstrip("\"'*`([").casefold()
    if not text:
        return []
    whole = [k for k, own in enumerate(words) if any(word.casefold() == text for word in own)]
    return whole or [k for k, own in enumerate(words) if any(word.casefold().startswith(text) for word in own)]


def label_of_token(token: str, words: Verbalizers) -> int | None:
    """The label that a first token of a reply begins, if it begins one only."""
    found = labels_of_token(token, words)
    return found[0] if len(found) == 1 else None


def ambiguous_mass(top: Sequence[tuple[str, float]], words: Verbalizers) -> float:
    """The probability of the first tokens that begin several labels."""
    return math.fsum(math.exp(logp) for token, logp in top if len(labels_of_token(token, words)) > 1)


def share_first_word(words: Verbalizers) -> bool:
    """Whether words of two labels begin with the same word, so that a reply's first token cannot tell them apart."""
    first = [{word.split()[0].casefold() for word in own} for own in words]
    return any(a & b for i, a in enumerate(first) for b in first[:i])


def label_masses(top: Sequence[tuple[str, float]], words: Verbalizers) -> tuple[list[float | None], float]:
    """(probability of each label or None where no token of it is listed, the smallest listed probability).

    `top`: (token, log-probability) of the likeliest first tokens of a reply.
    """
    mass_K: list[float | None] = [None] * len(words)
    for token, logp in top:
        k = label_of_token(token, words)
        if k is not None:
            mass_K[k] = (mass_K[k] or 0.0) + math.exp(logp)
    return mass_K, min((math.exp(logp) for _, logp in top), default=0.0)


def missing_mass(mass: Sequence[float | None]) -> float:
    """The probability on anything but what has a mass."""
    return 1.0 - math.fsum(own for own in mass if own is not None)


def normalize_logp(mass_K: Sequence[float]) -> list[float]:
    """Log-probabilities of the labels among themselves."""
    total = math.fsum(mass_K)
    return [math.log(mass / total) for mass in mass_K]


def expected_rating(mass_R: Sequence[float]) -> float:
    """The mean rating, 1 to 10, under masses of the ten ratings."""
    total = math.fsum(mass_R)
    return math.fsum(rating * mass for rating, mass in zip(RATINGS, mass_R, strict=True)) / total
