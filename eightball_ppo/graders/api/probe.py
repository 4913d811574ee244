"""Detects which modes a server supports: once, with one question; the result is stored in the grade store."""

import asyncio

from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.graders.api.client import BudgetExceededError, JudgeCallError, JudgeClient, Usage, server_of
from eightball_ppo.graders.api.modes import MODES, JudgeTask, SchemaMode, choices_of, positions_of
from eightball_ppo.graders.api.replies import BadReplyError
from eightball_ppo.graders.base import GradeRequest
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.event_loop import run_async
from eightball_ppo.graders.fingerprint import settings_fingerprint
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.graders.verbalizers import share_first_word

AUTO = ("logprobs", "schema", "text")  # best first
PROBE = "Will it be sunny tomorrow?"


def best_mode(config: GraderConfig, task: JudgeTask, store: GradeStore, budget: Budget) -> str | None:
    """The best mode that the server of `config` supports; None on a dry run if the store does not know it.

    Raises:
        InputError: The server gives no usable answer.
        IncompleteError: No call is allowed.
    """
    logprobs = task.prompt.scale == "rating" or not share_first_word(task.words)
    key = {"grader": "api-mode", "server": server_of(config), "model": config.grader_model, "logprobs": logprobs}
    fingerprint = settings_fingerprint(key)
    known = store.settings_of(fingerprint)
    if known is None:
        if config.dry_run:
            return None
        known = {**key, "mode": run_async(_find_mode(config, task, budget, AUTO if logprobs else AUTO[1:]))}
        store.register(fingerprint, known)
    return known["mode"]


async def _find_mode(config: GraderConfig, task: JudgeTask, budget: Budget, names: tuple[str, ...]) -> str:
    request = GradeRequest(PROBE, None if task.prompt.scale == "log_prob" else task.labels.names[0])
    reason = "its replies have no choices"
    try:
        async with asyncio.timeout(budget.seconds_left), JudgeClient(config, budget) as client:
            for name in names:
                body = MODES[name].body(task, request, config.grader_model, temperature=0.0)
                try:
                    reply = await client.post(MODES[name].path, body, tokens=len(str(body)) // 4, usage=Usage())
                    choice = choices_of(reply)[0]
                    if name == "text" or (name == "logprobs" and any(positions_of(choice))):
                        return name
                    if name == "schema":
                        SchemaMode().verdict(task, choice, request)
                        return name
                except JudgeCallError as error:
                    reason = error.reason
                    if not error.rejected:  # a server in trouble says nothing about its modes
                        break
                except BadReplyError:
                    continue
    except (BudgetExceededError, TimeoutError):
        stopped = budget.stopped or f"--grading_timeout {budget.timeout} is over"
        raise IncompleteError(f"grader api: {stopped} before the first grade; allow more") from None
    raise InputError(f"--grader_base_url {server_of(config)}: no usable answer from the server ({reason})")
