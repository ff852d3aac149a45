"""The positions of an epoch's samples by offset, in memory for those that read them at random.

Each lookup of a few offsets would otherwise take several times as long as copying their samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions

_INT64 = np.dtype(np.int64)

LARGEST = 1 << 22
"""Samples of an epoch that has a table, at most: 16 MiB, or 32 MiB in a log of 2**32 rows."""
LOOKUPS = 1 << 4
"""The table is made once one in so many offsets has been looked up."""


class OffsetTable:
    """A table that is made when it is worth it. Threads may make it at once; either is right."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._lookups = 0
        self._positions: npt.NDArray[Any] | None = None

    def positions(self, offsets: Positions, locate: Callable[[Positions], Positions]) -> Positions:
        """Return the positions at these offsets, of which negative ones count from the end.

        ``locate`` returns those at offsets from 0 without the table. Raises `IndexError`.
        """
        if self._positions is None:
            self._lookups += len(offsets)
            if self._size > min(LARGEST, self._lookups * LOOKUPS):
                return locate(self._from_start(offsets))
            positions = locate(np.arange(self._size))
            if not int(positions.max(initial=0)) >> 32:
                positions = positions.astype(np.uint32)
            self._positions = positions
        return self._positions.take(offsets).astype(_INT64, copy=False)

    def _from_start(self, offsets: Positions) -> Positions:
        if not len(offsets):
            return offsets
        low, high = int(offsets.min()), int(offsets.max())
        if not -self._size <= low <= high < self._size:
            raise IndexError(f"offsets from {low} to {high} of {self._size}")
        return offsets if low >= 0 else np.where(offsets < 0, offsets + self._size, offsets)
