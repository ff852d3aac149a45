"""Rows of the log in PostgreSQL's binary COPY format, built a block at a time.

The format: PostgreSQL documentation, COPY, "Binary Format". Each row is a field count and then,
per field, a big-endian int32 byte length (-1 for null) and the bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain as concatenate

import numpy as np
import numpy.typing as npt

STATEMENT = (
    "COPY samples (dataset_id, position, bucket, chain, record, source, supersedes, key) "
    "FROM STDIN (FORMAT BINARY)"
)
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

# The fields of fixed width lie together, so that NumPy fills them for a whole block at once; the
# last length is the record's.
_FIXED = np.dtype(
    [
        ("fields", ">i2"),
        ("dataset_id_bytes", ">i4"),
        ("dataset_id", ">i4"),
        ("position_bytes", ">i4"),
        ("position", ">i8"),
        ("bucket_bytes", ">i4"),
        ("bucket", ">i4"),
        ("chain_bytes", ">i4"),
        ("chain", "V16"),
        ("record_bytes", ">i4"),
    ]
)
_NULL = (-1).to_bytes(4, "big", signed=True)


def block(
    dataset_id: int,
    position: int,
    *,
    buckets: npt.NDArray[np.uint16],
    chains: Sequence[bytes],
    records: Sequence[bytes | None],
    keys: Sequence[str],
    supersedes: Sequence[int | None],
    sources: Sequence[str | None],
) -> bytes:
    """Return the rows at ``position``, ``position + 1``, … as COPY data."""
    count = len(records)
    fixed = np.empty(count, _FIXED)
    fixed["fields"] = 8
    fixed["dataset_id_bytes"] = fixed["bucket_bytes"] = 4
    fixed["position_bytes"] = 8
    fixed["chain_bytes"] = 16
    fixed["dataset_id"] = dataset_id
    fixed["position"] = np.arange(position, position + count)
    fixed["bucket"] = buckets
    fixed["chain"] = np.frombuffer(b"".join(chains), "V16")
    fixed["record_bytes"] = [-1 if record is None else len(record) for record in records]
    encoded = [key.encode() for key in keys]
    lengths = np.array([len(key) for key in encoded], ">i4")
    origins = {
        source: _NULL if source is None else _field(source.encode()) for source in {*sources}
    }
    middle = [
        origins[source] + (_NULL if old is None else _field(old.to_bytes(8, "big")))
        for source, old in zip(sources, supersedes, strict=True)
    ]
    rows = zip(
        fixed.view(f"V{_FIXED.itemsize}").tolist(),
        (record or b"" for record in records),
        middle,
        lengths.view("V4").tolist(),
        encoded,
        strict=True,
    )
    return b"".join(concatenate.from_iterable(rows))


def _field(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value
