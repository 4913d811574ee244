"""Which of its modes a server can do: asked once, with one question, and remembered in the grade store."""

import asyncio
from typing import Any

from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.errors import IncompleteError, InputError
from eightball_ppo.graders.api.client import BudgetExceededError, JudgeCallError, JudgeClient, split_userinfo
from eightball_ppo.graders.api.modes import MODES, JudgeTask, SchemaMode, choices_of, positions_of, request_of
from eightball_ppo.graders.api.replies import BadReplyError
from eightball_ppo.graders.base import GradeRequest
from eightball_ppo.graders.budget import Budget
from eightball_ppo.graders.fingerprint import settings_fingerprint
from eightball_ppo.graders.storage.store import GradeStore
from eightball_ppo.graders.verbalizers import share_first_word

AUTO = ("logprobs", "schema", "text")  # best first
PROBE = "Will it be sunny tomorrow?"


def best_mode(config: GraderConfig, judged: JudgeTask, store: GradeStore, budget: Budget) -> str | None:
    """The best mode that the server of `config` can do; None on a dry run before anybody asked.

    Raises:
        InputError: the server does not answer.
        IncompleteError: no call is allowed.
    """
    usable = judged.prompt.scale == "rating" or not share_first_word(judged.words)
    where, _ = split_userinfo(config.grader_base_url or "")
    key = {"grader": "api-mode", "server": where.rstrip("/"), "model": config.grader_model, "logprobs": usable}
    fingerprint = settings_fingerprint(key)
    known = store.settings_of(fingerprint)
    if known is None and config.dry_run:
        return None
    if known is None:
        known = {**key, "mode": asyncio.run(_find_mode(config, judged, budget, AUTO if usable else AUTO[1:]))}
        store.register(fingerprint, known)
    return known["mode"]


async def _find_mode(config: GraderConfig, judged: JudgeTask, budget: Budget, names: tuple[str, ...]) -> str:
    where, _ = split_userinfo(config.grader_base_url or "")
    request = GradeRequest(PROBE, None if judged.prompt.scale == "log_prob" else judged.labels.names[0])
    why = "its replies have no choices"
    try:
        async with asyncio.timeout(budget.seconds_left), JudgeClient(config, budget) as client:
            for name in names:
                body = request_of(MODES[name], judged, request, config.grader_model, temperature=0.0)
                try:
                    reply, _, _ = await client.post(MODES[name].path, body, tokens=len(str(body)) // 4)
                    if _can(name, judged, reply, request):
                        return name
                except JudgeCallError as error:
                    why = error.why
                    if not error.unable:  # a server that is not well says nothing of what it can do
                        break
                except BadReplyError:
                    continue
    except (BudgetExceededError, TimeoutError):
        stopped = budget.stopped or f"--grading_timeout {budget.timeout} is over"
        raise IncompleteError(f"grader api: {stopped} before the first grade; allow more") from None
    raise InputError(f"--grader_base_url {where}: no usable answer from the server ({why})")


def _can(mode: str, judged: JudgeTask, reply: dict[str, Any], request: GradeRequest) -> bool:
    """Whether the server's reply is what the mode asks for, whatever it says."""
    choice = choices_of(reply)[0]
    if mode == "logprobs":
        return any(positions_of(choice))
    if mode == "schema":
        SchemaMode().verdict(judged, choice, request)
    return True
