"""Index entries: positions in the log that are sealed with the place at which they are stored.

An entry is one int64: a position in the low 40 bits, and above them 24 bits that are chosen so that
``entry * m[0] + place * m[1]`` modulo 2⁶⁴ is below 2⁴⁰, with the place in the file in words. Both
multipliers are odd: a change of one bit is always noticed, and any other change, or an entry at
another place, but once in about 2²⁴.

Cells are sealed in the same way, with their number in place of the place, plus `CELL_OFFSET`.
`registry.tensorflow.graph_index` repeats this arithmetic.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions, Scratch

MULTIPLIERS = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F)
"""The multipliers of an entry and of its place."""
POSITION_BITS = 40
CELL_OFFSET = 1 << 48
"""Added to the number of a cell, so that no cell counts as an entry."""

POSITION_MASK = np.int64((1 << POSITION_BITS) - 1)

_HIGH_BITS = 64 - POSITION_BITS
_INVERSE = pow(MULTIPLIERS[0], -1, 1 << _HIGH_BITS)
_SCRATCH = Scratch()

Hashes = npt.NDArray[np.uint64]


def seal_entries(positions: Positions, places: Positions) -> Positions:
    """Return the entries of positions that are stored at these places."""
    high = entry_hashes(positions, places) >> np.uint64(POSITION_BITS)
    # What the multiplication turns into the negative of the high bits, so that they become 0.
    fill = (np.uint64(0) - high) * np.uint64(_INVERSE) & np.uint64((1 << _HIGH_BITS) - 1)
    return positions | (fill << np.uint64(POSITION_BITS)).view(np.int64)


def open_entries(entries: Positions, places: Positions) -> tuple[Positions, npt.NDArray[np.bool_]]:
    """Return the positions in the entries at these places, and which entries are damaged."""
    broken: npt.NDArray[np.bool_] = entry_hashes(entries, places) > np.uint64(POSITION_MASK)
    return entries & POSITION_MASK, broken


def intact(entries: Positions, places: Positions) -> bool:
    """Return whether no entry is damaged."""
    return int(entry_hashes(entries, places).max(initial=0)) <= int(POSITION_MASK)


def entry_hashes(entries: Positions, places: Positions) -> Hashes:
    """Return the sums of the two products; the memory is used again by the next call."""
    hashes: Hashes
    hashes, terms = _SCRATCH.array("hashes", (2, len(entries)), np.uint64)
    np.multiply(entries.view(np.uint64), np.uint64(MULTIPLIERS[0]), out=hashes)
    np.multiply(places.view(np.uint64), np.uint64(MULTIPLIERS[1]), out=terms)
    hashes += terms
    return hashes


def seal_cells(cells: Positions) -> Positions:
    """Return cells, numbered from 0, with their seals."""
    return seal_entries(cells, np.arange(len(cells)) + CELL_OFFSET)
