"""The ways to request a grade from a server: the request's body, and how its reply is read.

Schema and text are sampling modes: each reply is one verdict (a label id or a rating), and several make a grade. The
other modes read the complete distribution from one reply.
"""

import statistics
from collections.abc import Sequence
from typing import Any, ClassVar, NamedTuple

from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.graders import verbalizers
from eightball_ppo.graders.api import replies
from eightball_ppo.graders.api.replies import BadReplyError, TopTokens
from eightball_ppo.graders.base import GradeRequest
from eightball_ppo.graders.prompts import Prompt
from eightball_ppo.graders.verbalizers import RATINGS, Verbalizers, missing_mass
from eightball_ppo.labels import LabelSet

TOP_LOGPROBS = 20  # the maximum of the OpenAI protocol


class JudgeTask(NamedTuple):
    """The prompt, the K labels, and their words."""

    prompt: Prompt
    labels: LabelSet
    words: Verbalizers

    @classmethod
    def load(cls, config: GraderConfig, labels: LabelSet) -> "JudgeTask":
        """The task of the grader options.

        Raises:
            InputError: A bad prompt or verbalizer.
        """
        words = verbalizers.parse_verbalizers(config.grader_verbalizers, labels)
        return cls(Prompt.of(config, labels), labels, words)


def choices_of(reply: dict[str, Any]) -> list[dict[str, Any]]:
    """The choices of a chat completion.

    Raises:
        BadReplyError: There are none.
    """
    choices = reply.get("choices")
    if not isinstance(choices, list) or not choices or not all(isinstance(choice, dict) for choice in choices):
        raise BadReplyError("no choices in the reply")
    return choices


def text_of(choice: dict[str, Any]) -> str:
    """The text of a choice.

    Raises:
        BadReplyError: There is none; status "refused" if the server says so.
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
    """The likeliest tokens at each position of a choice, [] if the server gives none.

    Leading positions with only a quote or a space are skipped: the label comes behind them.

    Raises:
        BadReplyError: Malformed log-probabilities.
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
    if not isinstance(token, str) or not _is_number(logprob):
        raise TypeError
    return token, float(logprob)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class ChatMode:
    """A mode of `/chat/completions`."""

    name: ClassVar[str]
    max_tokens: ClassVar[int]
    path = "/chat/completions"

    def body(self, task: JudgeTask, request: GradeRequest, model: str | None, temperature: float) -> dict[str, Any]:
        """The body of a request."""
        messages = task.prompt.render(request.question, task.labels, request.label)
        chat = [{"role": "system", "content": messages.system}, {"role": "user", "content": messages.user}]
        shared = {"model": model, "messages": chat, "temperature": temperature, "max_tokens": self.max_tokens}
        return {**shared, **self.options(task, request)}

    def options(self, task: JudgeTask, request: GradeRequest) -> dict[str, Any]:
        """The mode's options of a request."""
        return {}


class LogprobsMode(ChatMode):
    """Log-probabilities of the reply's first word (for ratings, of its first two tokens)."""

    name, max_tokens = "logprobs", 3  # a quote, and the two tokens of a 10

    def options(self, task: JudgeTask, request: GradeRequest) -> dict[str, Any]:
        """See `ChatMode.options`."""
        return {"logprobs": True, "top_logprobs": TOP_LOGPROBS}

    def read(self, task: JudgeTask, reply: dict[str, Any], request: GradeRequest) -> tuple[list[float], float]:
        """The scores of a reply, and the probability on anything but the labels or ratings.

        Raises:
            BadReplyError: The reply is no grade.
        """
        choice = choices_of(reply)[0]
        positions, text = positions_of(choice), text_of(choice)
        if not positions:
            raise BadReplyError("no log-probabilities in the reply; pass --api_mode schema or text")
        if request.label is None:
            scores = replies.logp_of_tokens(positions[0], task.words, text)
            return scores, missing_mass(verbalizers.label_masses(positions[0], task.words)[0])
        rating = replies.rating_of_tokens(positions, text)
        return [rating], missing_mass(replies.rating_masses(positions, text))


class SchemaMode(ChatMode):
    """Structured output: a JSON object with one property, constrained by a schema."""

    name, max_tokens = "schema", 32

    def options(self, task: JudgeTask, request: GradeRequest) -> dict[str, Any]:
        """See `ChatMode.options`."""
        key, value = self._property(task, request)
        schema = {"type": "object", "properties": {key: value}, "required": [key], "additionalProperties": False}
        json_schema = {"name": key, "strict": True, "schema": schema}
        return {"response_format": {"type": "json_schema", "json_schema": json_schema}}

    def _property(self, task: JudgeTask, request: GradeRequest) -> tuple[str, dict[str, Any]]:
        if request.label is None:
            return "answer", {"type": "string", "enum": list(task.labels.names)}
        return "rating", {"type": "integer", "minimum": RATINGS[0], "maximum": RATINGS[-1]}

    def verdict(self, task: JudgeTask, choice: dict[str, Any], request: GradeRequest) -> int:
        """The label id or rating of a choice.

        Raises:
            BadReplyError: The choice has none.
        """
        key, _ = self._property(task, request)
        value = replies.json_value(text_of(choice), key)
        known: Sequence[Any] = task.labels.names if request.label is None else RATINGS
        if isinstance(value, bool) or value not in known:
            raise BadReplyError(f"{key} {str(value)[:60]!r} is none of {list(known)}")
        return task.labels.id_of(value) if request.label is None else int(value)


class TextMode(ChatMode):
    """Text: the reply must be the label, or the number, and nothing else."""

    name, max_tokens = "text", 16

    def verdict(self, task: JudgeTask, choice: dict[str, Any], request: GradeRequest) -> int:
        """See `SchemaMode.verdict`."""
        text = text_of(choice)
        return replies.label_of_text(text, task.words) if request.label is None else replies.rating_of_text(text)


class ChoiceMode:
    """`/systemone` of `transformers serve`: a typed question, answered with a probability for each option."""

    name, path, max_tokens = "choice", "/systemone", 1
    _KEY = "answer"

    def body(self, task: JudgeTask, request: GradeRequest, model: str | None, temperature: float) -> dict[str, Any]:
        """See `ChatMode.body`; the protocol has no temperature."""
        messages = task.prompt.render(request.question, task.labels, request.label)
        criteria = {name: name for name in self._options(task, request)}
        question = {"type": "choice", "instructions": messages.system, "criteria": criteria}
        return {"model": model, "state": {"question": messages.user}, "questions": {self._KEY: question}}

    def _options(self, task: JudgeTask, request: GradeRequest) -> list[str]:
        return list(task.labels.names) if request.label is None else list(map(str, RATINGS))

    def read(self, task: JudgeTask, reply: dict[str, Any], request: GradeRequest) -> tuple[list[float], float]:
        """See `LogprobsMode.read`; the server has normalized the probabilities, so 0 is missing."""
        options = self._options(task, request)
        answers = reply.get("answers")
        answer = answers.get(self._KEY) if isinstance(answers, dict) else None
        probabilities = answer.get("probabilities") if isinstance(answer, dict) else None
        if not isinstance(probabilities, dict) or set(probabilities) != set(options):
            raise BadReplyError(f"no probabilities of {options} in the reply")
        mass = [probabilities[name] for name in options]
        if not all(_is_number(p) and 0 <= p <= 1.001 for p in mass) or abs(sum(mass) - 1) > 0.05:
            raise BadReplyError(f"{mass} are no probabilities that sum to 1")
        if request.label is not None:
            return [sum(rating * p for rating, p in zip(RATINGS, mass, strict=True)) / sum(mass)], 0.0
        return verbalizers.normalize_logp([max(p, verbalizers.MIN_MASS) for p in mass]), 0.0


SAMPLING = (SchemaMode, TextMode)
Mode = LogprobsMode | SchemaMode | TextMode | ChoiceMode
MODES: dict[str, Mode] = {mode.name: mode for mode in (LogprobsMode(), SchemaMode(), TextMode(), ChoiceMode())}


def scores_of_verdicts(
    verdicts: Sequence[int], task: JudgeTask, request: GradeRequest, temperature: float
) -> list[float]:
    """The scores of one or several replies: log-probabilities of the labels, or the mean rating.

    Replies that were sampled are counted and smoothed. At temperature 0 the judge would give the same label again,
    which gets nearly all of the probability.
    """
    if request.label is not None:
        return [statistics.fmean(verdicts)]
    read = replies.logp_of_counts if temperature > 0 else verbalizers.certain_logp
    return read(verdicts, len(task.labels))
