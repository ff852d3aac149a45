"""Rows and values of records brought to a newer layout whose records vary in width.

A row keeps its values, with the sums of them that it has, and gets those of the features that were
added: all rows the same.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions, Rows
from registry.samples.schema import Schema
from registry.storage.mirror.packed import gather_units
from registry.storage.mirror.row_layout import RowLayout
from registry.storage.mirror.snapshot import View
from registry.storage.mirror.value_units import UNIT, Units, framed, sums, unit_counts


class ValueConversion:
    """Converts undamaged rows of a view to the layout of a newer schema.

    ``layout`` is the new one.
    """

    def __init__(self, view: View, schema: Schema) -> None:
        self.layout: RowLayout = RowLayout(schema.codec)
        self._view = view
        self._fixed, self._lengths, bodies = schema.projection(view.schema).added
        lengths = np.frombuffer(self._lengths, "<u4").astype(np.int64)
        ends = np.cumsum(lengths)
        ranges = zip((ends - lengths).tolist(), ends.tolist(), strict=True)
        self._units = framed([bodies[start:end] for start, end in ranges])
        self._sums = sums(self._units, unit_counts(lengths))

    def totals(self, rows: Rows) -> Positions:
        """Return how many units each of these rows has in the new layout."""
        return self._counts(rows) + len(self._units)

    def rows(
        self, rows: Rows, held: npt.NDArray[np.bool_], begins: Positions, positions: Positions
    ) -> Rows:
        """Return the sealed new rows; those that are not ``held`` have no record."""
        older, layout = self._view.layout, self.layout
        headers = np.zeros((len(rows), layout.header), np.uint8)
        totals = np.zeros((len(rows), layout.values), np.uint64)
        headers[held] = _columns(
            rows[held, : older.lengths],
            self._fixed,
            rows[held, older.lengths : older.header],
            self._lengths,
        )
        if older.values:
            totals[held, : older.values] = older.fields(rows)["sums"][held]
        totals[held, older.values :] = self._sums
        return layout.seal(headers, begins, totals, positions)

    def units(self, rows: Rows, totals: Positions) -> Units:
        """Return the units of these rows, end to end; ``totals`` is what `totals` returned."""
        counts, added = self._counts(rows), len(self._units)
        units = np.empty((int(totals.sum()), UNIT // 8), np.int64)
        ends = np.cumsum(totals)
        if self._view.layout.values:
            begins = self._view.layout.fields(rows)["begin"]
            kept = np.arange(int(counts.sum())) + np.repeat(np.arange(len(rows)) * added, counts)
            units[kept] = gather_units(self._view.values, begins, counts)
        if added:
            units[(ends - added)[:, None] + np.arange(added)] = self._units
        return units

    def _counts(self, rows: Rows) -> Positions:
        """Return how many units each of these rows has now."""
        layout = self._view.layout
        if not layout.values:
            return np.zeros(len(rows), np.int64)
        counts: Positions = layout.unit_counts(layout.fields(rows)).sum(axis=1)
        return counts


def _columns(*parts: Rows | bytes) -> Rows:
    """Return rows side by side; bytes are the same in each row."""
    count = next(len(part) for part in parts if not isinstance(part, bytes))
    return np.concatenate(
        [
            np.broadcast_to(np.frombuffer(part, np.uint8), (count, len(part)))
            if isinstance(part, bytes)
            else part
            for part in parts
        ],
        axis=1,
    )
