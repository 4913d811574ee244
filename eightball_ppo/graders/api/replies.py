"""What a judge's reply says: pure functions from text or log-probabilities to a label, a distribution or a rating.

Strict: a reply that is not exactly what was asked for is no grade. `BadReplyError` says why, and if it is a refusal.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from eightball_ppo.graders.base import MAX_DETAIL_LENGTH, Status
from eightball_ppo.graders.verbalizers import (
    MAX_AMBIGUOUS_MASS,
    MAX_MISSING_MASS,
    MIN_MASS,
    RATINGS,
    Verbalizers,
    ambiguous_mass,
    expected_rating,
    label_masses,
    missing_mass,
    normalize_logp,
    normalize_word,
)

TopTokens = Sequence[tuple[str, float]]

_REFUSALS = re.compile(
    r"\b(i('m| am) (sorry|unable|not able)|i (can('|no)t|can not|won't|will not|must decline)|as an ai\b|"
    r"i('d| would) rather not|(cannot|can't) (help|assist|answer|comply))",
    re.IGNORECASE,
)


_LEAD_IN = re.compile(r"^\W*((the|my) )?(answer|rating)\b( is\b)?(\s*:)?\s*(?=\S)", re.IGNORECASE)


class BadReplyError(Exception):
    """A reply that is no grade; `status` is "refused" where the judge declined, else "failed"."""

    def __init__(self, why: str, status: Status = "failed"):
        super().__init__(why[:MAX_DETAIL_LENGTH])
        self.status = status


class _Pairs(list[tuple[str, Any]]):
    """A JSON object as it was written: a name may stand twice."""


def looks_refused(text: str) -> bool:
    """True for the usual words of declining."""
    return _REFUSALS.search(text.replace("\u2019", "'")) is not None


def _bad_text(text: str, wanted: str) -> BadReplyError:
    status: Status = "refused" if looks_refused(text) else "failed"
    return BadReplyError(f"reply {text[:80]!r} is not {wanted}", status)


def label_of_text(text: str, words: Verbalizers) -> int:
    """The label that the whole reply names, whatever its case and the quotes or full stop around it, and with nothing
    in front of it but "Answer:" or "The answer is".

    Raises:
        BadReplyError: it names none.
    """
    for said in (normalize_word(text), normalize_word(_LEAD_IN.sub("", text))):
        for k, own in enumerate(words):
            if any(normalize_word(word) == said for word in own):
                return k
    raise _bad_text(text, "one of the labels alone")


def rating_of_text(text: str) -> int:
    """The whole number from 1 to 10 that is all of the reply, also as `7/10` and behind "Rating:".

    Raises:
        BadReplyError: it is none.
    """
    match = re.fullmatch(r"(10|[1-9])(\s*/\s*10)?", normalize_word(_LEAD_IN.sub("", text)), flags=re.ASCII)
    if match is None:
        raise _bad_text(text, "a whole number from 1 to 10 alone")
    return int(match[1])


def json_value(text: str, key: str) -> Any:
    """The value of `key`, which must be the only one, in a reply that is one JSON object.

    Raises:
        BadReplyError: it is none.
    """
    try:
        content = json.loads(text, object_pairs_hook=lambda pairs: _Pairs(pairs))
    except (ValueError, RecursionError):
        raise _bad_text(text, "JSON") from None
    if not isinstance(content, _Pairs) or [name for name, _ in content] != [key]:
        raise _bad_text(text, f"a JSON object with {key!r} alone")
    return content[0][1]


def checked_logps(top: TopTokens) -> TopTokens:
    """`top` if every entry is a token with a log-probability.

    Raises:
        BadReplyError: one is not, e.g. NaN or above 0.
    """
    for token, logp in top:
        if not math.isfinite(logp) or logp > 1e-3:
            raise BadReplyError(f"log-probability {logp} of token {token[:20]!r} is none")
    if not top:
        raise BadReplyError("no log-probabilities in the reply")
    return top


def logp_of_tokens(top: TopTokens, words: Verbalizers, text: str = "") -> list[float]:
    """Log-probabilities of the K labels among themselves, of those of the reply's first token.

    A label of which no token is listed gets the smallest listed probability, or what the listed ones leave over if that
    is less: as much as it can have. `text` is the reply, to tell a refusal.

    Raises:
        BadReplyError: a log-probability that is none, more than half of the probability on other than the labels, or
            more than a twentieth on tokens that begin several of them.
    """
    mass_K, smallest = label_masses(checked_logps(top), words)
    if (ambiguous := ambiguous_mass(top, words)) > MAX_AMBIGUOUS_MASS:
        raise BadReplyError(
            f"{ambiguous:.2f} of the probability is on tokens that begin several labels; give them words with "
            "beginnings of their own (--grader_verbalizers) or ask by --api_mode schema"
        )
    _require_mass(mass_K, "the labels", text)
    left = max(1.0 - math.fsum(math.exp(logp) for _, logp in top), MIN_MASS)
    unlisted = max(min(smallest, left), MIN_MASS)
    return normalize_logp([max(mass, MIN_MASS) if mass is not None else unlisted for mass in mass_K])


def rating_masses(positions: Sequence[TopTokens], text: str = "") -> list[float]:
    """The probability of each of the ten ratings, of the log-probabilities of the reply's first tokens.

    Where "10" is two tokens, the second position says how much of the mass on a first "1" is a 10; where neither is
    known, that mass is on no rating.

    Raises:
        BadReplyError: a log-probability that is none.
    """
    mass_R = [0.0] * len(RATINGS)
    first = checked_logps(positions[0] if positions else ())
    for token, logp in first:
        if token.strip() in map(str, RATINGS):
            mass_R[int(token.strip()) - 1] += math.exp(logp)
    if len(positions) > 1 and next(filter(str.isalnum, text), "") == "1":
        zero = math.fsum(math.exp(logp) for token, logp in checked_logps(positions[1]) if token == "0")
        mass_R[9] += mass_R[0] * min(zero, 1.0)
        mass_R[0] *= 1.0 - min(zero, 1.0)
    elif not any(token.strip() == "10" for token, _ in first) and normalize_word(text) != "1":
        mass_R[0] = 0.0
    return mass_R


def rating_of_tokens(positions: Sequence[TopTokens], text: str = "") -> float:
    """The expected rating, 1 to 10, under `rating_masses`.

    Raises:
        BadReplyError: a log-probability that is none, or more than half of the probability on other than ratings.
    """
    mass_R = rating_masses(positions, text)
    _require_mass(mass_R, "1 to 10", text)
    return expected_rating(mass_R)


def _require_mass(mass: Sequence[float | None], wanted: str, text: str) -> None:
    """Raises BadReplyError if more than half of the probability is on other than what was asked for."""
    missing = missing_mass(mass)
    if missing > MAX_MISSING_MASS:
        status: Status = "refused" if looks_refused(text) else "failed"
        raise BadReplyError(
            f"{missing:.2f} of the probability is on other than {wanted}; the reply is {text[:60]!r}", status
        )


def logp_of_counts(label_S: Sequence[int], num_labels: int) -> list[float]:
    """Log-frequencies of the K labels among S samples with Laplace's one more each."""
    return [math.log((label_S.count(k) + 1) / (len(label_S) + num_labels)) for k in range(num_labels)]
