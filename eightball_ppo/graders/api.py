"""A judge behind an OpenAI-compatible server: vLLM, Ollama, llama.cpp, TGI, `transformers serve`, OpenAI ..."""

import asyncio
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.grader_options import GraderConfig
from eightball_ppo.graders.api_modes import (
    MODES,
    SAMPLING,
    Judged,
    Mode,
    SchemaMode,
    choices_of,
    positions_of,
    scores_of_verdicts,
)
from eightball_ppo.graders.base import LONGEST_DETAIL, Ask, Grade, Keep, asks_of
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.fingerprint import settings_fingerprint
from eightball_ppo.graders.prompts import CONTENT_FREE, Prompt
from eightball_ppo.graders.replies import BadReplyError
from eightball_ppo.graders.store import GradeStore
from eightball_ppo.graders.verbalizers import normalised_logp, parse_verbalizers
from eightball_ppo.graders.wire import CallFailedError, JudgeClient, OutOfBudgetError, check_base_url, split_userinfo
from eightball_ppo.labels import LabelSet
from eightball_ppo.redaction import redact

logger = logging.getLogger(__name__)

PROBE = "Will it be sunny tomorrow?"  # asked once of a new server, to see what it can do
CHARACTERS_PER_TOKEN = 4  # a rough mean of English text, for estimates alone
TEMPLATE_TOKENS = 16  # about what a chat template adds


class ApiGrader:
    """`api`: grades by HTTP, `--max_concurrency` calls at a time.

    `latencies`: seconds of the last calls, retries and waiting included.
    """

    deliberate = False

    def __init__(self, config: GraderConfig, labels: LabelSet, mode: Mode):
        self.labels = labels
        self._config, self._mode = config, mode
        words = parse_verbalizers(config.grader_verbalizers, labels)
        self._judged = Judged(Prompt.load(config.grader_prompt, labels), labels, words)
        self.scale = self._judged.prompt.scale
        if config.contextual_calibration and (self.scale == "rating" or isinstance(mode, SAMPLING)):
            raise InputError("--contextual_calibration: needs log-probabilities of labels, not ratings or samples")
        self._samples = config.grader_samples if isinstance(mode, SAMPLING) else 1
        temperature = config.grader_temperature
        if temperature is None:
            temperature = 1.0 if self._samples > 1 else 0.0
        self._temperature = temperature if isinstance(mode, SAMPLING) else 0.0
        self.settings = _settings(config, self._judged, mode.name, self._samples, self._temperature)
        self.fingerprint = settings_fingerprint(self.settings)
        self.latencies: deque[float] = deque(maxlen=10_000)

    @classmethod
    def connect(cls, config: GraderConfig, labels: LabelSet, store: GradeStore, budget: Budget) -> "ApiGrader":
        """The grader in the mode of `config`; "auto" asks the server once and remembers its answer in the store.

        Raises:
            InputError: a bad option, or a server that does not answer.
        """
        check_base_url(config.grader_base_url)
        if config.api_mode != "auto":
            return cls(config, labels, MODES[config.api_mode])
        guess = cls(config, labels, MODES["text"])
        key = settings_fingerprint({**guess.settings, "mode": "auto", "samples": config.grader_samples})
        known = store.settings_of(key)
        if known is None and not config.dry_run:
            known = {"mode": asyncio.run(_find_mode(config, labels, budget)), "auto": True}
            store.register(key, known)
        grader = cls(config, labels, MODES[known["mode"] if known else "logprobs"])
        logger.info("grader api %s: asked by %s", config.grader_model, grader._mode.name)
        return grader

    def tokens(self, ask: Ask) -> int:
        """See `Grader.tokens`; four characters are taken for a token."""
        messages = self._judged.prompt.render(ask.question, self.labels, ask.label)
        prompt = (len(messages.system) + len(messages.user)) // CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS
        return prompt + self._samples * self._mode.body(self._judged, messages, ask).get("max_tokens", 1)

    def grade(self, asks: Iterable[Ask], keep: Keep, budget: Budget) -> None:
        """See `Grader.grade`.

        Raises:
            InputError: the server refuses the key, the address or the model; grades made before it are kept.
        """
        first = next(iterator := iter(asks), None)
        if first is None:
            return
        try:
            asyncio.run(self._grade(itertools.chain([first], iterator), keep, budget))
        except ExceptionGroup as group:
            refused = group.subgroup(InputError)
            raise (refused or group).exceptions[0] from None

    async def _grade(self, asks: Iterator[Ask], keep: Keep, budget: Budget) -> None:
        """Workers that share one iterator of asks; at the deadline they are cut off, what is in flight is lost."""
        try:
            async with asyncio.timeout(budget.seconds_left), JudgeClient(self._config, budget) as client:
                content_free = await self._content_free(client) if self._config.contextual_calibration else None

                async def work() -> None:
                    for ask in asks:
                        if budget.stopped:
                            return
                        started = time.monotonic()
                        try:
                            keep(await self._one(client, ask, content_free))
                        except OutOfBudgetError:
                            return
                        self.latencies.append(time.monotonic() - started)

                async with asyncio.TaskGroup() as group:
                    for _ in range(self._config.max_concurrency):
                        group.create_task(work())
        except TimeoutError:
            budget.stop(f"--grading_timeout {budget.timeout} is over")

    async def _content_free(self, client: JudgeClient) -> list[float]:
        """The log-probabilities of a question without content.

        Raises:
            InputError: the judge gives none.
        """
        grade = await self._one(client, Ask(CONTENT_FREE), None)
        if grade.status != "ok":
            raise InputError(f"--contextual_calibration: the question {CONTENT_FREE!r} got no grade ({grade.detail})")
        return list(grade.scores)

    async def _one(self, client: JudgeClient, ask: Ask, content_free: list[float] | None) -> Grade:
        """The grade of one ask, ok or not."""
        spent = [0, 0]  # calls, tokens
        try:
            scores = await self._scores(client, ask, spent)
        except CallFailedError as error:
            return Grade(ask, "failed", (), error.why[:LONGEST_DETAIL], spent[0] + error.calls, spent[1])
        except BadReplyError as error:
            return Grade(ask, error.status, (), redact(str(error))[:LONGEST_DETAIL], *spent)
        if content_free is not None:
            scores = _calibrated(scores, content_free)
        return Grade.of(ask, scores, *spent)

    async def _scores(self, client: JudgeClient, ask: Ask, spent: list[int]) -> list[float]:
        messages = self._judged.prompt.render(ask.question, self.labels, ask.label)
        own = self._mode.body(self._judged, messages, ask)
        body = {"model": self._config.grader_model, **own}
        if self._mode.path == "/chat/completions":
            body["messages"] = [
                {"role": "system", "content": messages.system},
                {"role": "user", "content": messages.user},
            ]
            body["temperature"] = self._temperature
        tokens = self.tokens(ask)
        if not isinstance(self._mode, SAMPLING):
            return self._mode.scores(self._judged, await _post(client, self._mode.path, body, tokens, spent), ask)
        verdicts: list[int] = []
        bad: list[BadReplyError] = []
        while (left := self._samples - len(verdicts) - len(bad)) > 0:  # a server may give fewer than it was asked for
            several = {"n": left} if left > 1 else {}
            for choice in choices_of(await _post(client, self._mode.path, {**body, **several}, tokens, spent))[:left]:
                try:
                    verdicts.append(self._mode.verdict(self._judged, choice, ask))
                except BadReplyError as error:
                    bad.append(error)
        if len(bad) >= max(len(verdicts), 1):
            raise bad[0]
        return scores_of_verdicts(verdicts, self._judged, ask)


async def _post(client: JudgeClient, path: str, body: dict[str, Any], tokens: int, spent: list[int]) -> dict[str, Any]:
    """The reply to one call, its calls and tokens added to `spent`."""
    reply, calls, used = await client.post(path, body, tokens)
    spent[0] += calls
    spent[1] += used
    return reply


async def _find_mode(config: GraderConfig, labels: LabelSet, budget: Budget) -> str:
    """The best mode that the server can do, of its answers to one question.

    Raises:
        InputError: it does not answer in any.
    """
    why = ""
    async with JudgeClient(config, budget) as client:
        for name in ("logprobs", "schema", "text"):
            grader = ApiGrader(config, labels, MODES[name])
            ask = next(iter(asks_of([PROBE], labels, grader.scale)))
            messages = grader._judged.prompt.render(ask.question, labels, ask.label)
            chat = [{"role": "system", "content": messages.system}, {"role": "user", "content": messages.user}]
            own = MODES[name].body(grader._judged, messages, ask)
            body = {"model": config.grader_model, "messages": chat, "temperature": 0.0, **own}
            try:
                reply, _, _ = await client.post("/chat/completions", body, grader.tokens(ask))
                if _can(name, grader, reply, ask):
                    return name
            except OutOfBudgetError:
                raise IncompleteError(f"grader api: {budget.stopped} before the first grade; allow more") from None
            except CallFailedError as error:
                why = error.why
            except BadReplyError:
                continue
    where, _ = split_userinfo(config.grader_base_url or "")
    raise InputError(f"--grader_base_url {where}: no usable answer from the server ({why})")


def _can(mode: str, grader: ApiGrader, reply: dict[str, Any], ask: Ask) -> bool:
    """Whether the server's reply is what the mode asks for, whatever it says."""
    choice = choices_of(reply)[0]
    if mode == "logprobs":
        return bool(positions_of(choice))
    if mode == "schema":
        SchemaMode().verdict(grader._judged, choice, ask)
    return True


def _settings(config: GraderConfig, judged: Judged, mode: str, samples: int, temperature: float) -> dict[str, Any]:
    """What decides the grades."""
    where, _ = split_userinfo(config.grader_base_url or "")
    return {
        "grader": "api",
        "model": config.grader_model,
        "server": where.rstrip("/"),
        "prompt": config.grader_prompt,
        "prompt_sha256": judged.prompt.sha,
        "mode": mode,
        "samples": samples,
        "temperature": temperature,
        "contextual_calibration": config.contextual_calibration,
        "labels": list(judged.labels.names),
        "words": [list(own) for own in judged.words],
    }


def _calibrated(logp_K: list[float], content_free_K: list[float]) -> list[float]:
    """`logp_K` less what the labels get without any content, log-probabilities again (Zhao et al. 2021)."""
    shifted = [logp - free for logp, free in zip(logp_K, content_free_K, strict=True)]
    return normalised_logp([math.exp(value - max(shifted)) for value in shifted])
