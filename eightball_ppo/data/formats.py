"""Data sets whose columns are known: BoolQ (question, passage, answer) and HelpSteer (rated responses to prompts)."""

import logging
from collections.abc import Iterator
from typing import Any

from eightball_ppo.data.sources import Rows
from eightball_ppo.errors import InputError
from eightball_ppo.labels import BOOLQ_LABELS, HELPSTEER_LABELS

logger = logging.getLogger(__name__)

TEXT, PAIR, LABEL = "text", "pair", "label"  # the columns of what `known_rows` yields
LABELS_OF = {"boolq": BOOLQ_LABELS, "helpsteer": HELPSTEER_LABELS}
RATING = "helpfulness"


def known_rows(form: str, rows: Rows, source: str) -> Rows:
    """`rows` of a data set of the form `boolq` or `helpsteer` as rows of text, pair and label.

    BoolQ: the question, its passage, Yes or No. HelpSteer: two responses in a row to one prompt become the prompt, both
    responses, and which of them was rated as more helpful; two that were rated alike teach nothing and are left out.

    Raises:
        InputError: a column is missing, or an answer or a rating is not what the data set documents.
    """
    return _boolq(rows, source) if form == "boolq" else _helpsteer(rows, source)


def _boolq(rows: Rows, source: str) -> Rows:
    for number, row in rows:
        where = f"{source}:{number}"
        answer = _need(row, "answer", where)
        if not isinstance(answer, bool):
            raise InputError(f"{where}: column 'answer' must be true or false, got {answer!r}")
        yield (
            number,
            {
                TEXT: _need(row, "question", where),
                PAIR: _need(row, "passage", where),
                LABEL: BOOLQ_LABELS[not answer],
            },
        )


def _helpsteer(rows: Rows, source: str) -> Iterator[tuple[int, dict[str, Any]]]:
    before: tuple[Any, Any, int] | None = None
    ties = alone = 0
    for number, row in rows:
        where = f"{source}:{number}"
        prompt, response, rating = (_need(row, name, where) for name in ("prompt", "response", RATING))
        if isinstance(rating, bool) or not isinstance(rating, int) or not 0 <= rating <= 4:
            raise InputError(f"{where}: column {RATING!r} must be a whole number from 0 to 4, got {rating!r}")
        if before is None or before[0] != prompt:
            alone += before is not None
            before = (prompt, response, rating)
            continue
        first, best = before[1], before[2]
        before = None
        ties += rating == best
        if rating != best:
            both = f"Response A: {first}\n\nResponse B: {response}"
            yield number, {TEXT: prompt, PAIR: both, LABEL: HELPSTEER_LABELS[best < rating]}
    alone += before is not None
    if ties or alone:
        logger.info("%s: %d ties and %d answers without a second one are left out", source, ties, alone)


def _need(row: dict[str, Any], column: str, where: str) -> Any:
    if column not in row:
        raise InputError(f"{where}: no column {column!r}; the row has {sorted(row)}")
    return row[column]
