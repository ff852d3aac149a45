"""Which of a sequence of samples each worker gets, batch by batch.

With ``count`` shards and batches of ``batch_size`` samples each, global step s covers the samples
``[s * G, (s + 1) * G)`` of the sequence, G being ``batch_size * count``, and each shard gets its
slice of every step. So the steps are the same for any number of shards with the same G, and one
number, the samples consumed, says where all of them are.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np

from registry.errors import FeatureError
from registry.samples.arrays import Positions

LARGEST = 1 << 30
"""Samples of a batch, and shards, at most: products of both are still 64-bit integers."""
CHUNK_ROWS = 1 << 14
"""How many samples are looked for at a time, or a batch, where that is more."""
Shard = tuple[int, int]
"""A worker's index and the number of workers."""


@dataclass(frozen=True)
class Share:
    """One worker's part of every global step."""

    batch_size: int
    index: int
    count: int

    @classmethod
    def of(cls, batch_size: SupportsIndex, shard: Shard) -> Share:
        """Check the sizes that a user gave."""
        size, (index, count) = operator.index(batch_size), shard
        if not 0 < size <= LARGEST:
            raise FeatureError(f"batch_size {size} is not a whole number from 1 to {LARGEST:,}")
        if not 0 <= operator.index(index) < operator.index(count) <= LARGEST:
            raise FeatureError(f"shard {shard}: the index counts from 0 up to the number of shards")
        return cls(size, index, count)

    @property
    def step(self) -> int:
        """Samples of all shards in a global step."""
        return self.batch_size * self.count

    @property
    def chunk(self) -> int:
        """The shard's samples that are looked for at a time: whole batches."""
        return max(1, CHUNK_ROWS // self.batch_size) * self.batch_size

    def endless(self, after: int, until: int) -> Positions:
        """Return where the shard's samples ``[after, until)`` stand in an endless sequence."""
        local = np.arange(after, until)
        if self.count == 1:
            return local
        step, within = np.divmod(local, self.batch_size)
        places: Positions = step * self.step + self.index * self.batch_size + within
        return places

    def size(self, length: int, *, drop_remainder: bool) -> int:
        """Return how many samples of a sequence of this length are the shard's."""
        steps, rest = divmod(length, self.step)
        first, last = (0, 0) if drop_remainder else self._slice(rest)
        return steps * self.batch_size + last - first

    def bounded(self, after: int, until: int, length: int) -> Positions:
        """Return where the shard's samples ``[after, until)`` stand in a sequence of this length.

        What is left at its end is one more step, of which each shard gets an even share.
        """
        steps, rest = divmod(length, self.step)
        whole = steps * self.batch_size
        places = self.endless(after, until)
        if until > whole and self.count > 1:
            last = np.arange(max(after, whole), until) - whole
            places[len(places) - len(last) :] = steps * self.step + self._slice(rest)[0] + last
        return places

    def _slice(self, rest: int) -> tuple[int, int]:
        return rest * self.index // self.count, rest * (self.index + 1) // self.count
