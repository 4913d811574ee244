"""What grading may cost: calls, money, time, failures. One budget for all that a run asks, whatever the grader."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TypeVar

T = TypeVar("T")


@dataclass
class Budget:
    """Counts calls and tokens and says when there must be no further call.

    A call is reserved, by an estimate, before it is made and settled afterwards, so that calls in flight count as well:
    the last of what is allowed may go unspent, and is overspent only by what a call takes above its estimate. `stopped`
    says why no further call is allowed; it never becomes None again. `broken`: that is so because the grader fails.
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
        self._reserved = 0
        self._deadline = None if self.timeout is None else time.monotonic() + self.timeout

    @property
    def cost(self) -> float:
        """What the calls have cost so far; 0 without a price."""
        return self._cost(self.tokens)

    def _cost(self, tokens: int) -> float:
        return tokens / 1000 * (self.price_per_1k_tokens or 0.0)

    @property
    def seconds_left(self) -> float | None:
        """Until no call is allowed any more; None without a time limit."""
        return None if self._deadline is None else max(self._deadline - time.monotonic(), 0.0)

    def stop(self, why: str) -> None:
        """Allow no further call."""
        self.stopped = self.stopped or why

    def reserve(self, tokens: int = 0) -> bool:
        """Whether one more call of about `tokens` tokens may be made; counts it if so."""
        if self.max_calls is not None and self.calls >= self.max_calls:
            self.stop(f"--max_grader_calls {self.max_calls} is spent")
        if self.max_cost is not None and self._cost(self.tokens + self._reserved + tokens) > self.max_cost:
            self.stop(f"--max_cost {self.max_cost} is spent")
        if self.seconds_left == 0.0:
            self.stop(f"--grading_timeout {self.timeout} is over")
        if self.stopped:
            return False
        self.calls += 1
        self._reserved += tokens
        return True

    def settle(self, reserved: int, used: int) -> None:
        """A call for which `reserved` tokens were set aside has used `used`."""
        self._reserved -= reserved
        self.tokens += used

    def allowed(self, items: Iterable[T]) -> Iterator[T]:
        """`items`, each reserved as one call without tokens, until no call is allowed any more."""
        for item in items:
            if not self.reserve():
                return
            yield item
