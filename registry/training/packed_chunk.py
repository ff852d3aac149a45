"""Samples as arrays that a TensorFlow graph decodes, a chunk at a time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from registry.samples.arrays import Positions, Rows
from registry.samples.codec import Codec
from registry.storage.mirror.packed import Packed, gather_units
from registry.storage.mirror.value_units import NO_VALUES, Units


@dataclass(frozen=True)
class PackedChunk:
    """Samples of one schema, in order.

    ``rows`` (uint8, one per sample) begin with the values of fixed width, as records do. ``begins``
    and ``counts`` (int64 of shape ``(samples, values)``) say which of the ``units`` are those of
    each value of variable width (`value_units`).
    """

    rows: Rows
    units: Units
    begins: Positions
    counts: Positions

    @classmethod
    def of_rows(cls, rows: Rows) -> Self:
        """Return samples without values of variable width."""
        none = np.empty((len(rows), 0), np.int64)
        return cls(rows, NO_VALUES, none, none)

    @classmethod
    def of_packed(cls, packed: Packed) -> Self:
        """Return samples whose units are in order."""
        ends = np.cumsum(packed.counts.ravel()).reshape(packed.counts.shape)
        return cls(packed.rows, packed.units, ends - packed.counts, packed.counts)

    @classmethod
    def empty(cls, codec: Codec) -> Self:
        """Return a chunk of no samples."""
        none = np.empty((0, len(codec.features.variable)), np.int64)
        return cls(np.empty((0, codec.header.itemsize), np.uint8), NO_VALUES, none, none)

    @classmethod
    def joined(cls, chunks: Sequence[Self]) -> Self:
        """Return the samples of chunks one after another."""
        if len(chunks) == 1:
            return chunks[0]
        ends = np.cumsum([len(chunk.units) for chunk in chunks]).tolist()
        starts = [end - len(chunk.units) for chunk, end in zip(chunks, ends, strict=True)]
        # After a conversion, the mirror's rows are longer.
        width = min(chunk.rows.shape[1] for chunk in chunks)
        return cls(
            np.concatenate([chunk.rows[:, :width] for chunk in chunks]),
            np.concatenate([chunk.units for chunk in chunks]),
            np.concatenate([c.begins + start for c, start in zip(chunks, starts, strict=True)]),
            np.concatenate([chunk.counts for chunk in chunks]),
        )

    def __len__(self) -> int:
        return len(self.rows)

    def units_of(self, values: Sequence[int]) -> Units:
        """Return the units of some values of each sample, end to end."""
        begins, counts = self.begins[:, values].ravel(), self.counts[:, values].ravel()
        ends = begins + counts
        if len(begins) and (ends[:-1] == begins[1:]).all():
            return self.units[begins[0] : ends[-1]]
        return gather_units(self.units, begins, counts)

    def part(self, after: int, until: int) -> Self:
        """Return the samples ``[after, until)``."""
        if (after, until) == (0, len(self)):
            return self
        begins, counts = self.begins[after:until], self.counts[after:until]
        first = begins.min(initial=len(self.units))
        last = (begins + counts).max(initial=first)
        return type(self)(self.rows[after:until], self.units[first:last], begins - first, counts)


def in_whole_batches(chunks: Iterable[PackedChunk], batch_size: int) -> Iterator[PackedChunk]:
    """Yield samples as chunks of whole batches, and at the end the rest; and chunks without any."""
    pending: list[PackedChunk] = []
    missing = batch_size
    for chunk in chunks:
        after = 0
        if pending and len(chunk):
            after = min(missing, len(chunk))
            pending.append(chunk.part(0, after))
            missing -= after
            if not missing:
                yield PackedChunk.joined(pending)
                pending, missing = [], batch_size
        until = len(chunk) - (len(chunk) - after) % batch_size
        if until > after or not len(chunk):
            yield chunk.part(after, until)
        if until < len(chunk):
            pending, missing = [chunk.part(until, len(chunk))], batch_size - len(chunk) + until
    if pending:
        yield PackedChunk.joined(pending)
