"""Text pairs, such as a question and a passage: everywhere one string, both texts joined by a separator."""

from collections.abc import Sequence

SEPARATOR = "\x1f"  # ASCII's unit separator; data that contain it are refused


def join_pair(text: str, pair: str) -> str:
    """Joins two texts to one string; neither may contain the separator."""
    return f"{text}{SEPARATOR}{pair}"


def split_pair(question: str) -> tuple[str, str | None]:
    """Returns (first text, second text), or (text, None) for a question of one text."""
    text, separator, pair = question.partition(SEPARATOR)
    return text, pair if separator else None


def display_text(question: str) -> str:
    """The question as people and judges read it: a blank line between its two texts."""
    return question.replace(SEPARATOR, "\n\n")


def columns(questions: Sequence[str]) -> dict[str, list[str]]:
    """The column `question` of a table and, if a question has a second text, `text_pair` ("" for those without)."""
    both = [split_pair(question) for question in questions]
    table = {"question": [text for text, _ in both]}
    if any(pair is not None for _, pair in both):
        table["text_pair"] = [pair or "" for _, pair in both]
    return table
