"""One call to an OpenAI-compatible server: pace, time-out, retries. Whatever goes wrong on the way is no grade.

A call ends in a JSON object, or in `JudgeCallError` for this question, or in `InputError` where no call could ever
succeed (a wrong key, address or model). There is one layer of retries, here; the client's own is off.
"""

import asyncio
import base64
import contextlib
import json
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import unquote, urlsplit, urlunsplit

import httpx2
import openai
import stamina
from aiolimiter import AsyncLimiter

from eightball_ppo.config.grader import GraderConfig
from eightball_ppo.errors import InputError
from eightball_ppo.graders.base import Status
from eightball_ppo.graders.budget import Budget
from eightball_ppo.runtime.redaction import KEY_VARIABLES, api_key, redact

REQUEST_ID = "X-Client-Request-Id"
MIN_BACKOFF, MAX_BACKOFF = 0.25, 10.0  # seconds between two tries, doubling
MAX_RETRY_AFTER = 600.0
FATAL_STATUS = {401: "the key is refused", 404: "no such address or model"}
DECLINED_STATUS = ("content_filter", "content_policy", "moderation")  # in an error's text: the judge was not let answer
RETRY_STATUS = {408, 409, 425, 429}
TOKEN_WINDOW = 6.0  # seconds over which tokens are spread, so that a minute holds no burst


class BudgetExceededError(Exception):
    """No further call is allowed."""


@dataclass
class JudgeCallError(Exception):
    """The call failed for good; `calls` were made. `unable`: the server declined this request; others may pass."""

    why: str
    calls: int = 0
    unable: bool = False
    status: Status = "failed"


@dataclass
class _TransientError(Exception):
    """The call failed and may be tried again, after `retry_after` seconds where the server says so."""

    why: str
    retry_after: float | None = None


def check_base_url(url: str | None) -> None:
    """Raises InputError unless `url` is an http(s) address without a query."""
    if url is None:
        raise InputError("--grader api: which server? pass --grader_base_url, e.g. http://127.0.0.1:8000/v1")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a port that is none, half an IPv6 address
        usable = False
    if not usable:
        raise InputError(f"--grader_base_url {redact(url)}: an address like http://127.0.0.1:8000/v1 is needed")
    if parts.query or parts.fragment:
        raise InputError(f"--grader_base_url {redact(url.split('?')[0])}: no query; keys go into {KEY_VARIABLES[0]}")


def split_userinfo(url: str) -> tuple[str, str | None]:
    """(`url` without user and password, the Basic authorization they make or None)."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, None
    userinfo = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return bare, "Basic " + base64.b64encode(userinfo.encode()).decode()


class JudgeClient(contextlib.AbstractAsyncContextManager["JudgeClient"]):
    """Calls to the server of `config`, counted and limited by `budget`."""

    def __init__(self, config: GraderConfig, budget: Budget):
        assert config.grader_base_url is not None
        url, basic = split_userinfo(config.grader_base_url)
        self._timeout, self._attempts, self._budget = config.timeout, config.max_retries + 1, budget
        key = api_key()
        self._client = openai.AsyncOpenAI(
            base_url=url,
            api_key=key or "none",
            default_headers={"Authorization": basic} if basic and not key else None,
            max_retries=0,
            timeout=config.timeout,
        )
        rpm, tpm = config.requests_per_minute, config.tokens_per_minute
        self._requests = AsyncLimiter(1, 60 / rpm) if rpm else None  # evenly, without a burst
        self._tokens = AsyncLimiter(tpm * TOKEN_WINDOW / 60, TOKEN_WINDOW) if tpm else None

    async def __aexit__(self, *_: object) -> None:
        await self._client.close()

    async def post(self, path: str, body: dict[str, Any], tokens: int) -> tuple[dict[str, Any], int, int]:
        """(the JSON object that `path` answers, the calls and the tokens that it took).

        Args:
            tokens: about how many this call will take; what the server says it took counts in the end.

        Raises:
            JudgeCallError, BudgetExceededError, InputError.
        """
        calls = 0
        retries = stamina.retry_context(
            on=_pause,
            attempts=self._attempts,
            timeout=None,
            wait_initial=MIN_BACKOFF,
            wait_max=MAX_BACKOFF,
            wait_jitter=MIN_BACKOFF,
        )
        try:
            async for attempt in retries:
                with attempt:
                    await self._wait_for_turn(tokens)
                    if not self._budget.reserve(tokens):
                        raise BudgetExceededError
                    calls += 1
                    used = tokens
                    try:
                        reply = await self._try(path, body)
                        used = _usage(reply, tokens)
                        return reply, calls, used
                    finally:
                        self._budget.settle(tokens, used)
        except JudgeCallError as error:
            error.calls = calls
            raise
        except _TransientError as error:
            tries = f" ({calls} tries)" if calls > 1 else ""
            raise JudgeCallError(redact(error.why) + tries, calls) from None
        raise AssertionError("unreachable")

    async def _wait_for_turn(self, tokens: int) -> None:
        if self._requests is not None:
            await self._requests.acquire()
        if self._tokens is not None:
            await self._tokens.acquire(min(tokens, self._tokens.max_rate))

    async def _try(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        request_id = uuid.uuid4().hex
        try:
            async with asyncio.timeout(self._timeout):
                response = await self._client.post(
                    path, cast_to=httpx2.Response, body=body, options={"headers": {REQUEST_ID: request_id}}
                )
        except (TimeoutError, openai.APITimeoutError):
            raise _TransientError(f"no answer within --timeout {self._timeout:g} s") from None
        except openai.APIConnectionError as error:
            raise _TransientError(f"connection failed ({_cause(error)})") from None
        except openai.APIStatusError as error:
            raise _status_error(error) from None
        echoed = response.headers.get(REQUEST_ID)
        if echoed is not None and echoed != request_id:
            raise _TransientError("the answer is to another request")
        try:
            reply = json.loads(response.content)
        except (ValueError, RecursionError):
            kind = response.headers.get("content-type", "?").split(";")[0]
            raise _TransientError(f"the answer is no JSON ({kind}, {len(response.content)} bytes)") from None
        if not isinstance(reply, dict):
            raise _TransientError("the answer is no JSON object")
        return reply


def _pause(error: Exception) -> bool | float:
    """Whether to try again; a number where the server said when."""
    if not isinstance(error, _TransientError):
        return False
    return True if error.retry_after is None else error.retry_after


def _status_error(error: openai.APIStatusError) -> Exception:
    """What an error status of the server means for this question, or for all of them."""
    status, said = error.status_code, redact(" ".join(error.message.split())[:160])
    if status in FATAL_STATUS:
        return InputError(f"--grader_base_url: the server answers {status}, {FATAL_STATUS[status]}: {said}")
    if status == 429 and getattr(error, "code", None) == "insufficient_quota":
        return InputError(f"--grader_base_url: the account's quota is spent: {said}")
    if status in RETRY_STATUS or status >= 500:
        return _TransientError(f"status {status}: {said}", retry_after(error.response.headers.get("Retry-After")))
    declined = any(name in f"{error.code} {said}".lower() for name in DECLINED_STATUS)
    return JudgeCallError(f"status {status}: {said}", unable=True, status="refused" if declined else "failed")


def retry_after(header: str | None, now: Callable[[], float] | None = None) -> float | None:
    """Seconds to wait, of a Retry-After header in either of its forms; None where it says nothing that can be used."""
    if not header:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - (now or time.time)()
        except (ValueError, OverflowError):
            return None
    return min(max(seconds, 0.0), MAX_RETRY_AFTER) if seconds == seconds else None


def _usage(reply: dict[str, Any], estimated: int) -> int:
    """Tokens that the server says the call took, or the estimate."""
    usage = reply.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) and total >= 0 else estimated


def _cause(error: BaseException) -> str:
    """The innermost reason of a connection error."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return redact(str(error) or type(error).__name__)[:120]
