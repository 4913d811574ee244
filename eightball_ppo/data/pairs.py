"""A question that consists of two texts, such as a question and a passage, is one string everywhere: both, joined."""

from collections.abc import Sequence

SEPARATOR = "\x1f"  # ASCII's unit separator, which no text holds


def join_pair(text: str, pair: str) -> str:
    """One string of two texts; neither may hold the separator."""
    return f"{text}{SEPARATOR}{pair}"


def split_pair(question: str) -> tuple[str, str | None]:
    """(first text, second text), or (text, None) of a question of one text."""
    text, separator, pair = question.partition(SEPARATOR)
    return text, pair if separator else None


def display_text(question: str) -> str:
    """A question as people and judges read it: two texts with a blank line between them."""
    return question.replace(SEPARATOR, "\n\n")


def columns(questions: Sequence[str]) -> dict[str, list[str]]:
    """The column `question` of a table, and beside it `text_pair` where questions have a second text ("" without)."""
    both = [split_pair(question) for question in questions]
    firsts = [text for text, _ in both]
    if all(pair is None for _, pair in both):
        return {"question": firsts}
    return {"question": firsts, "text_pair": [pair or "" for _, pair in both]}
