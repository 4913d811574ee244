"""Which questions each update of PPO asks: a function of the seed, the number of the update and the rank alone.

It replaces TRL's shuffling DataLoader, whose order depends on the state of a random generator; this one can resume at
any update.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from eightball_ppo.trl_adapters.prompt_ids import PromptVocabulary


@dataclass
class RolloutSampler:
    """Endless batches of TRL's `input_ids`: epoch after epoch, each in a new order.

    An epoch's remainder that does not fill a batch of every rank is dropped.

    Args:
        ids: Layout of the token ids.
        num_questions: Number of questions, N.
        repeats: How often each question occurs in an epoch.
        batch: Episodes per update and rank, B.
        seed: Seed of the orders.
        rank: This process's rank.
        world_size: Number of processes.
        next_update: Number of the next update, from 0; may be set to resume there.
    """

    ids: PromptVocabulary
    num_questions: int
    repeats: int
    batch: int
    seed: int
    rank: int = 0
    world_size: int = 1
    next_update: int = 0
    _epoch: tuple[int, Tensor] = field(default=(-1, torch.empty(0, dtype=torch.long)), repr=False)

    def rows_B(self, update: int) -> Tensor:
        """Question rows [B] that this rank asks in an update."""
        updates_per_epoch = self.num_questions * self.repeats // (self.batch * self.world_size)
        epoch, position = divmod(update, updates_per_epoch)
        if self._epoch[0] != epoch:
            order = np.random.default_rng((self.seed, epoch)).permutation(self.num_questions * self.repeats)
            self._epoch = (epoch, torch.from_numpy(order % self.num_questions))
        start = (position * self.world_size + self.rank) * self.batch
        return self._epoch[1][start : start + self.batch]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        while True:
            rows_B = self.rows_B(self.next_update)
            self.next_update += 1
            yield {"input_ids": self.ids.question_ids(rows_B).unsqueeze(1)}
