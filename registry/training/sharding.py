"""Which samples of a sequence each worker gets, batch by batch.

With ``count`` shards and batches of ``batch_size`` samples, let G be ``batch_size * count``. Global
step s covers the samples ``[s * G, (s + 1) * G)`` of the sequence, and each shard gets its slice of
every step. The steps are thus the same for any number of shards with the same G, and a single
number, the samples consumed, is the position of all shards.
"""

from __future__ import annotations

import operator
from collections.abc import Iterator
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
        return self._in_whole_steps(np.arange(after, until))

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
        return self.offsets_of(np.arange(after, until), length)

    def offsets_of(self, local: Positions, length: int) -> Positions:
        """Return the offsets of some of the shard's samples, in ascending order, as above."""
        steps, rest = divmod(length, self.step)
        whole = steps * self.batch_size
        offsets = self._in_whole_steps(local)
        if self.count > 1 and len(local) and local[-1] >= whole:
            # Where they would be if the last step were whole.
            last = int(np.searchsorted(local, whole))
            offsets[last:] = local[last:] + (steps * self.step + self._slice(rest)[0] - whole)
        return offsets

    def worker_offsets(
        self,
        worker: Shard,
        length: int,
        *,
        skip: int = 0,
        drop_remainder: bool = False,
    ) -> Iterator[Positions]:
        """Yield the offsets, in a finite sequence, of one of the shard's worker processes.

        Process i of n gets the shard's batches i, i + n, i + 2n … without the first ``skip`` of
        these, `chunk` samples at a time. Taken in turn, the batches of all processes are those of
        the shard, for any number of processes.
        """
        index, count = worker
        size = self.size(length, drop_remainder=drop_remainder)
        numbers = np.arange(index + skip * count, -(-size // self.batch_size), count)
        rows = np.arange(self.batch_size)
        for after in range(0, len(numbers), at_once := self.chunk // self.batch_size):
            batches = numbers[after : after + at_once, None]
            local = (batches * self.batch_size + rows).ravel()
            yield self.offsets_of(local[local < size], length)

    def _in_whole_steps(self, local: Positions) -> Positions:
        if self.count == 1:
            return local
        step, within = np.divmod(local, self.batch_size)
        offsets: Positions = step * self.step + self.index * self.batch_size + within
        return offsets

    def _slice(self, rest: int) -> tuple[int, int]:
        return rest * self.index // self.count, rest * (self.index + 1) // self.count
