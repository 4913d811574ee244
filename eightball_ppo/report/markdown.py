"""Escapes values for Markdown: whatever a value holds is shown as text, never rendered as markup."""

import re
from typing import Any

from markupsafe import Markup


def escaped(value: Any) -> Markup:
    """`value` as one line without a meaning in Markdown, HTML or GitHub's mathematics, also in a table's cell."""
    if isinstance(value, Markup):
        return value
    parts = re.split(r"(\b\w+@\d(?:\.?\d)*)", " ".join(str(value).split()))  # distill@0.99, which would be an address
    return Markup("".join(code(part) if place % 2 else _plain(part) for place, part in enumerate(parts)))


def _plain(text: str) -> str:
    text = re.sub(r"([\\`*\[\]|~])", r"\\\1", text)
    text = re.sub(r"(?<![^\W_])_|_(?![^\W_])", r"\\_", text)
    text = re.sub(r"^([#+=-])(?!\d)", r"\\\1", text)
    text = re.sub(r"^(\d+)([.)])(?!\d)", r"\1\\\2", text)
    text = text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    text = re.sub(r"([$@])", r"<span>\1</span>", text)
    return text.replace("://", "&#58;//").replace("www.", "www&#46;")


def code(value: str) -> Markup:
    """A code span, also for a table's cell; its backticks outnumber those inside."""
    text = " ".join(str(value).split()).replace("|", r"\|")
    ticks = "`" * (max(map(len, re.findall("`+", text)), default=0) + 1)
    space = " " if "`" in text else ""
    return Markup(f"{ticks}{space}{text}{space}{ticks}")


def fenced(value: str, language: str) -> Markup:
    """A fenced code block; its fences outnumber the backticks inside."""
    ticks = "`" * max(3, max(map(len, re.findall("`+", value)), default=0) + 1)
    return Markup(f"{ticks}{language}\n{value.rstrip()}\n{ticks}")
