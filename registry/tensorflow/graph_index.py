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

from typing import Any

import tensorflow as tf

from registry.storage.mirror.index_blocks import CELL_BITS
from registry.storage.mirror.index_entries import (
    CELL_OFFSET,
    MULTIPLIER,
    POSITION_MASK,
)
from registry.tensorflow.constants import int64, uint64


def positions_of(cells: Any, entries: Any, ranks: Any) -> tuple[Any, Any]:
    """Return the positions of some ranks (int64), and for which all that led to them is intact.

    ``cells`` and ``entries`` are the whole tables, of which each ends or begins with the number of
    the file of entries.
    """
    places, cells_intact = places_of(cells, ranks)
    positions, entries_intact = open_entries(tf.gather(entries, places), places)
    return positions, tf.equal(cells[-1], entries[0]) & cells_intact & entries_intact


def places_of(cells: Any, ranks: Any) -> tuple[Any, Any]:
    """Return the places of the entries of some ranks, and which of their cells are intact.

    ``cells`` is the whole table.
    """
    numbers = tf.bitwise.right_shift(ranks, int64(CELL_BITS))
    shifts, intact = open_entries(tf.gather(cells, numbers), numbers + CELL_OFFSET)
    # The place of a damaged cell's entry may be past the end of the file, where the gather fails
    # before the caller can report the damage.
    return tf.where(intact, ranks + shifts, tf.zeros_like(ranks)), intact


def open_entries(entries: Any, places: Any) -> tuple[Any, Any]:
    """Return the positions in the entries at some places, and which are intact; int64 and bool."""
    products = tf.cast(entries - places, tf.uint64) * uint64(MULTIPLIER)
    intact = products <= uint64(int(POSITION_MASK))
    positions = tf.bitwise.bitwise_and(entries, tf.constant(POSITION_MASK, tf.int64))
    # As in `places_of`: the position in a damaged entry may be past the end of the rows.
    return tf.where(intact, positions, tf.zeros_like(positions)), intact
