"""Rows of the log in PostgreSQL's binary COPY format, built one block of rows at a time.

The format is described in the PostgreSQL documentation under COPY, "Binary Format": a row is a
big-endian int16 field count and then, per field, a big-endian int32 length in bytes (-1 for NULL)
and the bytes. The columns of fixed width come first, so that NumPy fills them for a whole block.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain as concatenate

import numpy as np
import numpy.typing as npt

# The columns must be in the order of the fields that `block` writes. COPY checks lengths only: two
# columns of one width in the wrong order would be stored without an error.
STATEMENT = (
    "COPY samples (dataset_id, position, bucket, chain, record, source, supersedes, key) "
    "FROM STDIN (FORMAT BINARY)"
)
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

# The start of a row, up to the length of the record. It must stay packed: with ``align=True``
# NumPy would insert padding bytes, which PostgreSQL would read as field lengths.
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
    """Return the rows at ``position``, ``position + 1``, … as COPY data.

    ``chains`` are the 16-byte chain values after each row; all sequences have one item per row.
    """
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
    # Most often all rows have the same source, so each distinct one is encoded once.
    origins = {
        source: _NULL if source is None else _field(source.encode()) for source in {*sources}
    }
    middle = [
        origins[source] + (_NULL if old is None else _field(old.to_bytes(8, "big")))
        for source, old in zip(sources, supersedes, strict=True)
    ]
    # Views as void ("V"), since NumPy strips trailing zero bytes from byte strings ("S").
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
