"""Indexes: the positions of a population's samples, by rank.

The entry of a rank is at the place ``rank + cells[rank >> CELL_BITS]`` among the entries
(`index_blocks`). Each entry that is read is checked (`index_entries`). Where many are looked up in
a short index, all entries are read and checked once, in their order, and the positions stay in
memory: half as many bytes, which stay in the processor's cache for longer.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.errors import MirrorError
from registry.samples.arrays import Positions, Scratch
from registry.storage.mirror.file_lease import FileLease
from registry.storage.mirror.index_blocks import CELL_BITS, HEADER, Blocks, capacity, cell_words
from registry.storage.mirror.index_entries import (
    POSITION_MASK,
    intact,
    open_entries,
    seal_entries,
)

BLOCK = 1 << 15
"""Entries that are looked up at a time."""
DECODED_ENTRIES = 1 << 22
"""Entries that are decoded to memory, at most: 16 MiB."""
DECODED_LOOKUPS = 1 << 4
"""All entries are decoded when more than one in so many is looked up at once."""
FETCHED_LOOKUPS = 1 << 2
"""The same for fetching all decoded positions into the cache."""
_SCRATCH = Scratch()

Parts = Iterator[Positions]


@dataclass(frozen=True)
class IndexFiles:
    """The files of an index, and the lease that keeps them."""

    entries: Path
    cells: Path
    lease: FileLease

    def exist(self) -> bool:
        """Return whether both can be opened by name."""
        return self.entries.exists() and self.lease.covers(self.cells)


@dataclass
class Decoded:
    """The positions of an index by rank, in memory: uint32 if they fit, otherwise int64.

    None until they are needed. All objects of the same index may share them.
    """

    positions: npt.NDArray[Any] | None = None


@dataclass(frozen=True)
class Index:
    """The positions of a population's samples, by rank.

    ``entries`` is None if they are all positions from ``first`` on. Otherwise it holds sealed
    entries (int64), which `cells` lead to, mapped from ``files`` unless that is None. ``older`` is
    the number of older samples that a replay of a run with conditions draws from.
    """

    size: int
    first: int = 0
    entries: Positions | None = None
    cells: Positions | None = None
    blocks: Blocks | None = None
    files: IndexFiles | None = None
    older: int | None = None
    decoded: Decoded = field(default_factory=Decoded, compare=False)

    @cached_property
    def by_rank(self) -> bool:
        """Whether the entries are stored by rank, as in a new file."""
        return self.cells is None or bool((self.cells == HEADER).all())

    @property
    def cell_words(self) -> int:
        """The words of the file of cells that a graph maps."""
        return cell_words(0 if self.cells is None else len(self.cells))

    @property
    def entry_words(self) -> int:
        """The words of the file of entries that a graph maps."""
        return capacity(self.size)

    def positions(self, ranks: Positions, out: Positions | None = None) -> Positions:
        """Return the positions at some ranks. Raises `MirrorError` if an entry is damaged.

        They are written to ``out`` if it is given, which may be the ranks.
        """
        if self.entries is None:
            return np.add(ranks, self.first, out=out)
        positions = np.empty_like(ranks) if out is None else out
        decoded = self._in_memory(len(ranks))
        if decoded is not None and self.size <= len(ranks) * FETCHED_LOOKUPS:
            # Reads all in their order, which the processor fetches ahead into its cache: otherwise
            # each lookup would wait for the memory.
            decoded.max(initial=0)
        for start in range(0, len(ranks), BLOCK):
            part = slice(start, start + BLOCK)
            if decoded is None:
                self._look_up(ranks[part], positions[part])
            else:
                short = _SCRATCH.array("decoded", ranks[part].shape, decoded.dtype)
                positions[part] = decoded.take(ranks[part], out=short, mode="clip")
        return positions

    def _in_memory(self, lookups: int) -> npt.NDArray[Any] | None:
        """Return all positions by rank, decoded now if that is worth it for so many lookups."""
        if self.decoded.positions is None and self.size <= min(
            DECODED_ENTRIES, lookups * DECODED_LOOKUPS
        ):
            decoded: npt.NDArray[Any] = np.empty(self.size, np.uint32)
            for start, positions in self._in_order():
                if decoded.dtype == np.uint32 and positions.max() >> 32:
                    decoded = decoded.astype(np.int64)
                decoded[start : start + len(positions)] = positions
            self.decoded.positions = decoded
        return self.decoded.positions

    def _in_order(self) -> Iterator[tuple[int, Positions]]:
        """Yield the position at each rank, as entries have it, from the rank that is yielded on."""
        for start in range(0, self.size, BLOCK):
            ranks = np.arange(start, min(start + BLOCK, self.size))
            self._look_up(ranks, ranks)
            yield start, ranks

    def _look_up(self, ranks: Positions, positions: Positions) -> None:
        """Write the positions at some ranks, at most a block of them."""
        assert self.cells is not None
        assert self.entries is not None
        places, entries, cells = _SCRATCH.array("places", (3, len(ranks)), np.int64)
        if self.by_rank:
            np.add(ranks, HEADER, out=places)
        else:
            # As unsigned: a signed shift takes twice as long.
            np.right_shift(ranks.view(np.uint64), np.uint64(CELL_BITS), out=cells.view(np.uint64))
            # "clip", as NumPy copies the output first in the mode that raises the error.
            self.cells.take(cells, out=places, mode="clip")
            places += ranks
        self.entries.take(places, out=entries, mode="clip")
        # In one pass, since nearly always none is damaged.
        if not intact(entries, places):
            count = open_entries(entries, places)[1].sum()
            named = f"{self.files.entries}: " if self.files else ""
            raise MirrorError(f"{named}{count} entries are damaged")
        np.bitwise_and(entries, POSITION_MASK, out=positions)

    def find(self, wanted: Positions, start: int, stop: int) -> Positions:
        """Return, for each position, the first of ranks ``[start, stop)`` that is not before it.

        Positions must ascend there; ``stop`` is returned if all of them are before it.
        """
        # By bisection of all at once.
        low: Positions = np.full(len(wanted), start)
        high: Positions = np.full(len(wanted), stop)
        for _ in range((stop - start).bit_length()):
            middle = (low + high) // 2
            smaller = self.positions(np.minimum(middle, stop - 1)) < wanted
            low, high = np.where(smaller, middle + 1, low), np.where(smaller, high, middle)
            # A range that is empty stays so.
            low = np.minimum(low, high)
        return low

    def contains(self, wanted: Positions, start: int, stop: int) -> npt.NDArray[np.bool_]:
        """Return which positions are at ranks ``[start, stop)``, where positions must ascend."""
        if start == stop:
            return np.zeros(len(wanted), bool)
        if self.entries is None:
            return (wanted >= self.first + start) & (wanted < self.first + stop)
        ranks = np.minimum(self.find(wanted, start, stop), stop - 1)
        equal: npt.NDArray[np.bool_] = self.positions(ranks) == wanted
        return equal

    def check_entries(self) -> None:
        """Check all entries. Raises `MirrorError` if one is damaged."""
        if self.entries is not None:
            for _ in self._in_order():
                pass


def in_memory(parts: Parts) -> Index:
    """Return an index without files, whose entries are stored by rank."""
    positions = np.concatenate([np.empty(0, np.int64), *parts])
    header = np.zeros(HEADER, np.int64)
    places = np.arange(HEADER, HEADER + len(positions))
    entries = np.concatenate([header, seal_entries(positions, places)])
    blocks = Blocks.one(len(positions))
    return Index(len(positions), entries=entries, cells=blocks.cells(), blocks=blocks)
