"""A judge behind an OpenAI-compatible server: vLLM, Ollama, llama.cpp, TGI, `transformers serve`, OpenAI ..."""

import asyncio
import itertools
import logging
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any

from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.errors import InputError
from eightball_ppo.graders import verbalizers
from eightball_ppo.graders.api.client import BudgetExceededError, JudgeCallError, JudgeClient, Usage, server_of
from eightball_ppo.graders.api.modes import MODES, SAMPLING, JudgeTask, Mode, choices_of, scores_of_verdicts
from eightball_ppo.graders.api.probe import best_mode
from eightball_ppo.graders.api.replies import BadReplyError
from eightball_ppo.graders.base import Grade, Grader, GradeRequest, OnGrade
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.event_loop import run_async
from eightball_ppo.graders.fingerprint import settings_fingerprint
from eightball_ppo.graders.prompts import CONTENT_FREE
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.graders.verbalizers import log_softmax
from eightball_ppo.labels import LabelSet
from eightball_ppo.runtime.redaction import redact

logger = logging.getLogger(__name__)

CHARACTERS_PER_TOKEN = 4  # a rough mean of English text, for estimates only
TEMPLATE_TOKENS = 16  # about what a chat template adds


class ApiGrader(Grader):
    """`api`: grades by HTTP, `--max_concurrency` calls at a time.

    Args:
        config: The grader options.
        task: Prompt, labels and words.
        mode: How grades are requested.

    Attributes:
        latencies: Seconds of the last grades, retries and waiting included.

    Raises:
        InputError: Contextual calibration of ratings or samples.
    """

    deliberate = False

    def __init__(self, config: GraderConfig, task: JudgeTask, mode: Mode):
        self._config, self._task, self._mode = config, task, mode
        self.labels, self.scale = task.labels, task.prompt.scale
        sampling = isinstance(mode, SAMPLING)
        samples = config.grader_samples if sampling else 1
        temperature = config.grader_temperature if sampling else 0.0
        if temperature is None:
            temperature = 1.0 if samples > 1 else 0.0
        if config.contextual_calibration and (self.scale == "rating" or sampling):
            raise InputError("--contextual_calibration: needs log-probabilities of labels, not ratings or samples")
        self._samples, self._temperature = samples, temperature
        self.settings: dict[str, Any] = {
            "grader": "api",
            "model": config.grader_model,
            "server": server_of(config),
            **task.prompt.settings,
            "mode": mode.name,
            "samples": samples,
            "temperature": temperature,
            "contextual_calibration": config.contextual_calibration,
            "labels": list(task.labels.names),
            "words": [list(words) for words in task.words],
        }
        if sampling and temperature == 0 and self.scale == "log_prob":
            self.settings["epsilon"] = verbalizers.EPSILON
        # the prompt's path never changes a grade, the words not in every mode
        irrelevant = {"prompt"} if mode.name in ("logprobs", "text") else {"prompt", "words"}
        identity = {name: value for name, value in self.settings.items() if name not in irrelevant}
        self.fingerprint = settings_fingerprint(identity)
        self._content_free_K: tuple[float, ...] | None = None
        self.latencies: deque[float] = deque(maxlen=10_000)

    @classmethod
    def connect(cls, config: GraderConfig, labels: LabelSet, store: GradeStore, budget: Budget) -> "ApiGrader":
        """The grader in `--api_mode`; "auto" probes the server once and stores the result.

        Raises:
            InputError: A bad option, or a server that gives no usable answer.
            IncompleteError: No call is allowed.
        """
        task = JudgeTask.load(config, labels)
        if config.api_mode != "auto":
            return cls(config, task, MODES[config.api_mode])
        mode = best_mode(config, task, store, budget)
        if mode is not None:
            logger.info("grader api %s: mode %s", config.grader_model, mode)
        return cls(config, task, MODES[mode or "logprobs"])

    def tokens(self, request: GradeRequest) -> int:
        """See `Grader.tokens`."""
        messages = self._task.prompt.render(request.question, self.labels, request.label)
        prompt = (len(messages.system) + len(messages.user)) // CHARACTERS_PER_TOKEN + TEMPLATE_TOKENS
        return prompt + self._samples * self._mode.max_tokens

    def grade(self, requests: Iterable[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        """See `Grader.grade`.

        Raises:
            InputError: The server refuses the key, the address or the model.
        """
        first = next(iterator := iter(requests), None)
        if first is None:
            return
        try:
            run_async(self._grade(itertools.chain([first], iterator), on_grade, budget))
        except ExceptionGroup as group:
            raise (group.subgroup(InputError) or group).exceptions[0] from None

    async def _grade(self, requests: Iterator[GradeRequest], on_grade: OnGrade, budget: Budget) -> None:
        """Workers share one iterator of requests; the deadline cancels calls in flight."""
        try:
            async with asyncio.timeout(budget.seconds_left), JudgeClient(self._config, budget) as client:
                if self._config.contextual_calibration and self._content_free_K is None:
                    grade = await self._grade_one(client, GradeRequest(CONTENT_FREE))
                    if grade.status != "ok":
                        raise InputError(f"--contextual_calibration: {CONTENT_FREE!r} got no grade ({grade.detail})")
                    self._content_free_K = grade.scores

                async def work() -> None:
                    for request in requests:
                        started = time.monotonic()
                        try:
                            on_grade(await self._grade_one(client, request))
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

    async def _grade_one(self, client: JudgeClient, request: GradeRequest) -> Grade:
        usage = Usage()
        try:
            scores, missing = await self._scores(client, request, usage)
        except JudgeCallError as error:
            return Grade(request, error.status, (), error.reason, usage.calls, usage.tokens)
        except BadReplyError as error:
            return Grade(request, error.status, (), redact(str(error)), usage.calls, usage.tokens)
        if self._content_free_K is not None:
            scores = log_softmax([logp - free for logp, free in zip(scores, self._content_free_K, strict=True)])
        return Grade.from_scores(request, scores, usage.calls, usage.tokens, missing)

    async def _scores(self, client: JudgeClient, request: GradeRequest, usage: Usage) -> tuple[list[float], float]:
        """The scores, and the probability on anything but the labels or ratings."""
        mode, task = self._mode, self._task
        body = mode.body(task, request, self._config.grader_model, self._temperature)
        tokens = self.tokens(request)
        if not isinstance(mode, SAMPLING):
            return mode.read(task, await client.post(mode.path, body, tokens, usage), request)
        verdicts: list[int] = []
        bad: list[BadReplyError] = []
        while (left := self._samples - len(verdicts) - len(bad)) > 0:  # a server may give fewer choices than n
            reply = await client.post(mode.path, {**body, "n": left} if left > 1 else body, tokens, usage)
            for choice in choices_of(reply)[:left]:
                try:
                    verdicts.append(mode.verdict(task, choice, request))
                except BadReplyError as error:
                    bad.append(error)
        if len(bad) >= max(len(verdicts), 1):
            raise bad[0]
        return scores_of_verdicts(verdicts, task, request, self._temperature), 0.0
