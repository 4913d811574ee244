"""A question that consists of two texts, such as a question and a passage, is one string everywhere: both, joined."""

SEPARATOR = "\x1f"  # ASCII's unit separator, which no text holds


def join_pair(text: str, pair: str) -> str:
    """One string of two texts; neither may hold the separator."""
    return f"{text}{SEPARATOR}{pair}"


def split_pair(question: str) -> tuple[str, str | None]:
    """(first text, second text), or (text, None) of a question of one text."""
    text, separator, pair = question.partition(SEPARATOR)
    return text, pair if separator else None


def shown(question: str) -> str:
    """A question as people and judges read it: two texts with a blank line between them."""
    return question.replace(SEPARATOR, "\n\n")
