"""Data sets with known columns: BoolQ (question, passage, answer) and HelpSteer (rated responses to prompts)."""

import logging
from collections.abc import Sequence
from typing import Any

from eightball_ppo.data.sources import Rows, column_value
from eightball_ppo.errors import InputError
from eightball_ppo.labels import BOOLQ_LABELS, HELPSTEER_LABELS

logger = logging.getLogger(__name__)

TEXT, PAIR, LABEL = "text", "pair", "label"  # the columns of what `convert_rows` yields
FORMAT_LABELS = {"boolq": BOOLQ_LABELS, "helpsteer": HELPSTEER_LABELS}


def convert_rows(dataset_format: str, rows: Rows, source: str) -> Rows:
    """Converts rows of a known data set to rows of text, pair and label.

    BoolQ gives the question, its passage, and Yes or No. HelpSteer has two responses in a row to each prompt: they give
    the prompt, both responses, and the label of the more helpful one. Ties are left out.

    Args:
        dataset_format: `boolq` or `helpsteer`.
        rows: (row number, row) pairs.
        source: name of the data set, for messages.

    Raises:
        InputError: A column is missing, or an answer or a rating is not what the data set documents.
    """
    return _boolq(rows, source) if dataset_format == "boolq" else _helpsteer(rows, source)


def _boolq(rows: Rows, source: str) -> Rows:
    for number, row in rows:
        where = f"{source}:{number}"
        try:
            question, passage, answer = _values(row, ("question", "passage", "answer"), where)
        except InputError as problem:
            yield number, problem
            continue
        if isinstance(answer, bool):
            yield number, {TEXT: question, PAIR: passage, LABEL: BOOLQ_LABELS[not answer]}
        else:
            yield number, InputError(f"{where}: column 'answer' must be true or false, got {answer!r}")


def _values(row: dict[str, Any] | InputError, names: Sequence[str], where: str) -> list[Any]:
    if isinstance(row, InputError):
        raise row
    return [column_value(row, name, where) for name in names]


def _helpsteer(rows: Rows, source: str) -> Rows:
    pending: tuple[Any, Any, int] | None = None  # prompt, response, rating that wait for a second response
    ties = unpaired = 0
    for number, row in rows:
        where = f"{source}:{number}"
        try:
            prompt, response, rating = _values(row, ("prompt", "response", "helpfulness"), where)
            if isinstance(rating, bool) or not isinstance(rating, int) or not 0 <= rating <= 4:
                raise InputError(f"{where}: column 'helpfulness' must be a whole number from 0 to 4, got {rating!r}")
        except InputError as problem:
            yield number, problem
            continue
        first, pending = pending, None
        if first is None or first[0] != prompt:
            unpaired += first is not None
            pending = prompt, response, rating
        elif rating == first[2]:
            ties += 1
        else:
            both = f"Response A: {first[1]}\n\nResponse B: {response}"
            yield number, {TEXT: prompt, PAIR: both, LABEL: HELPSTEER_LABELS[first[2] < rating]}
    unpaired += pending is not None
    if ties or unpaired:
        logger.info("%s: %d ties and %d unpaired answers are left out", source, ties, unpaired)
