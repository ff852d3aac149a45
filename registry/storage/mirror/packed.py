"""Records with values of variable width as arrays: headers in rows, and values in units."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np

from registry.samples.arrays import Positions, Rows
from registry.samples.codec import Codec, Column
from registry.samples.fields import Fields
from registry.storage.mirror.value_units import (
    HEAD,
    UNIT,
    Sums,
    Units,
    framed,
    row_sums,
    sums,
    unit_counts,
)

LONG = 24
"""Units of a record from which on it is faster to copy records one by one."""


@dataclass(frozen=True)
class Packed:
    """Records of one schema, in order.

    ``rows`` (uint8, one per record) begin with the records' headers. ``units`` (int64 of shape
    ``(n, 4)``) are those of all values (`value_units`): of each record, those of its features in
    order. ``counts`` and ``lengths`` (int64 of shape ``(records, values)``) have the number of
    units and of bytes of each value. A row without a record has no units, and lengths of 0.
    """

    rows: Rows
    units: Units
    counts: Positions
    lengths: Positions

    @classmethod
    def of_records(cls, codec: Codec, data: bytes, sizes: Positions) -> Self:
        """Return records of these sizes in bytes, which are end to end in ``data``."""
        view = memoryview(data) if _are_long(len(data), len(sizes)) else data
        fields = Fields.of_records(codec, view, sizes)
        starts, ends = fields.starts, fields.starts + fields.lengths
        ranges = zip(starts.ravel().tolist(), ends.ravel().tolist(), strict=True)
        units = framed([view[start:end] for start, end in ranges])
        return cls(fields.headers, units, unit_counts(fields.lengths), fields.lengths)

    @property
    def fields(self) -> Fields:
        """The records taken apart."""
        return Fields(self.rows, self._data, self._starts, self.lengths)

    @cached_property
    def totals(self) -> Positions:
        """The number of units of each record."""
        return row_sums(self.counts)

    def sums(self) -> Sums:
        """Return the sum of each value, shape ``(records, values)``; 0 where it has no units."""
        return sums(self.units, self.counts.ravel()).reshape(self.counts.shape)

    def values(self, index: int) -> list[bytes | memoryview]:
        """Return the bytes of one variable-width feature, the ``index``-th, in each record."""
        starts = self._starts[:, index]
        ends, data = (starts + self.lengths[:, index]).tolist(), self._data
        return [data[start:end] for start, end in zip(starts.tolist(), ends, strict=True)]

    def columns(self, codec: Codec) -> dict[str, Column]:
        """Return the records as columns, as `Codec.decode` does."""
        return codec.decode_values(self.rows, [*map(self.values, range(self.counts.shape[1]))])

    def records(self, codec: Codec) -> list[bytes]:
        """Return the records. A row without one results in its header alone."""
        size = codec.header.itemsize
        headers = np.ascontiguousarray(self.rows[:, :size]).view(f"V{size}")[:, 0].tolist()
        values = map(self.values, range(self.counts.shape[1]))
        return [b"".join(parts) for parts in zip(headers, *values, strict=True)]

    @cached_property
    def _data(self) -> bytes | memoryview:
        data = self.units.reshape(-1).view(np.uint8).data
        return data if _are_long(len(data), len(self.rows)) else data.tobytes()

    @cached_property
    def _starts(self) -> Positions:
        ends = self.counts.ravel().cumsum().reshape(self.counts.shape)
        return (ends - self.counts) * UNIT + HEAD


def _are_long(size: int, count: int) -> bool:
    """Return whether records are cut out faster as slices of a memoryview than of bytes.

    These are copies. But they are made faster, and the garbage collector does not look at them.
    """
    return size > LONG * UNIT * count


def gather_units(values: Units, begins: Positions, totals: Positions) -> Units:
    """Copy the units of rows: ``totals`` of them each, from ``begins`` on."""
    filled = totals > 0
    if np.count_nonzero(filled) < len(filled):
        begins, totals = begins[filled], totals[filled]
    # Of rows in random order, the first ones mostly say it.
    if len(begins) and all(_follow(begins[:rows], totals) for rows in (4, None)):
        return values[begins[0] : begins[-1] + totals[-1]].copy()
    ends = totals.cumsum()
    if len(ends) and ends[-1] > LONG * len(ends):
        data = values.reshape(-1).view(np.uint8).data
        ranges = zip((begins * UNIT).tolist(), ((begins + totals) * UNIT).tolist(), strict=True)
        whole = b"".join([data[start:end] for start, end in ranges])
        return np.frombuffer(whole, np.int64).reshape(-1, UNIT // 8)
    offsets = (begins - ends + totals).repeat(totals)
    offsets += np.arange(len(offsets))
    # As one void per unit, NumPy copies each in one piece.
    units: Units = values.view(f"V{UNIT}")[:, 0].take(offsets).view(np.int64)
    return units.reshape(-1, UNIT // 8)


def _follow(begins: Positions, totals: Positions) -> bool:
    """Return whether the units of each row follow those of the row before."""
    return bool((begins[1:] == (begins + totals[: len(begins)])[:-1]).all())


def divided(totals: Positions, limit: int) -> Iterator[slice]:
    """Yield parts of consecutive rows that have at most ``limit`` units, or are a single row."""
    ends, start = np.cumsum(totals), 0
    while start < len(totals):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + limit, side="right")))
        yield slice(start, stop)
        start = stop
