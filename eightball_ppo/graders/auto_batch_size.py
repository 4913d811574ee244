"""Where a local grader's batch does not fit into memory: half of it, and half of that, each time with a notice."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from eightball_ppo.errors import IncompleteError
from eightball_ppo.runtime.system_errors import is_out_of_memory

logger = logging.getLogger(__name__)

T = TypeVar("T")


class AutoBatchSize:
    """Questions in one forward pass: as many as asked for, until they do not fit into memory."""

    def __init__(self, most: int):
        self.most = most

    def fitting(self, work: Callable[[int], T]) -> T:
        """What `work` returns for the largest batch size that fits, which is remembered.

        Raises:
            IncompleteError: not even one question does.
        """
        while True:
            try:
                return work(self.most)
            except (RuntimeError, MemoryError, OSError) as error:
                if not is_out_of_memory(error):
                    raise
            self._halve()  # out here nothing holds the tensors of that batch any more

    def _halve(self) -> None:
        if self.most == 1:
            raise IncompleteError(
                "the grader is out of memory with a single question; free some or take a smaller grader, then run the "
                "same command again: grades that were made are kept"
            )
        logger.warning("the grader is out of memory with %d questions at once: on with %d", self.most, self.most // 2)
        self.most //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
