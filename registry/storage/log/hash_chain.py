"""The hashes of the log: a chain over its rows and a bucket for each key.

``chain[p] = blake2b-16(chain[p-1] ‖ supersedes ‖ bucket ‖ record)`` with ``chain[-1]`` 16 zero
bytes, ``supersedes`` a little-endian int64 (-1 for none), ``bucket`` a little-endian uint16 and
``record`` empty for a retraction (no stored record is empty). Equal chains at a position mean
equal logs up to it, in whatever database they lie. A row keeps its value when its record is erased:
the value cannot be computed again, but those after it can.

A key's bucket is blake2b with a digest of two bytes, little-endian, of its UTF-8 form.

BLAKE2: RFC 7693.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

GENESIS = bytes(16)
NONE = -1
"""Stands for "supersedes nothing" wherever positions are kept as plain integers."""

_LINK = np.dtype([("supersedes", "<i8"), ("bucket", "<u2")])


def extend(
    chain: bytes,
    supersedes: npt.ArrayLike,
    buckets: npt.NDArray[np.uint16],
    records: Sequence[bytes | None],
) -> list[bytes]:
    """Return the chain values of rows that follow the value ``chain``, one per row."""
    links = np.empty(len(records), _LINK)
    links["supersedes"] = supersedes
    links["bucket"] = buckets
    values = []
    for link, record in zip(links.view("V10").tolist(), records, strict=True):
        chain = blake2b(chain + link + (record or b""), digest_size=16).digest()
        values.append(chain)
    return values


def extend_past(
    known: Mapping[int, bytes],
    chain: bytes,
    supersedes: npt.NDArray[np.int64],
    buckets: npt.NDArray[np.uint16],
    records: Sequence[bytes | None],
) -> list[bytes]:
    """Return what `extend` does, but take the values after the rows at some indices as known."""
    values: list[bytes] = []
    for stop in [*sorted(known), len(records)]:
        part = slice(len(values), stop)
        values += extend(chain, supersedes[part], buckets[part], records[part])
        if stop < len(records):
            values.append(known[stop])
        chain = values[-1] if values else chain
    return values
