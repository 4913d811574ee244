"""Which questions each update of PPO asks: a function of the seed, the number of the update and the process alone.

It stands where TRL has a shuffling DataLoader. That one's order hangs on the state of a random generator, on what was
drawn before; this one can go on at any update. Letters: B rows of one process's batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from eightball_ppo.trl_adapters.prompt_ids import PromptVocabulary


@dataclass
class RolloutSampler:
    """Batches of TRL's `input_ids` without end: pass after pass over the questions, each in an order of its own.

    A question stands `generations` times in a pass. What is left of a pass, too little for a batch of every process,
    is dropped. `next_update` counts from 0 and may be set: that is where iteration goes on.
    """

    ids: PromptVocabulary
    num_questions: int
    generations: int
    batch: int
    seed: int
    rank: int = 0
    world_size: int = 1
    next_update: int = 0
    _pass: tuple[int, Tensor] = field(default=(-1, torch.empty(0, dtype=torch.long)), repr=False)

    @property
    def updates_per_pass(self) -> int:
        return self.num_questions * self.generations // (self.batch * self.world_size)

    def rows_B(self, update: int) -> Tensor:
        """Question rows that this process asks in the update of this number."""
        number, within = divmod(update, self.updates_per_pass)
        if self._pass[0] != number:
            order = np.random.default_rng((self.seed, number)).permutation(self.num_questions * self.generations)
            self._pass = (number, torch.from_numpy(order % self.num_questions))
        start = (within * self.world_size + self.rank) * self.batch
        return self._pass[1][start : start + self.batch]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            rows_B = self.rows_B(self.next_update)
            self.next_update += 1
            yield {"input_ids": self.ids.question_ids(rows_B).unsqueeze(1)}
