"""The ways in which a server can be asked for a grade: what is sent, and what its answer says.

A sampling mode gets one verdict of each reply (a label's position, or a rating), and the grade is made of several; the
others read the whole distribution from one reply.
"""

import statistics
from collections.abc import Sequence
from typing import Any, NamedTuple

from eightball_ppo.graders.api.replies import (
    BadReplyError,
    TopTokens,
    json_value,
    label_of_text,
    logp_of_counts,
    logp_of_tokens,
    rating_masses,
    rating_of_text,
    rating_of_tokens,
)
from eightball_ppo.graders.base import GradeRequest
from eightball_ppo.graders.prompts import Messages, Prompt
from eightball_ppo.graders.verbalizers import MIN_MASS, RATINGS, Verbalizers, label_masses, missing_mass, normalize_logp
from eightball_ppo.labels import LabelSet

TOP_LOGPROBS = 20  # the most that the OpenAI protocol allows
SHORT_REPLY_TOKENS = 3  # tokens: a quote, and the two of a 10
MAX_REPLY_TOKENS = 16  # tokens of a reply in words


class JudgeTask(NamedTuple):
    """What every mode needs to know of the task."""

    prompt: Prompt
    labels: LabelSet
    words: Verbalizers


def choices_of(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of a chat completion.

    Raises:
        BadReplyError: there are none.
    """
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        raise BadReplyError("no choices in the reply")
    return choices


def text_of(choice: dict[str, Any]) -> str:
    """The words of one choice.

    Raises:
        BadReplyError: there are none; refused, where the server says so.
    """
    message = choice.get("message")
    if not isinstance(message, dict):
        raise BadReplyError("no message in the reply")
    if refusal := message.get("refusal"):
        raise BadReplyError(f"refusal: {str(refusal)[:80]!r}", "refused")
    if choice.get("finish_reason") == "content_filter":
        raise BadReplyError("stopped by the server's content filter", "refused")
    content = message.get("content")
    if not isinstance(content, str):
        raise BadReplyError(f"content {str(content)[:40]} in the reply")
    return content


def positions_of(choice: dict[str, Any]) -> list[TopTokens]:
    """The likeliest tokens and their log-probabilities at every position of one choice; [] where the server gives none.

    Positions in front at which the reply has a quote or a space alone are left out: the label comes after them.

    Raises:
        BadReplyError: they are malformed.
    """
    logprobs = choice.get("logprobs")
    content = logprobs.get("content") if isinstance(logprobs, dict) else None
    if not content:
        return []
    try:
        while len(content) > 1 and not any(map(str.isalnum, content[0]["token"])):
            content = content[1:]
        return [[_token(entry) for entry in position["top_logprobs"]] for position in content]
    except (KeyError, TypeError, ValueError, OverflowError):
        raise BadReplyError("malformed log-probabilities in the reply") from None


def _token(entry: dict[str, Any]) -> tuple[str, float]:
    token, logprob = entry["token"], entry["logprob"]
    if not isinstance(token, str) or isinstance(logprob, bool) or not isinstance(logprob, int | float):
        raise TypeError
    return token, float(logprob)


def request_of(
    mode: "Mode", judged: JudgeTask, request: GradeRequest, model: str | None, temperature: float
) -> dict[str, Any]:
    """The body of a call: the prompt of `request`, in the shape that the mode's path takes."""
    messages = judged.prompt.render(request.question, judged.labels, request.label)
    body = {"model": model, **mode.body(judged, messages, request)}
    if isinstance(mode, ChoiceMode):
        return body
    chat = [{"role": "system", "content": messages.system}, {"role": "user", "content": messages.user}]
    return {**body, "messages": chat, "temperature": temperature}


class LogprobsMode:
    """The log-probabilities of the reply's first word (for ratings, of its first two tokens)."""

    name, path = "logprobs", "/chat/completions"

    def body(self, judged: JudgeTask, messages: Messages, request: GradeRequest) -> dict[str, Any]:
        return {"logprobs": True, "top_logprobs": TOP_LOGPROBS, "max_tokens": SHORT_REPLY_TOKENS}

    def scores(self, judged: JudgeTask, reply: dict[str, Any], request: GradeRequest) -> list[float]:
        choice = choices_of(reply)[0]
        positions = positions_of(choice)
        text = text_of(choice)
        if not positions:
            raise BadReplyError("no log-probabilities in the reply; pass --api_mode schema or text")
        if request.label is None:
            return logp_of_tokens(positions[0], judged.words, text)
        return [rating_of_tokens(positions, text)]

    def missing(self, judged: JudgeTask, reply: dict[str, Any], request: GradeRequest) -> float:
        """The probability on other than the labels, or the ratings, of a reply that is a grade."""
        choice = choices_of(reply)[0]
        positions = positions_of(choice)
        if request.label is None:
            return missing_mass(label_masses(positions[0], judged.words)[0])
        return missing_mass(rating_masses(positions, text_of(choice)))


class SchemaMode:
    """Structured output: a JSON object with one property, constrained by a schema."""

    name, path = "schema", "/chat/completions"

    def body(self, judged: JudgeTask, messages: Messages, request: GradeRequest) -> dict[str, Any]:
        key, value = self._property(judged, request)
        schema = {"type": "object", "properties": {key: value}, "required": [key], "additionalProperties": False}
        wanted = {"name": key, "strict": True, "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": wanted}, "max_tokens": 2 * MAX_REPLY_TOKENS}

    def _property(self, judged: JudgeTask, request: GradeRequest) -> tuple[str, dict[str, Any]]:
        if request.label is None:
            return "answer", {"type": "string", "enum": list(judged.labels.names)}
        return "rating", {"type": "integer", "minimum": RATINGS[0], "maximum": RATINGS[-1]}

    def verdict(self, judged: JudgeTask, choice: dict[str, Any], request: GradeRequest) -> int:
        key, _ = self._property(judged, request)
        value = json_value(text_of(choice), key)
        known: Sequence[Any] = judged.labels.names if request.label is None else RATINGS
        if isinstance(value, bool) or value not in known:
            raise BadReplyError(f"{key} {str(value)[:60]!r} is none of {list(known)}")
        return judged.labels.id_of(value) if request.label is None else int(value)


class TextMode:
    """Words: the reply must be the label, or the number, and nothing else."""

    name, path = "text", "/chat/completions"

    def body(self, judged: JudgeTask, messages: Messages, request: GradeRequest) -> dict[str, Any]:
        return {"max_tokens": MAX_REPLY_TOKENS}

    def verdict(self, judged: JudgeTask, choice: dict[str, Any], request: GradeRequest) -> int:
        text = text_of(choice)
        return label_of_text(text, judged.words) if request.label is None else rating_of_text(text)


class ChoiceMode:
    """`/systemone` of `transformers serve`: a typed question, answered with a probability for every option."""

    name, path = "choice", "/systemone"
    _KEY = "answer"

    def body(self, judged: JudgeTask, messages: Messages, request: GradeRequest) -> dict[str, Any]:
        options = judged.labels.names if request.label is None else tuple(map(str, RATINGS))
        question = {"type": "choice", "instructions": messages.system, "criteria": {name: name for name in options}}
        return {"state": {"question": messages.user}, "questions": {self._KEY: question}}

    def scores(self, judged: JudgeTask, reply: dict[str, Any], request: GradeRequest) -> list[float]:
        options = list(judged.labels.names) if request.label is None else list(map(str, RATINGS))
        answers = reply.get("answers")
        answer = answers.get(self._KEY) if isinstance(answers, dict) else None
        probabilities = answer.get("probabilities") if isinstance(answer, dict) else None
        if not isinstance(probabilities, dict) or set(probabilities) != set(options):
            raise BadReplyError(f"no probabilities of {options} in the reply")
        mass = [probabilities[name] for name in options]
        if not all(isinstance(p, int | float) and not isinstance(p, bool) and 0 <= p <= 1.001 for p in mass):
            raise BadReplyError(f"probabilities {mass} are none")
        if abs(sum(mass) - 1) > 0.05:
            raise BadReplyError(f"probabilities {mass} do not sum to 1")
        if request.label is not None:
            return [sum(rating * p for rating, p in zip(RATINGS, mass, strict=True)) / sum(mass)]
        return normalize_logp([max(p, MIN_MASS) for p in mass])

    def missing(self, judged: JudgeTask, reply: dict[str, Any], request: GradeRequest) -> float:
        """0: the server has renormalised."""
        return 0.0


SAMPLING = (SchemaMode, TextMode)
Mode = LogprobsMode | SchemaMode | TextMode | ChoiceMode
MODES: dict[str, Mode] = {mode.name: mode for mode in (LogprobsMode(), SchemaMode(), TextMode(), ChoiceMode())}


def scores_of_verdicts(verdicts: Sequence[int], judged: JudgeTask, request: GradeRequest) -> list[float]:
    """The grade that several samples make: smoothed log-frequencies of the labels, or the mean rating."""
    if request.label is None:
        return logp_of_counts(verdicts, len(judged.labels))
    return [statistics.fmean(verdicts)]
