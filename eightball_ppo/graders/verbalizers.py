"""Verbalizers: the words of a judge's reply that count as a label, and label probabilities from those of the words."""

import math
from collections.abc import Sequence

from eightball_ppo.errors import InputError
from eightball_ppo.labels import LabelSet

Verbalizers = tuple[tuple[str, ...], ...]  # K tuples of words, in the order of the labels

MAX_MISSING_MASS = 0.5  # probability on anything but the labels above which there is no grade
MAX_AMBIGUOUS_MASS = 0.05  # probability on tokens that begin several labels above which there is no grade
MIN_MASS = 1e-9  # of a label, so that its logarithm is finite
RATINGS = tuple(range(1, 11))
EPSILON = 0.001  # what a judge that gives one label, and would give it again, leaves for the others together
_QUOTES = " \t\r\n\"'`*_"


def normalize_word(text: str) -> str:
    """Strips quotes, emphasis and final punctuation and folds case: "**Yes**." becomes "yes"."""
    return text.lstrip(_QUOTES).rstrip(_QUOTES + ".!:").casefold()


def parse_verbalizers(entries: Sequence[str], labels: LabelSet) -> Verbalizers:
    """Parses entries `LABEL=word|word`; a label without an entry is its own word.

    Raises:
        InputError: A malformed entry, an unknown label, or a word of two labels.
    """
    words_of: dict[str, tuple[str, ...]] = {name: (name,) for name in labels.names}
    for entry in entries:
        name, equals, right = entry.partition("=")
        words = tuple(word.strip() for word in right.split("|"))
        if not equals or name not in labels.names or not all(words):
            needed = f"LABEL=word|word is needed, with a label of {list(labels.names)}"
            raise InputError(f"--grader_verbalizers {entry}: {needed}")
        words_of[name] = words
    label_of: dict[str, str] = {}
    for name, word in ((name, word) for name, words in words_of.items() for word in words):
        if not normalize_word(word):
            raise InputError(f"--grader_verbalizers: {word!r} is no word; give {name!r} one, e.g. {name}=WORD")
        other = label_of.setdefault(normalize_word(word), name)
        if other != name:
            raise InputError(f"--grader_verbalizers: {word!r} stands for {other!r} and for {name!r}; use other words")
    return tuple(words_of[name] for name in labels.names)


def word_variants(word: str) -> list[str]:
    """Spellings that a judge may use: four cases, with and without a space in front; no duplicates."""
    cases = (word, word.lower(), word.upper(), word.capitalize())
    return list(dict.fromkeys(space + case for case in cases for space in ("", " ")))


def labels_of_token(token: str, words: Verbalizers) -> list[int]:
    """Label ids that the first token of a reply may begin; only the exact match if the token is a complete word."""
    text = token.strip().lstrip("\"'*`([").casefold()
    if not text:
        return []
    folded = [[word.casefold() for word in label_words] for label_words in words]
    exact = [k for k, label_words in enumerate(folded) if text in label_words]
    return exact or [k for k, label_words in enumerate(folded) if any(w.startswith(text) for w in label_words)]


def ambiguous_mass(top: Sequence[tuple[str, float]], words: Verbalizers) -> float:
    """Probability of the first tokens that begin several labels."""
    return math.fsum(math.exp(logp) for token, logp in top if len(labels_of_token(token, words)) > 1)


def share_first_word(words: Verbalizers) -> bool:
    """Whether words of two labels begin with the same word, so that a reply's first token cannot tell them apart."""
    first = [{word.split()[0].casefold() for word in label_words} for label_words in words]
    return any(a & b for i, a in enumerate(first) for b in first[:i])


def label_masses(top: Sequence[tuple[str, float]], words: Verbalizers) -> tuple[list[float | None], float]:
    """Sums the probabilities of each label's tokens.

    Args:
        top: (token, log-probability) of the likeliest first tokens of a reply.
        words: The words of the K labels.

    Returns:
        K probabilities, None for a label without a listed token; and the smallest listed probability.
    """
    mass_K: list[float | None] = [None] * len(words)
    for token, logp in top:
        match labels_of_token(token, words):
            case [k]:
                mass_K[k] = (mass_K[k] or 0.0) + math.exp(logp)
    return mass_K, min((math.exp(logp) for _, logp in top), default=0.0)


def missing_mass(masses: Sequence[float | None]) -> float:
    """Probability on anything but what has a mass."""
    return 1.0 - math.fsum(mass for mass in masses if mass is not None)


def normalize_logp(mass_K: Sequence[float]) -> list[float]:
    """Log-probabilities of the labels, normalized over the labels."""
    total = math.fsum(mass_K)
    return [math.log(mass / total) for mass in mass_K]


def log_softmax(values_K: Sequence[float]) -> list[float]:
    """Log-softmax of K numbers."""
    highest = max(values_K)
    return normalize_logp([math.exp(value - highest) for value in values_K])


def certain_logp(label_S: Sequence[int], num_labels: int) -> list[float]:
    """Log-probabilities of K labels from the labels that a deterministic judge gave: 1 - `EPSILON` for a single one."""
    shares = [label_S.count(k) / len(label_S) for k in range(num_labels)]
    return [math.log((1 - EPSILON) * share + EPSILON / (num_labels - 1) * (1 - share)) for share in shares]


def expected_rating(mass_R: Sequence[float]) -> float:
    """Mean rating, 1 to 10, under the masses of the ten ratings."""
    return math.fsum(rating * mass for rating, mass in zip(RATINGS, mass_R, strict=True)) / math.fsum(mass_R)
