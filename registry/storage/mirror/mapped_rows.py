"""The rows of a mirror and their values, as memory maps that are read in any order.

A row is found by its position, and the values of variable width by what their row says of them
(`RowLayout`). What is taken is checked by seals and sums.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions, Rows
from registry.samples.codec import Column
from registry.samples.schema import Schema
from registry.storage.mirror.checksums import SealedRows
from registry.storage.mirror.packed import Packed, divided, gather_units
from registry.storage.mirror.row_buffer import row_buffer
from registry.storage.mirror.row_layout import RowLayout
from registry.storage.mirror.value_units import UNIT, Sums, Units, row_sums

PART_UNITS = 1 << 17
"""Units of values that are copied at a time where all rows are read."""
PART_ROWS = 1 << 10
"""Rows among which the last one with values is looked for at a time."""

Mask = npt.NDArray[np.bool_]


class MappedRows:
    """Rows in the layout of a schema, and their values.

    ``rows`` are sealed rows, uint8 of shape ``(position, stride)``. ``values`` are the units of all
    values of variable width, int64 of shape ``(units, 4)``.
    """

    def __init__(
        self, schema: Schema, records: npt.NDArray[np.uint8], values: npt.NDArray[np.int64]
    ) -> None:
        self.schema = schema
        self.fixed_width: bool = schema.codec.fixed_width
        self.layout: RowLayout = RowLayout(schema.codec)
        self.rows: Rows = records.reshape(-1, self.layout.seals.stride)
        self.values: Units = values.reshape(-1, UNIT // 8)
        self.position: int = len(self.rows)

    @property
    def seals(self) -> SealedRows:
        """The length of the rows, and their seals."""
        return self.layout.seals

    @cached_property
    def _flat_rows(self) -> npt.NDArray[Any]:
        return self.rows.view(self._row)[:, 0]

    @cached_property
    def _row(self) -> np.dtype[Any]:
        return np.dtype(f"V{self.seals.stride}")

    def take_rows(self, positions: Positions, schema: Schema) -> tuple[Rows, Mask]:
        """Copy records as those of a schema of fixed width, uint8 ``(count, width or more)``.

        The schema is not newer than that of the files. The second array says which rows are broken.
        """
        assert schema.codec.fixed_width
        # Rows of a newer layout begin with the bytes of an older one.
        return self.sealed_rows(positions)

    def take_packed(self, positions: Positions, schema: Schema) -> tuple[Packed, Mask]:
        """Copy records as those of a schema of variable width, not newer than that of the files.

        The second array says which are broken: their rows, or their values. A broken row has no
        units here.
        """
        packed, expected, broken = self._as_older(positions, schema)
        damaged = packed.sums() != expected
        # Of one value of variable width, without a loop over rows of one item.
        return packed, broken | (damaged[:, 0] if damaged.shape[1] == 1 else damaged.any(axis=1))

    def take_unchecked(self, positions: Positions, schema: Schema) -> Packed:
        """Return what `take_packed` does, but damaged values as they are."""
        return self._as_older(positions, schema)[0]

    def take_values(
        self, positions: Positions, feature: str
    ) -> tuple[list[bytes | memoryview | None], Mask]:
        """Copy the values of one feature of variable width; None where there is no record.

        The second array says which are broken: their rows, or these values.
        """
        index = list(self.schema.features.variable).index(feature)
        packed, expected, broken = self._gather(positions, slice(index, index + 1))
        broken |= packed.sums()[:, 0] != expected[:, 0]
        pairs = zip(packed.values(0), packed.totals.tolist(), strict=True)
        return [value if total else None for value, total in pairs], broken

    def _as_older(self, positions: Positions, schema: Schema) -> tuple[Packed, Sums, Mask]:
        """Return what `_gather` does, as records of a schema that is not newer."""
        # Its values are the first ones of each record.
        older = self.layout if schema.codec is self.schema.codec else RowLayout(schema.codec)
        packed, expected, broken = self._gather(positions, slice(0, older.values))
        if older.header != self.layout.header:
            lengths = slice(self.layout.lengths, self.layout.lengths + 4 * older.values)
            parts = packed.rows[:, : older.lengths], packed.rows[:, lengths]
            packed = replace(packed, rows=np.concatenate(parts, axis=1))
        return packed, expected, broken

    def _gather(self, positions: Positions, features: slice) -> tuple[Packed, Sums, Mask]:
        """Copy rows and the units of some features' values, with their sums in the rows.

        The last array says which rows are broken; they have no units.
        """
        rows, broken = self.sealed_rows(positions)
        fields = self.layout.fields(rows)
        begins, lengths = fields["begin"], fields["lengths"].astype(np.int64)
        counts = self.layout.unit_counts(fields)
        broken |= begins + row_sums(counts) > len(self.values)
        # What a damaged row says of its values may be anything.
        if np.count_nonzero(broken):
            counts[broken] = lengths[broken] = 0
        if features.start:
            begins = begins + counts[:, : features.start].sum(axis=1)
        counts = counts[:, features]
        totals = row_sums(counts)
        units = gather_units(self.values, begins * (totals > 0), totals)
        packed = Packed(rows, units, counts, lengths[:, features])
        return packed, fields["sums"][:, features] * (counts > 0), broken

    def units_before(self, position: int) -> int:
        """Return how many units the rows before a position have."""
        if not self.layout.values:
            return 0
        for after in range((position - 1) // PART_ROWS * PART_ROWS, -1, -PART_ROWS):
            rows, broken = self.sealed_rows(np.arange(after, min(after + PART_ROWS, position)))
            fields = self.layout.fields(rows)
            ends = fields["begin"] + self.layout.unit_counts(fields).sum(axis=1)
            # Rows without a record have none, and a damaged one may say anything.
            if len(ends := ends[(fields["begin"] >= 0) & ~broken]):
                return int(ends[-1])
        return 0

    def take_columns(self, positions: Positions, schema: Schema) -> tuple[dict[str, Column], Mask]:
        """Return what `take_rows` does, as columns."""
        buffer = row_buffer(len(positions), self.seals.stride)
        # In this mode, positions that are outside have the last row, which is broken there.
        self._flat_rows.take(positions, out=buffer.whole, mode="clip")
        # Before the check, which overwrites the rows.
        columns = buffer.columns(schema.codec.layout)
        return columns, self.seals.broken_in_buffer(buffer, positions)

    def sealed_rows(self, positions: Positions) -> tuple[Rows, Mask]:
        """Copy the sealed rows at these positions; the second array says which are broken."""
        rows = np.empty((len(positions), self.seals.stride), np.uint8)
        self._copy_rows(positions, rows.view(self._row)[:, 0])
        return rows, self.seals.broken(rows, positions)

    def _copy_rows(self, positions: Positions, rows: npt.NDArray[Any]) -> None:
        """Copy rows to an array of voids."""
        # A copy, since a row that is erased or repaired meanwhile would change between the check
        # and its use. As one void per row, NumPy copies each in one piece.
        self.check_within(positions)
        # "clip", as NumPy copies the output first in the mode that raises the error.
        self._flat_rows.take(positions, out=rows, mode="clip")

    def check_within(self, positions: Positions) -> None:
        """Raise `IndexError` unless there is a row at all positions."""
        if len(positions) and (last := positions[positions.argmax()]) >= self.position:
            raise IndexError(f"position {last} of {self.position}")

    def broken(self, after: int, until: int) -> Mask:
        """Return which rows of ``[after, until)`` are broken, or their values."""
        if self.fixed_width:
            # A slice of the map, not a copy as `sealed_rows` makes.
            return self.seals.broken(self.rows[after:until], np.arange(after, until))
        parts = self.parts(after, until)
        checked = (self.take_packed(part, self.schema)[1] for part in parts)
        return np.concatenate([np.empty(0, bool), *checked])

    def parts(self, after: int, until: int) -> Iterator[Positions]:
        """Yield the positions ``[after, until)``, at most `PART_UNITS` of values at a time.

        A part may be a single row that has more.
        """
        counts = self.layout.unit_counts(self.layout.fields(self.rows[after:until])).sum(axis=1)
        # A damaged row may have any number.
        for part in divided(np.minimum(counts, PART_UNITS + 1), PART_UNITS):
            yield np.arange(after + part.start, after + part.stop)
