"""Chunks of samples that are read by offsets, and the batches that they make."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from registry.samples.arrays import Positions
from registry.samples.codec import Column
from registry.samples.features import Features
from registry.storage.log.reader import Log
from registry.training import batching
from registry.training.image_batches import image_batches
from registry.training.packed_chunk import PackedChunk

GATHERED_ROWS = 1 << 14
"""Samples that are gathered at a time, at most, unless a batch is larger."""
CACHED_BYTES = 3 << 19
"""Bytes of samples that are gathered at a time as arrays, to stay in the processor's cache."""
PACKED_BYTES = 2 * CACHED_BYTES
"""The same for samples of variable width, for which a graph runs more operations a chunk."""
COPIED_BYTES = 3 << 21
"""The same for samples that are copied one by one, of which larger chunks cost less."""


class Samples(Protocol):
    """What chunks of samples are read from, by offsets: an epoch, or epochs of a mix."""

    def packed(self, offsets: Positions, batch_size: int) -> Iterator[PackedChunk]:
        """Yield the samples at these offsets as arrays, in order, in whole batches."""

    def columns(self, offsets: Positions, batch_size: int = 1) -> Iterator[dict[str, Column]]:
        """Yield the samples at these offsets as columns, in order, in whole batches."""

    def samples(
        self, offsets: Positions, batch_size: int
    ) -> Iterator[tuple[Positions, dict[str, Column]]]:
        """Yield positions (`log_positions`) and samples as columns, in whole batches."""


def rows_in_chunk(width: int, batch_size: int, *, fixed_width: bool, as_arrays: bool = True) -> int:
    """Return how many records of ``width`` bytes to gather at a time: whole batches, a few MiB.

    ``as_arrays`` says of those of variable width whether they are gathered in arrays, as those of
    fixed width are, or one by one.
    """
    size = CACHED_BYTES if fixed_width else PACKED_BYTES if as_arrays else COPIED_BYTES
    rows = min(GATHERED_ROWS, size // max(1, width))
    return max(1, rows // batch_size) * batch_size


def batches_of(
    chunks: Iterable[tuple[Samples, Positions]],
    batch_size: int,
    logs: Sequence[Log],
    features: Features,
    channels: int | None,
) -> Iterator[dict[str, Column]]:
    """Yield batches of the samples at these offsets, in order; the last may be shorter.

    With ``channels``, images are decoded as by `image_batches`; with None, they are files.
    """
    # Generators all the way: a run's epoch is pinned only when its first batch is asked for.
    if channels is None:
        columns = (part for chunk, offsets in chunks for part in chunk.columns(offsets, batch_size))
        return batching.batches(columns, batch_size)
    parts = (part for chunk, offsets in chunks for part in chunk.samples(offsets, batch_size))
    return image_batches(logs, features, parts, batch_size, channels)
