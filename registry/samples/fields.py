"""Records taken apart: their headers, and where the bytes of their values are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np

from registry.samples.arrays import Positions, Rows
from registry.samples.codec import Codec


@dataclass(frozen=True)
class Fields:
    """Records of one codec, in order.

    ``headers`` (uint8, one row per record) begin with the records' headers. ``starts`` and
    ``lengths`` (int64 of shape ``(records, values)``) say where in ``data`` the bytes of each value
    of variable width are; those of one feature do not overlap, and are in order.
    """

    headers: Rows
    data: bytes | memoryview
    starts: Positions
    lengths: Positions

    @classmethod
    def of_records(cls, codec: Codec, data: bytes | memoryview, sizes: Positions | None) -> Self:
        """Take apart records that are end to end in ``data``.

        ``sizes`` has their lengths in bytes, None where all have the codec's fixed width.
        """
        width = codec.header.itemsize
        if sizes is None:
            rows = np.frombuffer(data, np.uint8).reshape(-1, width)
            return cls.of_rows(rows)
        starts = np.cumsum(sizes) - sizes
        header = b"".join([data[start : start + width] for start in starts.tolist()])
        headers = np.frombuffer(header, np.uint8).reshape(-1, width)
        lengths = _lengths(codec, headers)
        ends = np.cumsum(lengths, axis=1) + starts[:, None] + width
        return cls(headers, data, ends - lengths, lengths)

    @classmethod
    def of_rows(cls, rows: Rows) -> Self:
        """Take apart records of fixed width, the first bytes of uint8 rows."""
        none = np.empty((len(rows), 0), np.int64)
        return cls(rows, b"", none, none)

    def __len__(self) -> int:
        return len(self.headers)


def _lengths(codec: Codec, headers: Rows) -> Positions:
    """Return the lengths in headers, as int64 of shape ``(count, values)``."""
    width = codec.header.itemsize
    part = np.ascontiguousarray(headers[:, width - 4 * len(codec.features.variable) :])
    return part.view("<u4").astype(np.int64)
