"""Ratings of single people: the class of a text, what one rating votes for, and which raters are drawn.

Letters: R ratings of a text, M raters of a panel.
"""

import hashlib
from collections.abc import Sequence

SENTIMENTS = ("negative", "neutral", "positive")
MAX_RATING = 4  # -4: extremely negative; 4: extremely positive
THRESHOLD = 0.5


def sentiment(ratings: Sequence[int]) -> int:
    """The class of a text, an index of `SENTIMENTS`: mean rating at most -0.5, between, at least 0.5."""
    mean = sum(ratings) / len(ratings)
    return (mean > -THRESHOLD) + (mean >= THRESHOLD)


def vote(rating: int) -> int:
    """The class that one rating votes for, an index of `SENTIMENTS`: its sign."""
    return (rating >= 0) + (rating > 0)


def raters_in_order(text: str, num_raters: int, seed: int) -> list[int]:
    """The raters of a text in a random order that depends on the text and the seed alone; a panel has the first M."""

    def rank(rater: int) -> bytes:
        return hashlib.sha256(f"{seed}:{rater}:{text}".encode()).digest()

    return sorted(range(num_raters), key=rank)
