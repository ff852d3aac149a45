"""Columns of values read from a mirror, whose files keep them.

A column is filled from the mirror's records, whose seals or scan show that they are undamaged, and
the column of sources from the database. Where its files cannot be written, the values are computed
each time.
"""

from __future__ import annotations

from contextlib import suppress

import numpy as np

from registry.samples.arrays import Positions
from registry.storage.log.watermark import Watermark
from registry.storage.mirror.columns import SEGMENT_ROWS, ColumnFile
from registry.storage.mirror.mirror import Mirror
from registry.storage.mirror.repair import confirm
from registry.storage.mirror.snapshot import View
from registry.training.filters import Filter, Mask
from registry.training.value_columns import ValueColumn, Values, values_in_database

TRIES = 3
"""How often a damaged column is filled again, or a damaged record repaired, before giving up."""


class MirrorColumns:
    """The columns of the rows of a view before a watermark. Safe to share between threads."""

    def __init__(self, mirror: Mirror, view: View, watermark: Watermark) -> None:
        self._mirror = mirror
        self._view = view
        self._watermark = watermark
        self._withheld = np.sort(mirror.withheld(view))

    def matches(self, filters: list[Filter], after: int, until: int) -> Mask:
        """Return which rows at ``[after, until)`` meet all conditions; erased ones do not."""
        mask = np.ones(until - after, bool)
        for each in filters:
            mask &= each(self.read(each.column, after, until))
        # After the values: a row that is erased in between has lost its value already.
        erased = np.setdiff1d(self._mirror.erased_here(self._view), self._withheld)
        mask[erased[(erased >= after) & (erased < until)] - after] = False
        return mask

    def take(self, column: ValueColumn, positions: Positions) -> Values:
        """Return the values at these positions, in any order; those of erased rows are 0."""
        values = np.empty(len(positions), column.dtype)
        blocks = positions // SEGMENT_ROWS
        # A block at a time: the positions may be all over the log.
        for block in np.unique(blocks).tolist():
            start = block * SEGMENT_ROWS
            stop = min(start + SEGMENT_ROWS, self._watermark.position)
            inside = blocks == block
            values[inside] = self.read(column, start, stop)[positions[inside] - start]
        return values

    def read(self, column: ValueColumn, after: int, until: int) -> Values:
        """Return the values of the rows at ``[after, until)``; those of erased rows are 0."""
        values = self._stored(column, after, until)
        if values is None:
            values = self._computed(column, after, until)
        first, last = np.searchsorted(self._withheld, [after, until])
        inside = self._withheld[first:last]
        if len(inside):
            start, stop = int(inside[0]), int(inside[-1]) + 1
            read = values_in_database(self._mirror.log, column, start, stop)
            values = values.copy()
            values[inside - after] = read[inside - start]
        return values

    def _stored(self, column: ValueColumn, after: int, until: int) -> Values | None:
        """Read values from the column's files; None if these cannot be written."""
        file = ColumnFile(self._view.path.parent, column.name, column.dtype)
        # An OSError also where the generation has been replaced.
        with suppress(OSError):
            for _ in range(TRIES):
                self._fill(file, column, until)
                values = file.read(after, until)
                if values is not None:
                    return values
                with self._mirror.locked():
                    # Again, as an erasure may have been half-way through it.
                    if file.position >= until and file.read(after, until) is None:
                        file.remove()
        return None

    def _fill(self, file: ColumnFile, column: ValueColumn, until: int) -> None:
        # Read each time: another process may fill it, too.
        while (start := file.position) < until:
            stop = min(until, start + SEGMENT_ROWS)
            values = self._computed(column, start, stop).copy()
            with self._mirror.locked():
                if self._view.replaced:
                    raise FileNotFoundError(self._view.path)
                # Rows may have been erased after their values were read, and from all columns that
                # existed then: without this, the values would stay.
                erased = self._mirror.erased_here(self._view)
                values[erased[(erased >= start) & (erased < stop)] - start] = 0
                file.append(start, values)

    def _computed(self, column: ValueColumn, after: int, until: int) -> Values:
        """Return values from the records of the mirror, or from the database."""
        if column.feature is not None:
            with suppress(OSError):  # damaged rows that cannot be repaired
                values = self._from_records(column, after, until)
                if values is not None:
                    return values
        values = values_in_database(self._mirror.log, column, after, until)
        # After the read: a database restored meanwhile may have other rows at these positions.
        confirm(self._mirror.log, self._watermark)
        return values

    def _from_records(self, column: ValueColumn, after: int, until: int) -> Values | None:
        """Return values from the records of the mirror; None if some stay damaged."""
        view, codec = self._view, self._view.schema.codec
        if view.fixed_width:
            self._mirror.scan(view, self._watermark)
            return column.of_rows(codec, view.rows[after:until])
        positions = np.arange(after, until)
        for _ in range(TRIES):
            values, broken = column.of_view(view, after, until)
            damaged = self._damaged(positions[broken])
            if not len(damaged):
                # An erased row's values have no meaning.
                values[broken] = 0
                return values
            self._mirror.repair(view, damaged, self._watermark)
        return None

    def _damaged(self, broken: Positions) -> Positions:
        """Return which of some broken rows are damaged, and not erased."""
        if not len(broken):
            return broken
        left = np.setdiff1d(broken, self._mirror.erased_here(self._view))
        erased = [row.position for row in self._mirror.erased(left)]
        return np.setdiff1d(left, erased)
