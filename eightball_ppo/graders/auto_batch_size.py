"""A local grader's batch size, halved with a warning whenever a batch runs out of memory."""

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from eightball_ppo.errors import IncompleteError
from eightball_ppo.runtime.system_errors import is_out_of_memory

logger = logging.getLogger(__name__)

T = TypeVar("T")


class AutoBatchSize:
    """The number of questions in one forward pass; `size` is halved until a batch fits into memory, and stays so."""

    def __init__(self, size: int):
        self.size = size

    def run(self, work: Callable[[int], T]) -> T:
        """Calls `work(batch_size)` with the largest batch size that fits into memory.

        Raises:
            IncompleteError: A batch of one question does not fit.
        """
        while True:
            try:
                return work(self.size)
            except (RuntimeError, MemoryError, OSError) as error:
                if not is_out_of_memory(error):
                    raise
            # behind the `except`, so that no traceback holds the tensors of that batch
            if self.size == 1:
                fix = "free some or take a smaller grader, then run the same command again: finished grades are stored"
                raise IncompleteError(f"the grader is out of memory with a single question; {fix}")
            self.size //= 2
            logger.warning("the grader is out of memory; its batch size is now %d", self.size)
            torch.cuda.empty_cache()
