"""Batches of questions of like length: little is spent on padding, and what stands in a batch is still drawn."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

POOL = 8  # batches that are drawn at random before they are sorted by length


class LikeLengths(Sampler[int]):
    """Rows in an order of which every `batch_size` make a batch: all rows once, in another order every time.

    Pools of `POOL` batches are drawn at random, sorted by length and cut into batches, and the batches of all pools
    come in random order. What does not fill a batch comes last. The order is a function of the seed and of the epoch,
    which transformers sets, so that a training that was stopped goes on with it.
    """

    def __init__(self, length_N: Tensor, batch_size: int, seed: int):
        self.length_N = length_N
        self.batch_size = batch_size
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.length_N)

    def __iter__(self) -> Iterator[int]:
        draw = np.random.default_rng((self.seed, self.epoch))
        drawn_N = torch.from_numpy(draw.permutation(len(self)))
        left_over = len(self) % self.batch_size
        drawn_N, last_B = drawn_N[: len(self) - left_over], drawn_N[len(self) - left_over :]
        batches: list[Tensor] = []
        for pool in drawn_N.split(POOL * self.batch_size):
            batches += pool[self.length_N[pool].argsort(stable=True)].split(self.batch_size)
        yield from (row for i in draw.permutation(len(batches)) for row in batches[i].tolist())
        yield from last_B.tolist()
