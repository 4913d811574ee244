"""Python functions as graders: scores of all labels, TRL's reward functions, and labellers."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Literal

from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import MAX_DETAIL_LENGTH, Grade, Grader, GradeRequest, OnGrade, Scale, batched
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.fingerprint import settings_fingerprint
from eightball_ppo.graders.function_calls import (
    Row,
    as_list,
    as_number,
    call,
    exit_as_error,
    name_of,
    printing_to_stderr,
    reason,
    result_of,
    run_coroutine,
)
from eightball_ppo.graders.function_identity import source_identity
from eightball_ppo.graders.reward_functions import Columns, check_columns, columns_digest, reward_rows
from eightball_ppo.graders.verbalizers import certain_logp
from eightball_ppo.labels import LabelSet

BATCH_SIZE = 64  # texts of one call; (text, label) pairs of a TRL function
Kind = Literal["scores", "trl", "labeller"]


class FunctionGrader(Grader):
    """A function of the user. Text by text the store keeps its grades; an error of the function is a missing grade.

    Args:
        rows: Returns a `Row` for every text of a batch.
        labels: The K labels.
        scale: "raw" or "log_prob".
        settings: As `Grader.settings`.
        batch_size: Texts of a batch.
        columns: A digest of the columns that the function reads.
    """

    deliberate = False

    def __init__(
        self,
        rows: Callable[[list[str]], list[Row]],
        labels: LabelSet,
        scale: Scale,
        settings: dict[str, Any],
        batch_size: int = BATCH_SIZE,
        columns: str | None = None,
    ):
        self._rows, self._batch_size = rows, batch_size
        self.labels, self.scale = labels, scale
        self.settings = {"grader": "python", "labels": list(labels.canonical().names), **settings}
        self.audited_as = settings_fingerprint(self.settings)
        if columns is not None:
            self.settings["columns"] = columns
        self.fingerprint = settings_fingerprint(self.settings)

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        """See `Grader.grade`.

        Raises:
            InputError: The function returned something of the wrong shape or type.
        """
        for batch in batched(budget.allowed(requests), self._batch_size):
            try:
                rows = self._rows([request.question for request in batch])
            except InputError:
                raise
            except Exception as error:  # the user's code can raise anything
                rows = [reason(error)] * len(batch)
            for request, row in zip(batch, rows, strict=True):
                if isinstance(row, str):
                    on_grade(Grade(request, "failed", (), row[:MAX_DETAIL_LENGTH]))
                else:
                    on_grade(Grade.from_scores(request, row))


def kind_of(function: Callable[..., Any]) -> Kind:
    """Which kind of judge a function is, by its signature.

    A parameter `prompts` or `completions`: TRL's reward function. Two positional parameters without a default: scores,
    `f(texts, labels)`. One: a labeller, `f(text)`.

    Raises:
        InputError: None of these.
    """
    name = name_of(function)
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        raise InputError(f"judge {name}: its signature is unknown; wrap it into a function f(texts, labels)") from None
    required = [parameter for parameter in parameters if parameter.default is parameter.empty]
    positional = [p for p in required if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if {"prompts", "completions"} & {parameter.name for parameter in parameters}:
        return "trl"
    if len(positional) in (1, 2) and not any(parameter.kind is parameter.KEYWORD_ONLY for parameter in required):
        return "scores" if len(positional) == 2 else "labeller"
    takes = ", ".join(map(str, parameters))
    kinds = "f(texts, labels), f(text), or TRL's f(prompts, completions, **kwargs)"
    raise InputError(f"judge {name}: takes ({takes}); a judge is {kinds}")


def function_grader(
    functions: Sequence[Callable[..., Any]],
    labels: LabelSet,
    columns: Columns | None = None,
    weights: Sequence[float] | None = None,
) -> FunctionGrader:
    """The grader of one function, or of several of TRL's, whose rewards are summed.

    Args:
        functions: One function of any kind, or TRL reward functions.
        labels: The K labels, in the order in which the function gets them.
        columns: The other columns of each text's row, for TRL's functions.
        weights: Weights of TRL's functions in the sum; by default 1 each.

    Raises:
        InputError: A signature that is no judge's, or a column that a function needs and the data lack.
    """
    function, kind = functions[0], kind_of(functions[0])
    settings: dict[str, Any] = {"kind": kind, "functions": [source_identity(member) for member in functions]}
    if kind == "scores":
        return FunctionGrader(lambda texts: _score_rows(function, texts, labels), labels, "raw", settings)
    if kind == "labeller":
        return FunctionGrader(lambda texts: _label_rows(function, texts, labels), labels, "log_prob", settings)
    weights = list(weights or [1.0] * len(functions))
    columns = columns or {}
    check_columns(functions, columns)
    settings |= {"weights": weights}
    size = max(1, BATCH_SIZE // len(labels))

    def rows(texts: list[str]) -> list[Row]:
        return reward_rows(functions, weights, texts, labels, columns)

    return FunctionGrader(rows, labels, "raw", settings, size, columns_digest(columns))


def _score_rows(function: Callable[..., Any], texts: list[str], labels: LabelSet) -> list[Row]:
    """The rows of `f(texts, labels)`, which returns [N, K] scores as lists, an array or a tensor."""
    name, needed = name_of(function), f"scores [N, K] = [{len(texts)}, {len(labels)}] are needed"
    scores = call(function, list(texts), list(labels.names))  # copies, which the function may change
    if sorted(map(str, getattr(scores, "columns", ()))) == sorted(labels.names):  # a data frame that names its labels
        scores = scores[list(labels.names)]
    rows = as_list(scores, name, needed)
    if len(rows) != len(texts):
        raise InputError(f"judge {name}: returned {len(rows)} rows for {len(texts)} texts; {needed}")
    return [_scores(row, len(labels), name, needed) for row in rows]


def _scores(row: Any, num_labels: int, name: str, needed: str) -> Row:
    if row is None:
        return "the judge returned None"
    values = as_list(row, name, needed)
    if len(values) != num_labels:
        raise InputError(f"judge {name}: returned a row of {len(values)} scores; {needed}")
    return [as_number(value, name) for value in values]


def _label_rows(function: Callable[..., Any], texts: list[str], labels: LabelSet) -> list[Row]:
    """The rows of a labeller: probability 1 - `verbalizers.EPSILON` for its label."""
    with printing_to_stderr():
        answers: list[Any] = []
        for text in texts:
            try:
                with exit_as_error():
                    answers.append(function(text))
            except Exception as error:  # the user's code can raise anything
                answers.append(error)
        if any(map(inspect.isawaitable, answers)):
            answers = run_coroutine(_gather(answers))
    return [_label_row(answer, labels) for answer in answers]


async def _gather(answers: list[Any]) -> list[Any]:
    import asyncio

    return await asyncio.gather(
        *(result_of(answer) if inspect.isawaitable(answer) else _value(answer) for answer in answers),
        return_exceptions=True,
    )


async def _value(value: Any) -> Any:
    return value


def _label_row(answer: Any, labels: LabelSet) -> Row:
    if answer is None:
        return "the judge returned None"
    if isinstance(answer, BaseException):
        return reason(answer)
    text = str(answer)
    exact, folded = ([fold(name) == fold(text) for name in labels.names] for fold in (str, _folded))
    matches = [k for k, same in enumerate(exact if any(exact) else folded) if same]
    if len(matches) != 1:
        return f"the judge returned {text[:60]!r}, which is none of {list(labels.names)}"
    return certain_logp(matches, len(labels))


def _folded(text: str) -> str:
    return text.strip().casefold()
