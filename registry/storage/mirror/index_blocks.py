"""How the entries of an index are arranged, so that one that follows another shares most of them.

A population's positions are divided into blocks of ``2 ** shift`` positions in the log. The entries
of a block are stored end to end, by rank, and behind them the next `TAIL` entries of the blocks
after it. In a new file these are the next blocks themselves: all entries are stored by rank. Where
a sample is superseded, all later ranks change, but only the block that it was in gets other
entries, and blocks whose tail it was in. These are appended to the file of entries, with tails of
their own, and the others stay where they are.

A lookup must not search for the block of a rank. So ranks are divided into cells of
``2 ** CELL_BITS`` ranks each. A cell says what to add to its ranks to get the places of their
entries: those in the block where the cell begins. A cell may end in a later block, which is why a
block has a tail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Self

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions

CELL_BITS = 8
TAIL = (1 << CELL_BITS) - 1
"""How many entries of the blocks after it a block has: a cell may begin at its last rank."""
BLOCK_BITS = 11
"""A block has about as many samples: the shift is larger where fewer positions are samples."""
HEADER = 8
"""The place of the first entry in a file, in words."""
ONE_BLOCK = 62
"""The shift of an index that is one block; no other index follows it."""
PART = 1 << 20
"""Entries that are computed at a time."""


def capacity(size: int) -> int:
    """Return the words of a file of entries; equal for all indexes of a size, on every host."""
    return max(1 << 9, 1 << (2 * size + HEADER - 1).bit_length())


def cell_words(cells: int) -> int:
    """Return the words of a table of cells and one number: few sizes, as XLA compiles for each."""
    return 1 << cells.bit_length()


def block_shift(share: float) -> int:
    """Return the shift for a population with this share of all positions."""
    shift = BLOCK_BITS
    while share < 1 and shift < ONE_BLOCK:
        share, shift = share * 2, shift + 1
    return shift


@dataclass(frozen=True)
class Blocks:
    """Where the entries of each block are.

    ``starts`` has the rank of the first sample of each block, and last the number of samples;
    ``places`` the place of its first entry.
    """

    shift: int
    starts: Positions
    places: Positions

    @classmethod
    def one(cls, size: int) -> Self:
        """Return the only block of an index whose entries are stored by rank."""
        return cls(ONE_BLOCK, np.array([0, size]), np.array([HEADER]))

    @property
    def size(self) -> int:
        return int(self.starts[-1])

    def cells(self) -> Positions:
        """Return what to add to the ranks of each cell to get the places of their entries."""
        # The first cell that begins in each block, or after it.
        first = (self.starts + TAIL) >> CELL_BITS
        return np.repeat(self.places - self.starts[:-1], np.diff(first))


@dataclass(frozen=True)
class Succession:
    """How the samples of an index follow from those of another one.

    ``dead`` are the ranks, in ascending order, of the samples that are none any more; ``added`` the
    positions of new ones, all behind the others.
    """

    before: Blocks
    dead: Positions
    added: Positions

    @property
    def kept(self) -> int:
        """The number of samples that both have."""
        return self.before.size - len(self.dead)

    @property
    def size(self) -> int:
        return self.kept + len(self.added)

    def old_ranks(self, ranks: Positions) -> Positions:
        """Return the ranks that samples below `kept` had before."""
        # A dead sample shifts those that had at least as many living ones before them.
        return ranks + np.searchsorted(self.dead - np.arange(len(self.dead)), ranks, "right")

    def blocks(self, end: int) -> tuple[Blocks, npt.NDArray[np.bool_]]:
        """Return the new blocks, and which of them have to be written, from place ``end`` on."""
        before, shift = self.before, self.before.shift
        old = len(before.places)
        added = self.added >> shift
        counts = np.zeros(max(old, int(added[-1]) + 1 if len(added) else 0), np.int64)
        counts[:old] = np.diff(before.starts)
        changed = np.zeros(len(counts), bool)
        dead = np.searchsorted(before.starts, self.dead, "right") - 1
        changed[dead] = True
        changed[added] = True
        # The tails that lack a sample now, or end at the old end.
        ends = before.starts[1:]
        tails = np.minimum(ends + TAIL, before.size)
        lacking = np.searchsorted(self.dead, ends) != np.searchsorted(self.dead, tails)
        changed[:old] |= lacking | ((ends + TAIL > before.size) & bool(len(self.added)))
        counts -= np.bincount(dead, minlength=len(counts))
        counts += np.bincount(added, minlength=len(counts))
        changed &= counts > 0
        starts = np.concatenate([[0], np.cumsum(counts)])
        places = np.zeros(len(counts), np.int64)
        places[:old] = before.places
        lengths = self._lengths(starts)[changed]
        places[changed] = end + np.cumsum(lengths) - lengths
        return Blocks(shift, starts, places), changed

    def _lengths(self, starts: Positions) -> Positions:
        lengths: Positions = np.minimum(starts[1:] + TAIL, self.size) - starts[:-1]
        return lengths

    def entries(self, blocks: Blocks, changed: npt.NDArray[np.bool_]) -> int:
        """Return how many entries the changed blocks have."""
        return int(self._lengths(blocks.starts)[changed].sum())

    def positions(self, before: Callable[[Positions], Positions], ranks: Positions) -> Positions:
        """Return the positions at some ranks, given those at ranks of the index before."""
        kept = ranks < self.kept
        if kept.all():
            return before(self.old_ranks(ranks))
        positions = np.empty_like(ranks)
        positions[kept] = before(self.old_ranks(ranks[kept]))
        positions[~kept] = self.added[ranks[~kept] - self.kept]
        return positions

    def ranks(self, blocks: Blocks, changed: npt.NDArray[np.bool_]) -> Iterator[Positions]:
        """Yield the ranks of the entries of the changed blocks, in the order of their places."""
        starts, lengths = blocks.starts[:-1][changed], self._lengths(blocks.starts)[changed]
        ends = np.cumsum(lengths)
        first = 0
        while first < len(lengths):
            before = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, before + PART, "right")))
            part = slice(first, last)
            offsets = ends[part] - lengths[part] - before
            total = int(ends[last - 1]) - before
            yield np.repeat(starts[part] - offsets, lengths[part]) + np.arange(total)
            first = last
