"""The hashes of the log: a chain over its rows and a bucket for each key.

``chain[p] = blake2b-16(chain[p-1] ‖ supersedes ‖ bucket ‖ record)`` with ``chain[-1]`` 16 zero
bytes, ``supersedes`` a little-endian int64 (-1 for none), ``bucket`` a little-endian uint16 and
``record`` empty for a retraction (no stored record is empty). Equal chains at a position mean
equal logs up to it, in whatever database they are stored. A row keeps its value when its record is
erased: the value itself can no longer be computed, but those after it can.

A key's bucket is a BLAKE2b digest of two bytes, read as little-endian: that of the UTF-8 form of
its group or, without a group, of the key.

BLAKE2 is specified in RFC 7693.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from hashlib import blake2b

import numpy as np
import numpy.typing as npt

NONE = -1
"""Stands for "supersedes nothing" wherever positions are kept as plain integers."""

# What is hashed is these bytes: little-endian on every machine, and packed. Native byte order or
# padding would give other chain values, and existing logs would no longer verify.
_LINK = np.dtype([("supersedes", "<i8"), ("bucket", "<u2")])


def extend(
    chain: bytes,
    supersedes: npt.ArrayLike,
    buckets: npt.NDArray[np.uint16],
    records: Sequence[bytes | None],
) -> list[bytes]:
    """Return the chain values after rows that follow the value ``chain``: 16 bytes per row.

    ``supersedes`` (int64) has `NONE` for a row that supersedes nothing.
    """
    links = np.empty(len(records), _LINK)
    links["supersedes"] = supersedes
    links["bucket"] = buckets
    values = []
    # As void ("V"), since NumPy strips trailing zero bytes from byte strings ("S").
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
    """Return the chain values as `extend` does for a log with erased rows.

    ``known`` has the stored value after each erased row, by its index among these rows. Between
    them, values are computed; each computation continues from the stored value before it.
    """
    values: list[bytes] = []
    for stop in [*sorted(known), len(records)]:
        part = slice(len(values), stop)
        values += extend(chain, supersedes[part], buckets[part], records[part])
        # The last stop is the end, not an erased row.
        if stop < len(records):
            values.append(known[stop])
        chain = values[-1] if values else chain
    return values
