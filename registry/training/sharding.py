"""Which samples of a sequence each worker gets, batch by batch.

With ``count`` shards and batches of ``batch_size`` samples, let G be ``batch_size * count``. Global
step s covers the samples ``[s * G, (s + 1) * G)`` of the sequence, and each shard gets its slice of
every step. The steps are thus the same for any number of shards with the same G, and a single
number, the samples consumed, is the position of all shards.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import SupportsIndex

import numpy as np

from registry.errors import FeatureError
from registry.samples.arrays import Positions

LARGEST = 1 << 30
"""The largest batch and number of shards: their product still fits in a 64-bit integer."""
CHUNK_ROWS = 1 << 18
"""How many samples are located at a time, unless a batch is larger: of an index in memory, the
processor's cache then gets each line once for a few samples."""
Shard = tuple[int, int]
"""A worker's index and the number of workers."""
ALONE: Shard = (0, 1)
"""The shard of a single worker, which gets all samples."""


@dataclass(frozen=True)
class Share:
    """One worker's part of every global step."""

    batch_size: int
    index: int
    count: int

    @classmethod
    def of(cls, batch_size: SupportsIndex, shard: Shard) -> Share:
        """Return the share for these arguments; raises `FeatureError` if they are out of range."""
        size, (index, count) = operator.index(batch_size), shard
        # Compared as Python integers, which do not overflow; NumPy would wrap silently later.
        if not 0 < size <= LARGEST:
            raise FeatureError(f"batch_size {size} is not a whole number from 1 to {LARGEST:,}")
        if not 0 <= operator.index(index) < operator.index(count) <= LARGEST:
            raise FeatureError(f"shard {shard}: the index counts from 0 up to the number of shards")
        return cls(size, index, count)

    @property
    def step(self) -> int:
        """The samples of all shards in a global step."""
        return self.batch_size * self.count

    @property
    def chunk(self) -> int:
        """How many of the shard's samples are located at a time: whole batches."""
        return max(1, CHUNK_ROWS // self.batch_size) * self.batch_size

    def stream_offsets(self, after: int, until: int) -> Positions:
        """Return the offsets of the shard's samples ``[after, until)`` in an endless sequence."""
        local = np.arange(after, until)
        if self.count == 1:
            return local
        step, within = np.divmod(local, self.batch_size)
        offsets: Positions = step * self.step + self.index * self.batch_size + within
        return offsets

    def size(self, length: int, *, drop_remainder: bool) -> int:
        """Return how many samples of a sequence of this length belong to the shard."""
        steps, rest = divmod(length, self.step)
        # The last, shorter step gives some shards fewer samples than others, perhaps none. Workers
        # that exchange gradients in each step need the same number of them, so it can be left out.
        first, last = (0, 0) if drop_remainder else self._slice(rest)
        return steps * self.batch_size + last - first

    def epoch_offsets(self, after: int, until: int, length: int) -> Positions:
        """Return the offsets of the shard's samples ``[after, until)`` in a finite sequence.

        The rest after the last whole step is one more, shorter step, which the shards divide
        evenly.
        """
        steps, rest = divmod(length, self.step)
        whole = steps * self.batch_size
        offsets = self.stream_offsets(after, until)
        if until > whole and self.count > 1:
            # `stream_offsets` puts these where they would be if the last step were whole.
            last = np.arange(max(after, whole), until) - whole
            offsets[len(offsets) - len(last) :] = steps * self.step + self._slice(rest)[0] + last
        return offsets

    def _slice(self, rest: int) -> tuple[int, int]:
        return rest * self.index // self.count, rest * (self.index + 1) // self.count
