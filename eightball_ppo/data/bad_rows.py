"""All problems of a file in one message, or the count of the rows that were skipped."""

from eightball_ppo.data.columns import log_once
from eightball_ppo.errors import InputError

SHOWN = 10  # problems that a message names


class BadRows:
    """Collects the rows of a source that cannot be read.

    Args:
        source: The name of the source, for messages.
        skip: Whether they are left out instead of refused.
    """

    def __init__(self, source: str, skip: bool):
        self.source, self.skip = source, skip
        self.count = 0
        self._first: list[str] = []

    def add(self, problem: Exception) -> None:
        """Counts one bad row."""
        self.count += 1
        if self.count <= SHOWN:
            self._first.append(str(problem))

    def finish(self) -> None:
        """Ends the reading of the source.

        Raises:
            InputError: There are bad rows, and they are not skipped. The message names the first ten.
        """
        if self.count and not self.skip:
            rest = f"; and {self.count - SHOWN} more bad rows" if self.count > SHOWN else ""
            raise InputError(f"{'; '.join(self._first)}{rest}; fix them, or pass --skip_bad_rows")
        if self.count:
            rows = "row is" if self.count == 1 else "rows are"
            log_once(f"{self.source}: {self.count} bad {rows} left out, e.g. {self._first[0]}")
