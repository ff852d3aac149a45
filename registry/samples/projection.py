"""Projections: records of an older schema as those of a newer one, and back, byte for byte.

In a record, added fixed-width fields follow the older ones in the header, and added variable-width
ones follow the older lengths and the older bodies. So an older record is brought to a newer layout
by inserting constant bytes at three offsets, and projected back by removing what is there.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from struct import unpack
from typing import Any

import numpy as np
import numpy.typing as npt

from registry.samples.codec import Codec


@dataclass(frozen=True)
class Projection:
    """Brings records of an older layout to a newer one, and projects them back, byte for byte.

    Going forward and then back results in the same bytes. Going forward results in what encoding
    with the defaults would. An empty record, as an erased row has, stays empty.
    """

    fixed: int
    """Bytes of the older fixed-width fields; the added ones follow them."""
    lengths: int
    """Bytes of the older lengths; those of the added bodies follow them."""
    added: tuple[bytes, bytes, bytes]
    """The defaults: fixed-width fields, lengths, and bodies."""

    @classmethod
    def between(cls, older: Codec, newer: Codec) -> Projection:
        """Return the projection between two codecs; the newer's features begin with the older's."""
        count = 4 * len(older.features.variable)
        fixed = older.header.itemsize - count
        names = list(newer.features)[len(older.features) :]
        values = {name: newer.default_bytes(name) for name in names}
        variable = [name for name in names if name in newer.features.variable]
        return cls(
            fixed,
            count,
            (
                b"".join(value for name, value in values.items() if name not in variable),
                b"".join(len(values[name]).to_bytes(4, "little") for name in variable),
                b"".join(values[name] for name in variable),
            ),
        )

    @property
    def identical(self) -> bool:
        """Whether records are the same in both layouts."""
        return not any(self.added[:2])

    def forward(self, record: bytes | memoryview) -> bytes:
        """Bring a record to the newer layout."""
        if not record:
            return b""
        fixed, lengths, bodies = self.added
        middle, end = self.fixed, self.fixed + self.lengths
        return b"".join((record[:middle], fixed, record[middle:end], lengths, record[end:], bodies))

    def original(self, record: bytes) -> bytes | None:
        """Return the older record that `forward` makes this one of, None if there is none."""
        older = self.back(record)
        return older if self.forward(older) == record else None

    def back(self, record: bytes | memoryview) -> bytes:
        """Project a record of the newer layout to the older one, without its added fields."""
        if not record or not self.lengths:
            return bytes(record[: self.fixed])
        start = self.fixed + len(self.added[0])
        lengths = record[start : start + self.lengths]
        start += self.lengths + len(self.added[1])
        body = sum(unpack(f"<{self.lengths // 4}I", lengths))
        return b"".join((record[: self.fixed], lengths, record[start : start + body]))

    def forward_rows(self, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Bring records of an older layout of fixed width, uint8 rows, to the newer layout.

        ``rows`` has shape ``(count, older width)``; the result has another width. The newer layout
        may have features of variable width: their defaults all have the same length.
        """
        if self.lengths:
            raise ValueError("records that differ in length are no rows")
        tail = b"".join(self.added)
        width = self.fixed + len(tail)
        # As void fields: NumPy copies these several times as fast as single bytes.
        out = np.empty(len(rows), _halves(self.fixed, width))
        out["older"] = np.ascontiguousarray(rows).view(f"V{self.fixed}")[:, 0]
        if tail:
            out["added"] = np.void(tail)
        return out.view(np.uint8).reshape(len(rows), width)

    def back_rows(self, rows: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Project records of a newer layout of fixed width to the older layout, as uint8 rows.

        ``rows`` has shape ``(count, newer width)``.
        """
        if self.lengths or self.added[1]:
            raise ValueError("records that differ in length are no rows")
        whole = np.ascontiguousarray(rows).view(_halves(self.fixed, rows.shape[1]))[:, 0]
        older = np.ascontiguousarray(whole["older"])
        return older.view(np.uint8).reshape(len(rows), self.fixed)

    def forward_all(self, records: Iterable[bytes | None]) -> list[bytes | None]:
        """Bring records to the newer layout; None, a retraction, stays None."""
        return [None if record is None else self.forward(record) for record in records]

    def back_all(self, records: Iterable[bytes | None]) -> list[bytes | None]:
        """Project records to the older layout; None, a retraction, stays None."""
        return [None if record is None else self.back(record) for record in records]


def _halves(older: int, width: int) -> np.dtype[Any]:
    return np.dtype(
        {
            "names": ["older", "added"],
            "formats": [f"V{older}", f"V{width - older}"],
            "offsets": [0, older],
            "itemsize": width,
        }
    )
