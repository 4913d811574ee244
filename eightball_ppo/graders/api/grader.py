"""A judge behind an OpenAI-compatible server: vLLM, Ollama, llama.cpp, TGI, `transformers serve`, OpenAI ..."""

import asyncio
import itertools
import logging
import math
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.errors import InputError
from eightball_ppo.graders.api.client import (
    BudgetExceededError,
    JudgeCallError,
    JudgeClient,
    check_base_url,
    split_userinfo,
)
from eightball_ppo.graders.api.modes import MODES, SAMPLING, JudgeTask, Mode, choices_of, request_of, scores_of_verdicts
from eightball_ppo.graders.api.probe import best_mode
from eightball_ppo.graders.api.replies import BadReplyError
from eightball_ppo.graders.base import MAX_DETAIL_LENGTH, Grade, GradeRequest, OnGrade
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.fingerprint import settings_fingerprint
from eightball_ppo.graders.prompts import CONTENT_FREE, Prompt
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.graders.verbalizers import normalize_logp, parse_verbalizers
from eightball_ppo.labels import LabelSet
from eightball_ppo.runtime.redaction import redact

logger = logging.getLogger(__name__)

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
        self._judged = _judge_tasks(config, labels)
        self.scale = self._judged.prompt.scale
        if config.contextual_calibration and (self.scale == "rating" or isinstance(mode, SAMPLING)):
            raise InputError("--contextual_calibration: needs log-probabilities of labels, not ratings or samples")
        self._samples = config.grader_samples if isinstance(mode, SAMPLING) else 1
        temperature = config.grader_temperature
        if temperature is None:
            temperature = 1.0 if self._samples > 1 else 0.0
        self._temperature = temperature if isinstance(mode, SAMPLING) else 0.0
        self.settings = _settings(config, self._judged, mode.name, self._samples, self._temperature)
        # where the prompt lies does not matter, and not every mode reads words
        unread = {"prompt"} if mode.name in ("logprobs", "text") else {"prompt", "words"}
        self.fingerprint = settings_fingerprint({k: v for k, v in self.settings.items() if k not in unread})
        self._content_free_K: list[float] | None = None
        self.latencies: deque[float] = deque(maxlen=10_000)

    @classmethod
    def connect(cls, config: GraderConfig, labels: LabelSet, store: GradeStore, budget: Budget) -> "ApiGrader":
        """The grader in the mode of `config`; "auto" asks the server once and remembers its answer in the store.

        Raises:
            InputError: a bad option, or a server that does not answer.
            IncompleteError: no call is allowed.
        """
        check_base_url(config.grader_base_url)
        if config.api_mode != "auto":
            return cls(config, labels, MODES[config.api_mode])
        mode = best_mode(config, _judge_tasks(config, labels), store, budget)
        grader = cls(config, labels, MODES[mode or "logprobs"])
        if mode is not None:
            logger.info("grader api %s: asked by %s", config.grader_model, mode)
        return grader

    def tokens(self, request: GradeRequest) -> int:
        """See `Grader.tokens`; four characters are taken for a token."""
        messages = self._judged.prompt.render(request.question, self.labels, request.label)
        prompt = (len(messages.system) + len(messages.user)) // CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS
        return prompt + self._samples * self._mode.body(self._judged, messages, request).get("max_tokens", 1)

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        """See `Grader.grade`.

        Raises:
            InputError: the server refuses the key, the address or the model; grades made before it are kept.
        """
        first = next(iterator := iter(requests), None)
        if first is None:
            return
        try:
            asyncio.run(self._grade(itertools.chain([first], iterator), on_grade, budget))
        except ExceptionGroup as group:
            refused = group.subgroup(InputError)
            raise (refused or group).exceptions[0] from None

    async def _grade(self, requests: Iterator[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        """Workers that share one iterator of requests; at the deadline they are cut off, what is in flight is lost."""
        try:
            async with asyncio.timeout(budget.seconds_left), JudgeClient(self._config, budget) as client:
                content_free = await self._content_free(client) if self._config.contextual_calibration else None

                async def work() -> None:
                    for request in requests:
                        started = time.monotonic()
                        try:
                            on_grade(await self._one(client, request, content_free))
                        except BudgetExceededError:
                            return
                        self.latencies.append(time.monotonic() - started)

                async with asyncio.TaskGroup() as group:
                    for _ in range(self._config.max_concurrency):
                        group.create_task(work())
        except BudgetExceededError:
            return
        except TimeoutError:
            budget.stop(f"--grading_timeout {budget.timeout} is over")

    async def _content_free(self, client: JudgeClient) -> list[float]:
        """The log-probabilities of a question without content, asked once.

        Raises:
            InputError: the judge gives none.
            BudgetExceededError: no call is allowed.
        """
        if self._content_free_K is None:
            grade = await self._one(client, GradeRequest(CONTENT_FREE), None)
            if grade.status != "ok":
                raise InputError(f"--contextual_calibration: {CONTENT_FREE!r} got no grade ({grade.detail})")
            self._content_free_K = list(grade.scores)
        return self._content_free_K

    async def _one(self, client: JudgeClient, request: GradeRequest, content_free: list[float] | None) -> Grade:
        """The grade of one request, ok or not."""
        spent = [0, 0]  # calls, tokens
        try:
            scores, missing = await self._scores(client, request, spent)
        except JudgeCallError as error:
            return Grade(request, error.status, (), error.why[:MAX_DETAIL_LENGTH], spent[0] + error.calls, spent[1])
        except BadReplyError as error:
            return Grade(request, error.status, (), redact(str(error))[:MAX_DETAIL_LENGTH], *spent)
        if content_free is not None:
            scores = _calibrated(scores, content_free)
        return Grade.of(request, scores, spent[0], spent[1], missing)

    async def _scores(self, client: JudgeClient, request: GradeRequest, spent: list[int]) -> tuple[list[float], float]:
        """(scores, the probability on other than what was asked for); calls and tokens are added to `spent`."""
        mode, judged = self._mode, self._judged
        body = request_of(mode, judged, request, self._config.grader_model, self._temperature)
        tokens = self.tokens(request)
        if not isinstance(mode, SAMPLING):
            reply = await _post(client, mode.path, body, tokens, spent)
            return mode.scores(judged, reply, request), mode.missing(judged, reply, request)
        verdicts: list[int] = []
        bad: list[BadReplyError] = []
        while (left := self._samples - len(verdicts) - len(bad)) > 0:  # a server may give fewer than it was asked for
            several = {"n": left} if left > 1 else {}
            for choice in choices_of(await _post(client, mode.path, {**body, **several}, tokens, spent))[:left]:
                try:
                    verdicts.append(mode.verdict(judged, choice, request))
                except BadReplyError as error:
                    bad.append(error)
        if len(bad) >= max(len(verdicts), 1):
            raise bad[0]
        return scores_of_verdicts(verdicts, judged, request), 0.0


async def _post(client: JudgeClient, path: str, body: dict[str, Any], tokens: int, spent: list[int]) -> dict[str, Any]:
    """The reply to one call, its calls and tokens added to `spent`."""
    reply, calls, used = await client.post(path, body, tokens)
    spent[0] += calls
    spent[1] += used
    return reply


def _judge_tasks(config: GraderConfig, labels: LabelSet) -> JudgeTask:
    words = parse_verbalizers(config.grader_verbalizers, labels)
    return JudgeTask(Prompt.load(config.grader_prompt, labels), labels, words)


def _settings(config: GraderConfig, judged: JudgeTask, mode: str, samples: int, temperature: float) -> dict[str, Any]:
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
    return normalize_logp([math.exp(value - max(shifted)) for value in shifted])
