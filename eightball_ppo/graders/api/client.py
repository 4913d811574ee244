"""One call to an OpenAI-compatible server: rate limits, timeout, retries.

A call ends in a JSON object, or in `JudgeCallError` for this request, or in `InputError` if no call can succeed (a
wrong key, address or model). All retries happen here; the openai client's are off, because every try counts as a call.


"""

import asyncio
import base64
import contextlib
import json
import math
import time
import uuid
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
DECLINED = ("content_filter", "content_policy", "moderation")  # in an error's text: the judge refused
RETRY_STATUS = {408, 409, 425, 429}
TOKEN_WINDOW = 6.0  # seconds over which tokens are limited, so that a minute has no burst


class BudgetExceededError(Exception):
    """No further call is allowed."""


@dataclass
class JudgeCallError(Exception):
    """A call failed for good.

    Attributes:
        reason: What went wrong.
        rejected: True if the server rejected this request; others may succeed.
        status: The status of the grade.
    """

    reason: str
    rejected: bool = False
    status: Status = "failed"


@dataclass
class _TransientError(Exception):
    """A call failed and may be retried, after `retry_after` seconds if the server says so."""

    reason: str
    retry_after: float | None = None


@dataclass
class Usage:
    """Calls and tokens of one grade."""

    calls: int = 0
    tokens: int = 0


def check_base_url(url: str | None) -> None:
    """Checks the address of the server.

    Raises:
        InputError: No http(s) address, or one with a query.
    """
    if url is None:
        raise InputError("--grader api: which server? pass --grader_base_url, e.g. http://127.0.0.1:8000/v1")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # an invalid port, half an IPv6 address
        usable = False
    if not usable:
        raise InputError(f"--grader_base_url {redact(url)}: an address like http://127.0.0.1:8000/v1 is needed")
    if parts.query or parts.fragment:
        raise InputError(f"--grader_base_url {redact(url.split('?')[0])}: no query; keys go into {KEY_VARIABLES[0]}")


def split_userinfo(url: str) -> tuple[str, str | None]:
    """Splits an address into itself without user and password, and their Basic authorization (or None)."""
    parts = urlsplit(url)
    if parts.username is None:
        return url, None
    userinfo = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
    bare = urlunsplit(parts._replace(netloc=parts.netloc.rpartition("@")[2]))
    return bare, "Basic " + base64.b64encode(userinfo.encode()).decode()


def server_of(config: GraderConfig) -> str:
    """The address of the server, without user and password."""
    return split_userinfo(config.grader_base_url or "")[0].rstrip("/")


class JudgeClient(contextlib.AbstractAsyncContextManager["JudgeClient"]):
    """Calls the server of `config`, within `budget` and the rate limits."""

    def __init__(self, config: GraderConfig, budget: Budget):
        url, basic = split_userinfo(config.grader_base_url or "")
        self._config, self._budget = config, budget
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

    async def post(self, path: str, body: dict[str, Any], tokens: int, usage: Usage) -> dict[str, Any]:
        """Posts `body` and returns the reply, a JSON object.

        Args:
            path: Path below the base URL.
            body: The request.
            tokens: Estimated tokens of the call; the server's count replaces them.
            usage: Incremented by the calls and tokens that it took.

        Raises:
            JudgeCallError: The call failed for good.
            BudgetExceededError: No further call is allowed.
            InputError: No call can succeed.
        """
        retries = stamina.retry_context(
            on=_backoff,
            attempts=self._config.max_retries + 1,
            timeout=None,
            wait_initial=MIN_BACKOFF,
            wait_max=MAX_BACKOFF,
            wait_jitter=MIN_BACKOFF,
        )
        try:
            async for attempt in retries:
                with attempt:
                    await self._wait_for_rate_limits(tokens)
                    if not self._budget.reserve(tokens):
                        raise BudgetExceededError
                    usage.calls += 1
                    used = tokens
                    try:
                        reply = await self._try(path, body)
                        used = _total_tokens(reply, tokens)
                        usage.tokens += used
                        return reply
                    finally:
                        self._budget.settle(tokens, used)
        except _TransientError as error:
            tries = f" ({attempt.num} tries)" if attempt.num > 1 else ""
            raise JudgeCallError(redact(error.reason) + tries) from None
        raise AssertionError("unreachable")

    async def _wait_for_rate_limits(self, tokens: int) -> None:
        if self._requests is not None:
            await self._requests.acquire()
        if self._tokens is not None:
            await self._tokens.acquire(min(tokens, self._tokens.max_rate))

    async def _try(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        headers = {REQUEST_ID: uuid.uuid4().hex}
        try:
            async with asyncio.timeout(self._config.timeout):
                response = await self._client.post(
                    path, cast_to=httpx2.Response, body=body, options={"headers": headers}
                )
        except (TimeoutError, openai.APITimeoutError):
            raise _TransientError(f"no answer within --timeout {self._config.timeout:g} s") from None
        except openai.APIConnectionError as error:
            raise _TransientError(f"connection failed ({_root_cause(error)})") from None
        except openai.APIStatusError as error:
            raise _status_error(error) from None
        if response.headers.get(REQUEST_ID, headers[REQUEST_ID]) != headers[REQUEST_ID]:
            raise _TransientError("the answer is to another request")
        try:
            reply = json.loads(response.content)
        except (ValueError, RecursionError):
            kind = response.headers.get("content-type", "?").split(";")[0]
            raise _TransientError(f"the answer is no JSON ({kind}, {len(response.content)} bytes)") from None
        if not isinstance(reply, dict):
            raise _TransientError("the answer is no JSON object")
        return reply


def _backoff(error: Exception) -> bool | float:
    """Whether to retry; a number of seconds if the server gave one."""
    if not isinstance(error, _TransientError):
        return False
    return True if error.retry_after is None else error.retry_after


def _status_error(error: openai.APIStatusError) -> Exception:
    """The error for an HTTP status: fatal, transient, or for this request only."""
    status, message = error.status_code, redact(" ".join(error.message.split())[:160])
    if status in FATAL_STATUS:
        return InputError(f"--grader_base_url: the server answers {status}, {FATAL_STATUS[status]}: {message}")
    if status == 429 and error.code == "insufficient_quota":
        return InputError(f"--grader_base_url: the account's quota is spent: {message}")
    if status in RETRY_STATUS or status >= 500:
        return _TransientError(f"status {status}: {message}", retry_after(error.response.headers.get("Retry-After")))
    declined = any(name in f"{error.code} {message}".lower() for name in DECLINED)
    return JudgeCallError(f"status {status}: {message}", rejected=True, status="refused" if declined else "failed")


def retry_after(header: str | None) -> float | None:
    """Seconds to wait, from a Retry-After header in seconds or as a date; None if there is no valid one."""
    try:
        seconds = float(header or "nan")
    except ValueError:
        try:
            seconds = parsedate_to_datetime(str(header)).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return None if math.isnan(seconds) else min(max(seconds, 0.0), MAX_RETRY_AFTER)


def _total_tokens(reply: dict[str, Any], estimated: int) -> int:
    """The tokens of a call by the server's count, else the estimate."""
    usage = reply.get("usage")
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) and not isinstance(total, bool) and total >= 0 else estimated


def _root_cause(error: BaseException) -> str:
    """The innermost reason of a connection error."""
    while (inner := error.__cause__ or error.__context__) is not None:
        error = inner
    return redact(str(error) or type(error).__name__)[:120]
