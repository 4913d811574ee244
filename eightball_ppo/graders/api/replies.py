"""What a judge's reply says: pure functions from text or log-probabilities to a label, a distribution or a rating.

Strict: a reply that is not exactly what was requested is no grade; `BadReplyError` says why, and if it is a refusal.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from eightball_ppo.graders import verbalizers
from eightball_ppo.graders.base import MAX_DETAIL_LENGTH, Status
from eightball_ppo.graders.verbalizers import MAX_AMBIGUOUS_MASS, MIN_MASS, RATINGS, Verbalizers, normalize_word

TopTokens = Sequence[tuple[str, float]]  # the likeliest tokens at a position, and their log-probabilities

_REFUSALS = re.compile(
    r"\b(i('m| am) (sorry|unable|not able)|i (can('|no)t|can not|won't|will not|must decline)|as an ai\b|"
    r"i('d| would) rather not|(cannot|can't) (help|assist|answer|comply))",
    re.IGNORECASE,
)
_LEAD_IN = re.compile(r"^\W*((the|my) )?(answer|rating)\b( is\b)?(\s*:)?\s*(?=\S)", re.IGNORECASE)


class BadReplyError(Exception):
    """A reply that is no grade; `status` is "refused" if the judge declined, else "failed"."""

    def __init__(self, reason: str, status: Status = "failed"):
        super().__init__(reason[:MAX_DETAIL_LENGTH])
        self.status = status


def looks_refused(text: str) -> bool:
    """Whether a reply contains the usual words of a refusal."""
    return _REFUSALS.search(text.replace("\u2019", "'")) is not None


def _bad_reply(text: str, reason: str) -> BadReplyError:
    return BadReplyError(reason, "refused" if looks_refused(text) else "failed")


def label_of_text(text: str, words: Verbalizers) -> int:
    """The label id that a reply names.

    Case, quotes, a final full stop and a lead-in such as "The answer is" do not matter; anything else does.

    Raises:
        BadReplyError: The reply names no label.
    """
    for candidate in (normalize_word(text), normalize_word(_LEAD_IN.sub("", text))):
        for k, label_words in enumerate(words):
            if candidate in map(normalize_word, label_words):
                return k
    raise _bad_reply(text, f"reply {text[:80]!r} is not one of the labels alone")


def rating_of_text(text: str) -> int:
    """The whole number from 1 to 10 that is all of a reply; also `7/10` and "Rating: 7".

    Raises:
        BadReplyError: The reply is no rating.
    """
    match = re.fullmatch(r"(10|[1-9])(\s*/\s*10)?", normalize_word(_LEAD_IN.sub("", text)), flags=re.ASCII)
    if match is None:
        raise _bad_reply(text, f"reply {text[:80]!r} is not a whole number from 1 to 10 alone")
    return int(match[1])


def json_value(text: str, key: str) -> Any:
    """The value of `key`, the only one, in a reply that is one JSON object.

    Raises:
        BadReplyError: The reply is anything else.
    """
    try:
        content = json.loads(text, object_pairs_hook=tuple)  # not dict, which hides a duplicate key
    except (ValueError, RecursionError):
        raise _bad_reply(text, f"reply {text[:80]!r} is not JSON") from None
    if not isinstance(content, tuple) or [name for name, _ in content] != [key]:
        raise _bad_reply(text, f"reply {text[:80]!r} is not a JSON object with {key!r} alone")
    return content[0][1]


def check_logps(top: TopTokens) -> TopTokens:
    """Returns `top`, checked.

    Raises:
        BadReplyError: No token, or a log-probability that is NaN, infinite or above 0.
    """
    for token, logp in top:
        if not math.isfinite(logp) or logp > 1e-3:
            raise BadReplyError(f"log-probability {logp} of token {token[:20]!r} is none")
    if not top:
        raise BadReplyError("no log-probabilities in the reply")
    return top


def logp_of_tokens(top: TopTokens, words: Verbalizers, text: str = "") -> list[float]:
    """Log-probabilities of the labels, normalized over the labels, from those of a reply's first token.

    A label without a listed token gets the smallest listed probability, or what the listed tokens leave over if that is
    less: the most that it can have.

    Args:
        top: The likeliest first tokens.
        words: The words of the K labels.
        text: The reply, to recognize a refusal.

    Returns:
        K log-probabilities in nats.

    Raises:
        BadReplyError: An invalid log-probability, more than half of the probability on anything but the labels, or more
            than a twentieth on tokens that begin several labels.
    """
    mass_K, smallest = verbalizers.label_masses(check_logps(top), words)
    if (ambiguous := verbalizers.ambiguous_mass(top, words)) > MAX_AMBIGUOUS_MASS:
        raise BadReplyError(
            f"{ambiguous:.2f} of the probability is on tokens that begin several labels; give them words with "
            "different beginnings (--grader_verbalizers) or pass --api_mode schema"
        )
    _check_mass(mass_K, "the labels", text)
    left = max(1.0 - math.fsum(math.exp(logp) for _, logp in top), MIN_MASS)
    unlisted = max(min(smallest, left), MIN_MASS)
    return verbalizers.normalize_logp([max(mass, MIN_MASS) if mass is not None else unlisted for mass in mass_K])


def rating_masses(positions: Sequence[TopTokens], text: str = "") -> list[float]:
    """The probability of each of the ten ratings, from the log-probabilities of a reply's first two tokens.

    If "10" is two tokens, the second position splits the mass of a first "1" between 1 and 10; if that is unknown, the
    mass counts for no rating.

    Args:
        positions: The likeliest tokens at each position.
        text: The reply, to see whether its first token is a 1.

    Raises:
        BadReplyError: An invalid log-probability.
    """
    mass_R = [0.0] * len(RATINGS)
    first = check_logps(positions[0] if positions else ())
    for token, logp in first:
        if token.strip() in map(str, RATINGS):
            mass_R[int(token.strip()) - 1] += math.exp(logp)
    if len(positions) > 1 and next(filter(str.isalnum, text), "") == "1":
        zero = min(math.fsum(math.exp(logp) for token, logp in check_logps(positions[1]) if token == "0"), 1.0)
        mass_R[9] += mass_R[0] * zero
        mass_R[0] *= 1.0 - zero
    elif not any(token.strip() == "10" for token, _ in first) and normalize_word(text) != "1":
        mass_R[0] = 0.0
    return mass_R


def rating_of_tokens(positions: Sequence[TopTokens], text: str = "") -> float:
    """The expected rating, 1 to 10, under `rating_masses`.

    Raises:
        BadReplyError: An invalid log-probability, or more than half of the probability on anything but ratings.
    """
    mass_R = rating_masses(positions, text)
    _check_mass(mass_R, "1 to 10", text)
    return verbalizers.expected_rating(mass_R)


def _check_mass(masses: Sequence[float | None], expected: str, text: str) -> None:
    """Raises BadReplyError if more than half of the probability is on anything but what was requested."""
    missing = verbalizers.missing_mass(masses)
    if missing > verbalizers.MAX_MISSING_MASS:
        reason = f"{missing:.2f} of the probability is on other than {expected}; the reply is {text[:60]!r}"
        raise _bad_reply(text, reason)


def logp_of_counts(label_S: Sequence[int], num_labels: int) -> list[float]:
    """Log-frequencies of K labels among S samples, with add-one (Laplace) smoothing."""
    return [math.log((label_S.count(k) + 1) / (len(label_S) + num_labels)) for k in range(num_labels)]
