"""Insertion of rows into a log: by COPY on PostgreSQL, by one statement for many rows on SQLite.

COPY data is built in PostgreSQL's binary format, described in its documentation under COPY, "Binary
Format": a row is a big-endian int16 field count and then, per field, a big-endian int32 length in
bytes (-1 for NULL) and the bytes. The columns of fixed width come first, so that NumPy fills them
for a whole block of rows.

psycopg's `write_row` encodes one row at a time: with it, a whole insert of 200,000 records of 44
bytes is about 10 % slower, and takes a quarter more CPU time.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from itertools import chain as concatenate
from types import MappingProxyType
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from registry.storage.database.transactions import driver

BLOCK = 1024
"""Rows that are hashed and sent to the database at a time. Fewer take longer in all; while more are
prepared, PostgreSQL runs out of work. At most `live_count.SEARCHED`."""

# The columns must be in the order of the fields that `encode` writes. COPY checks lengths only: two
# columns of one width in the wrong order would be stored without an error.
COLUMNS = "dataset_id, position, bucket, chain, record, source, supersedes, live, key"
COPY = "COPY samples ({}) FROM STDIN (FORMAT BINARY)"
HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
TRAILER = b"\xff\xff"

# The trigger on `samples` is given all rows of a statement at once. Over `work_mem` (4 MB unless
# configured), the server would write them to a temporary file and read them again.
_MORE_MEMORY = """
    SELECT set_config('work_mem', '64MB', true)
    WHERE pg_size_bytes(current_setting('work_mem')) < pg_size_bytes('64MB')
"""
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
_TWO_NULLS = _NULL + _NULL
_EPOCH = datetime(2000, 1, 1, tzinfo=UTC)
"""PostgreSQL's zero of time, from which it counts microseconds."""


class NewRows(NamedTuple):
    """Rows to insert at ``position``, ``position + 1``, …: columns with one item per row.

    ``chains`` are the 16-byte chain values after each row. Without ``created_at``, the database
    gives all rows the time of the transaction; without ``groups``, none has a group. ``live`` has
    the number of live samples after some of the rows, by their offsets.
    """

    position: int
    buckets: npt.NDArray[np.uint16]
    chains: Sequence[bytes]
    records: Sequence[bytes | None]
    keys: Sequence[str]
    supersedes: Sequence[int | None]
    sources: Sequence[str | None]
    created_at: Sequence[datetime] | None = None
    groups: Sequence[str | None] | None = None
    live: Mapping[int, int] = MappingProxyType({})


def insert(connection: Connection, dataset_id: int, blocks: Iterable[NewRows]) -> bytes:
    """Insert blocks of at most `BLOCK` rows; return the chain value after the last row.

    There is at least one block, and all of them have times or none, and groups or none. A block is
    taken when the one before it has been sent, so that it can be computed while PostgreSQL stores
    that one.
    """
    following = iter(blocks)
    first = next(following)
    names = COLUMNS + "".join(
        f", {name}"
        for name, column in (("created_at", first.created_at), ("group_key", first.groups))
        if column is not None
    )
    rows = concatenate([first], following)
    if connection.dialect.name == "sqlite":
        return _insert_many(connection, dataset_id, names, rows)
    # A block that is not full is the only one, and small enough.
    if len(first.keys) == BLOCK:
        connection.exec_driver_sql(_MORE_MEMORY)
    return _copy(connection, dataset_id, names, rows)


def _copy(connection: Connection, dataset_id: int, names: str, blocks: Iterable[NewRows]) -> bytes:
    chain = b""

    def pieces() -> Iterator[bytes]:
        nonlocal chain
        yield HEADER
        for rows in blocks:
            yield encode(dataset_id, rows)
            chain = rows.chains[-1]
        yield TRAILER

    driver(connection).copy_in(COPY.format(names).encode(), pieces())
    return chain


def _insert_many(
    connection: Connection, dataset_id: int, names: str, blocks: Iterable[NewRows]
) -> bytes:
    chain = b""
    marks = ", ".join("?" for _ in names.split(","))
    statement = f"INSERT INTO samples ({names}) VALUES ({marks})"  # noqa: S608  # the names are our own
    for rows in blocks:
        columns: list[Iterable[object]] = [
            rows.buckets.tolist(),
            rows.chains,
            rows.records,
            rows.sources,
            rows.supersedes,
            map(rows.live.get, range(len(rows.keys))),
            rows.keys,
        ]
        if rows.created_at is not None:
            columns.append(map(_sqlite_time, rows.created_at))
        if rows.groups is not None:
            columns.append(rows.groups)
        # Straight to the driver, without SQLAlchemy's processing of each parameter.
        connection.exec_driver_sql(
            statement,
            [
                (dataset_id, position, *row)
                for position, row in enumerate(zip(*columns, strict=True), start=rows.position)
            ],
        )
        chain = rows.chains[-1]
    return chain


# Cached, since rows that were inserted together have the same time.
@lru_cache
def _sqlite_time(moment: datetime) -> str:
    """Return a time in the format of SQLite's CURRENT_TIMESTAMP, in UTC, with microseconds."""
    return moment.astimezone(UTC).replace(tzinfo=None).isoformat(" ")


def encode(dataset_id: int, rows: NewRows) -> bytes:
    """Return rows as COPY data, without header and trailer."""
    count = len(rows.records)
    fixed = np.empty(count, _FIXED)
    fixed["fields"] = 9 + (rows.created_at is not None) + (rows.groups is not None)
    fixed["dataset_id_bytes"] = fixed["bucket_bytes"] = 4
    fixed["position_bytes"] = 8
    fixed["chain_bytes"] = 16
    fixed["dataset_id"] = dataset_id
    fixed["position"] = np.arange(rows.position, rows.position + count)
    fixed["bucket"] = rows.buckets
    fixed["chain"] = np.frombuffer(b"".join(rows.chains), "V16")
    fixed["record_bytes"] = [-1 if record is None else len(record) for record in rows.records]
    encoded = [key.encode() for key in rows.keys]
    lengths = np.array([len(key) for key in encoded], ">i4")
    origins = _fields_of(rows.sources)
    # The last field of these is ``live``.
    middle = [
        origins[source] + (_TWO_NULLS if old is None else _int64(old) + _NULL)
        for source, old in zip(rows.sources, rows.supersedes, strict=True)
    ]
    for offset, live in rows.live.items():
        middle[offset] = middle[offset].removesuffix(_NULL) + _int64(live)
    # Views as void ("V"), since NumPy strips trailing zero bytes from byte strings ("S").
    columns: list[Iterable[bytes]] = [
        fixed.view(f"V{_FIXED.itemsize}").tolist(),
        (record or b"" for record in rows.records),
        middle,
        lengths.view("V4").tolist(),
        encoded,
    ]
    if rows.created_at is not None:
        times = {moment: _int64(_microseconds(moment)) for moment in {*rows.created_at}}
        columns.append(times[moment] for moment in rows.created_at)
    if rows.groups is not None:
        columns.append(map(_fields_of(rows.groups).__getitem__, rows.groups))
    return b"".join(concatenate.from_iterable(zip(*columns, strict=True)))


def _fields_of(texts: Sequence[str | None]) -> dict[str | None, bytes]:
    """Return the field of each distinct text: most often rows have the same source or group."""
    return {text: _NULL if text is None else _field(text.encode()) for text in {*texts}}


def _microseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // timedelta(microseconds=1)


def _int64(value: int) -> bytes:
    return _field(value.to_bytes(8, "big", signed=True))


def _field(value: bytes) -> bytes:
    return len(value).to_bytes(4, "big") + value
