"""What grading may cost: calls, money, time. One budget for all graders of a run."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Budget:
    """Counts calls and tokens, and stops grading when a limit is reached.

    A call is reserved with an estimate of its tokens before it is made and settled afterwards, so that calls in flight
    count. The limits are exceeded only by what a call takes above its estimate.

    Attributes:
        max_calls: Maximum number of calls; None for no limit, as for all limits.
        max_cost: Maximum cost, in the unit of the price.
        price_per_1k_tokens: Price of 1,000 tokens.
        timeout: Seconds after which no call is allowed.
        calls: Calls made or reserved.
        tokens: Tokens of settled calls.
        stopped: Why no further call is allowed; once set, it stays.
        broken: True if grading stopped because the grader fails.
    """

    max_calls: int | None = None
    max_cost: float | None = None
    price_per_1k_tokens: float | None = None
    timeout: float | None = None

    calls: int = 0
    tokens: int = 0
    stopped: str | None = None
    broken: bool = False

    def __post_init__(self) -> None:
        self._reserved_tokens = 0
        self._deadline = None if self.timeout is None else time.monotonic() + self.timeout

    @property
    def cost(self) -> float:
        """Cost of the settled calls; 0 without a price."""
        return self._cost(self.tokens)

    def _cost(self, tokens: int) -> float:
        return tokens / 1000 * (self.price_per_1k_tokens or 0.0)

    @property
    def seconds_left(self) -> float | None:
        """Seconds until the timeout; None without one."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def stop(self, reason: str) -> None:
        """Allows no further call; the first reason is kept."""
        self.stopped = self.stopped or reason

    def reserve(self, tokens: int = 0) -> bool:
        """Reserves one call of about `tokens` tokens; returns False if it is not allowed."""
        if self.max_calls is not None and self.calls >= self.max_calls:
            self.stop(f"--max_grader_calls {self.max_calls} is spent")
        if self.max_cost is not None and self._cost(self.tokens + self._reserved_tokens + tokens) > self.max_cost:
            self.stop(f"--max_cost {self.max_cost} is spent")
        if self.seconds_left == 0.0:
            self.stop(f"--grading_timeout {self.timeout} is over")
        if self.stopped:
            return False
        self.calls += 1
        self._reserved_tokens += tokens
        return True

    def settle(self, reserved: int, used: int) -> None:
        """Replaces a call's `reserved` tokens by those that it `used`."""
        self._reserved_tokens -= reserved
        self.tokens += used

    def allowed(self, items: Iterable[T]) -> Iterator[T]:
        """Yields `items`, reserving one call without tokens for each, until no call is allowed."""
        for item in items:
            if not self.reserve():
                return
            yield item
