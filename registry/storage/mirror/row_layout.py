"""The rows of a mirror's file ``records``, and what of a record is in the file ``values``.

A row begins with the record's header, as `Codec` has it: the fixed-width values, and the lengths of
the others as uint32. If there are others, these follow:

=====  ========  ===============================================================
begin  int64     the first of the record's units in ``values``; -1 if it has none
sums   uint64[]  the sum of each value of variable width (`value_units.sums`)
=====  ========  ===============================================================

The row ends with its seal (`SealedRows`), which covers all of it. The units of a record's values
follow each other in the order of the features. A retraction is zeros and a begin of -1.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.samples.arrays import Positions, Rows
from registry.samples.codec import Codec
from registry.storage.mirror.checksums import SealedRows
from registry.storage.mirror.value_units import Sums, unit_counts

NO_UNITS = -1
"""The begin of a row that has no units."""


class RowLayout:
    """Where the parts of a row are, as offsets in bytes, for the records of a codec.

    ``header`` is the length of the header, and ``values`` the number of values of variable width.
    If it is 0, rows have no ``begin`` and no ``sums``.
    """

    def __init__(self, codec: Codec) -> None:
        self.values: int = len(codec.features.variable)
        self.header: int = codec.header.itemsize
        self.lengths: int = self.header - 4 * self.values
        self.begin: int = self.header
        self.sums: int = self.begin + 8
        self.width: int = self.sums + 8 * self.values if self.values else self.header
        self.seals: SealedRows = SealedRows(self.width)

    @cached_property
    def _fields(self) -> np.dtype[Any]:
        # With the stride as the item's size: a row is read in place, with its padding and seal.
        return np.dtype(
            {
                "names": ["header", "lengths", "begin", "sums"],
                "formats": [
                    f"V{self.header}",
                    ("<u4", (self.values,)),
                    "<i8",
                    ("<u8", (self.values,)),
                ],
                "offsets": [0, self.lengths, self.begin, self.sums],
                "itemsize": self.seals.stride,
            }
        )

    def fields(self, rows: Rows) -> npt.NDArray[Any]:
        """Return rows as a structured array: ``header``, ``lengths``, ``begin`` and ``sums``.

        ``rows`` is uint8 of shape ``(count, stride)``, which the result shares.
        """
        return rows.view(self._fields)[:, 0]

    def seal(self, headers: Rows, begins: Positions, sums: Sums, positions: Positions) -> Rows:
        """Return the rows of records by their headers, uint8 of shape ``(count, header)``."""
        records = np.zeros((len(headers), self.width), np.uint8)
        records[:, : self.header] = headers
        if self.values:
            records[:, self.begin : self.sums] = begins.astype("<i8")[:, None].view(np.uint8)
            records[:, self.sums :] = np.ascontiguousarray(sums, "<u8").view(np.uint8)
        return self.seals.seal(records.view(f"V{self.width}")[:, 0], positions)

    def unit_counts(self, fields: npt.NDArray[Any]) -> Positions:
        """Return how many units each value has, int64 of shape ``(count, values)``."""
        counts = unit_counts(fields["lengths"])
        without = fields["begin"] < 0
        if np.count_nonzero(without):
            counts[without] = 0
        return counts
