"""The lookup of an index in graph operations: which positions the samples of some ranks have.

How it works: ranks are divided into cells (`registry.storage.mirror.index_blocks`). `places_of`
looks up the cell of each rank in the mapped file of cells, and computes the place of its entry.
`open_entries` returns the positions in the entries there, which are in another mapped file. Both
verify what they open, as `registry.storage.mirror.index_entries` does. XLA compiles `positions_of`,
the whole lookup. The tables have the sizes of powers of two, so that it is compiled again only for
an index of twice the size.

If only one side changes, a graph reports intact entries as damaged.
"""

from __future__ import annotations

import tensorflow as tf

from registry.storage.mirror.index_blocks import CELL_BITS
from registry.storage.mirror.index_entries import (
    CELL_OFFSET,
    MULTIPLIER,
    POSITION_MASK,
)
from registry.tensorflow.graph_definition import Symbol

_MASK = int(POSITION_MASK)


def positions_of(cells: Symbol, entries: Symbol, ranks: Symbol) -> tuple[Symbol, Symbol]:
    """Return the positions of some ranks (int64), and for which all that led to them is intact.

    ``cells`` and ``entries`` are the whole tables, of which each ends or begins with the number of
    the file of entries.
    """
    places, cells_intact = places_of(cells, ranks)
    positions, entries_intact = open_entries(entries.gather(places), places)
    last = cells.then("Size", out_type=tf.int32) - 1
    same_file = cells.gather(last).equal(entries.gather(entries.constant(0, tf.int32)))
    return positions, same_file & cells_intact & entries_intact


def places_of(cells: Symbol, ranks: Symbol) -> tuple[Symbol, Symbol]:
    """Return the places of the entries of some ranks, and which of their cells are intact.

    ``cells`` is the whole table.
    """
    numbers = ranks >> CELL_BITS
    shifts, intact = open_entries(cells.gather(numbers), numbers + CELL_OFFSET)
    # The place of a damaged cell's entry may be past the end of the file, where the gather fails
    # before the caller can report the damage.
    return intact.where(ranks + shifts, 0), intact


def open_entries(entries: Symbol, places: Symbol) -> tuple[Symbol, Symbol]:
    """Return the positions in the entries at some places, and which are intact; int64 and bool."""
    intact = (entries - places).cast(tf.uint64) * MULTIPLIER <= _MASK
    # As in `places_of`: the position in a damaged entry may be past the end of the rows.
    return intact.where(entries & _MASK, 0), intact
