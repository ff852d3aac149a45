"""Repairing a mirror: rows are read from the database again and written in place.

The new bytes have the length of the old ones, so that readers that have mapped the file see them at
once. Where a row is damaged that said where its values are, the rows around it say so, since the
values follow each other. If they do not either, the caller begins a new generation.
"""

from __future__ import annotations

import numpy as np

from registry.errors import DivergenceError
from registry.samples.arrays import Positions
from registry.storage.log.page import Page
from registry.storage.log.paging import pages
from registry.storage.log.reader import Log
from registry.storage.log.watermark import Watermark
from registry.storage.mirror.erase import without_records
from registry.storage.mirror.in_place import overwrite, row_writes, unit_writes
from registry.storage.mirror.layout import pack, sealed_records, variable_rows
from registry.storage.mirror.layouts import in_layout
from registry.storage.mirror.packed import Packed
from registry.storage.mirror.snapshot import View
from registry.storage.mirror.value_units import UNIT

UNKNOWN = -1
"""A first unit, or a number of units, that a damaged or blank row does not say."""


def rewrite(
    log: Log,
    view: View,
    after: int,
    until: int,
    watermark: Watermark,
    erased: Positions,
) -> bool:
    """Write the rows ``[after, until)`` again; return False if they cannot be written in place.

    ``watermark`` is what the database must still have. Rows whose positions are in ``erased`` stay
    erased, even if the database has their records. The caller holds the mirror's lock.
    """
    # From the primary, as a replica may lag.
    for page in pages(log.primary, after, until):
        # After each page is read and before it is written: the database may be restored meanwhile,
        # and another history's rows would get valid seals here.
        confirm(log, watermark)
        blanked = in_layout(without_records(page, erased), view.schema)
        packed = pack(blanked)
        if packed is None:
            rows = sealed_records(blanked, 0)["records"]
            overwrite(view.path, row_writes(rows, np.arange(page.start, page.stop)))
        elif not _rewrite_values(view, blanked, packed):
            return False
    return True


def _rewrite_values(view: View, page: Page, packed: Packed) -> bool:
    """Write a page's rows and values; return False if it is unknown where the values are."""
    begins = _begins(view, page, packed.totals)
    if begins is None:
        return False
    # Erased rows stay as they are: their values may be there still, if their erasure has only
    # begun, and a blank row could not say where.
    rows = variable_rows(page, packed, begins)
    kept = np.setdiff1d(np.arange(page.start, page.stop), page.erased)
    ends = np.cumsum(packed.totals).tolist()
    parts = zip([0, *ends], ends, strict=False)
    units = (packed.units[start:end] for start, end in parts)
    overwrite(view.values_path, unit_writes(units, begins))
    overwrite(view.path, row_writes(rows[kept - page.start], kept))
    return True


def _begins(view: View, page: Page, totals: Positions) -> Positions | None:
    """Return the first unit of each record of a page, of ``totals`` units; None if unknown."""
    if not view.intact(page.start, page.start):
        return None
    first, size, _ = view.anchor(page.start)
    # With the row that follows, which says where the last one ends.
    rows, broken = view.sealed_rows(np.arange(first, min(page.stop + 1, view.position)))
    fields = view.layout.fields(rows)
    counts = view.layout.unit_counts(fields).sum(axis=1)
    counts[broken] = UNKNOWN
    begins = np.where(broken, UNKNOWN, fields["begin"])
    inside, held = slice(page.start - first, page.stop - first), page.held
    same = (counts[inside] == UNKNOWN)[held] | (counts[inside][held] == totals)
    counts[inside][held] = totals
    counts[page.retracted - first] = 0
    end = len(view.values) if page.stop == view.position else UNKNOWN
    if not (same.all() and _fill(begins, counts, size // UNIT, end)):
        return None
    begins = begins[inside][held]
    known = (begins >= 0) & (begins + totals <= len(view.values))
    return begins if known.all() else None


def _fill(begins: Positions, counts: Positions, start: int, end: int) -> bool:
    """Fill in first units of consecutive rows; return False if those that are known contradict.

    ``counts`` has the number of units of each row, or `UNKNOWN`. They begin at ``start``, and end
    at ``end`` if that is known.
    """
    rows = np.flatnonzero(counts).tolist()
    for row in rows:
        if begins[row] == UNKNOWN:
            begins[row] = start
        elif start not in (UNKNOWN, begins[row]):
            return False
        known = UNKNOWN not in (begins[row], counts[row])
        start = begins[row] + counts[row] if known else UNKNOWN
    for row in reversed(rows):
        if begins[row] == UNKNOWN and UNKNOWN not in (counts[row], end):
            begins[row] = end - counts[row]
        end = begins[row]
    return True


def confirm(log: Log, watermark: Watermark) -> None:
    """Raise `DivergenceError` unless the database still has this watermark."""
    chain = log.chain_reached(watermark.position)
    if chain != watermark.chain:
        reason = "ends before" if chain is None else f"has {chain.hex()} there, another history"
        raise DivergenceError(
            f"rows of the log up to position {watermark} are to be read again, but the database's "
            f"log {reason}: was it restored, or did it fail over?"
        )
