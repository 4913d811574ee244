"""Batches of questions of similar length, which waste little compute on padding."""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

BUCKET_BATCHES = 8  # batches that are drawn at random before they are sorted by length


class LengthBucketSampler(Sampler[int]):
    """Yields all rows once per epoch, in an order of which every `batch_size` rows form a batch of similar length.

    Buckets of `BUCKET_BATCHES` batches are drawn at random, sorted by length and cut into batches; the batches of all
    buckets come in random order, and the rows that do not fill a batch come last. The order is a function of the seed
    and the epoch, so that a stopped training resumes in it: transformers' `group_by_length` draws it from the global
    generator, and cannot.

    Args:
        length_N: Tokens of each question, [N].
        batch_size: Rows per batch.
        seed: Seed of the orders.
    """

    def __init__(self, length_N: Tensor, batch_size: int, seed: int):
        self.length_N, self.batch_size = length_N, batch_size
        self.seed, self.epoch = seed, 0

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose order comes next; transformers calls it."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.length_N)

    def __iter__(self) -> Iterator[int]:
        rng = np.random.default_rng((self.seed, self.epoch))
        row_N = torch.from_numpy(rng.permutation(len(self)))
        full_N, rest_B = row_N.tensor_split([len(self) - len(self) % self.batch_size])
        batches: list[Tensor] = []
        for bucket in full_N.split(BUCKET_BATCHES * self.batch_size):
            batches += bucket[self.length_N[bucket].argsort(stable=True)].split(self.batch_size)
        yield from (row for i in rng.permutation(len(batches)) for row in batches[i].tolist())
        yield from rest_B.tolist()
