"""Index entries: positions in the log that are sealed with the place at which they are stored.

An entry is one int64: a position in the low 40 bits, and above them 24 bits that are chosen so that
``(entry - place) * MULTIPLIER`` modulo 2⁶⁴ is below 2⁴⁰, with the place in the file in words. A
change of one bit is always noticed. Any other change, or an entry at another place, is not noticed
once in about 2²⁴.

Cells are sealed in the same way, with their number in place of the place, plus `CELL_OFFSET`.
`registry.tensorflow.graph_index` repeats this arithmetic.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions, Scratch

MULTIPLIER = 0x9E3779B97F4A7C15
POSITION_BITS = 40
CELL_OFFSET = 1 << 48
"""Added to the number of a cell, so that no cell counts as an entry."""

POSITION_MASK = np.int64((1 << POSITION_BITS) - 1)

_HIGH_BITS = 64 - POSITION_BITS
_INVERSE = pow(MULTIPLIER, -1, 1 << _HIGH_BITS)
_SCRATCH = Scratch()

Products = npt.NDArray[np.uint64]


def seal_entries(positions: Positions, places: Positions) -> Positions:
    """Return the entries of positions that are stored at these places."""
    high = entry_products(positions, places) >> np.uint64(POSITION_BITS)
    # What the multiplication turns into the negative of the high bits, so that they become 0.
    fill = (np.uint64(0) - high) * np.uint64(_INVERSE) & np.uint64((1 << _HIGH_BITS) - 1)
    return positions | (fill << np.uint64(POSITION_BITS)).view(np.int64)


def open_entries(entries: Positions, places: Positions) -> tuple[Positions, npt.NDArray[np.bool_]]:
    """Return the positions in the entries at these places, and which entries are damaged."""
    broken: npt.NDArray[np.bool_] = entry_products(entries, places) > np.uint64(POSITION_MASK)
    return entries & POSITION_MASK, broken


def intact(entries: Positions, places: Positions) -> bool:
    """Return whether no entry is damaged."""
    return int(entry_products(entries, places).max(initial=0)) <= int(POSITION_MASK)


def entry_products(entries: Positions, places: Positions) -> Products:
    """Return what must be below 2⁴⁰; the memory is used again by the next call."""
    products: Products = _SCRATCH.array("products", (len(entries),), np.uint64)
    np.subtract(entries.view(np.uint64), places.view(np.uint64), out=products)
    products *= np.uint64(MULTIPLIER)
    return products


def seal_cells(cells: Positions) -> Positions:
    """Return cells, numbered from 0, with their seals."""
    return seal_entries(cells, np.arange(len(cells)) + CELL_OFFSET)
