"""Unchanged rows of a log: read from one database, verified, and stored in another.

Rows are read and written by the drivers, past SQLAlchemy's types, because all columns are copied as
they are stored. Only times differ: PostgreSQL's are datetimes, SQLite's are texts in UTC.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import Connection, Engine, func, select
from sqlalchemy.orm import aliased

from registry.errors import DatabaseError, DivergenceError
from registry.samples.splits import buckets
from registry.storage.database.models import SampleRow
from registry.storage.database.retry import retrying
from registry.storage.database.transactions import driver, writing
from registry.storage.log import head as heads
from registry.storage.log.entries import utc
from registry.storage.log.hash_chain import NONE, extend_past
from registry.storage.log.head import Head
from registry.storage.log.standby import missing_rows

BLOCK_ROWS = 1 << 16
BLOCK_BYTES = 32 << 20
"""The limits of a block, which is read at once and stored in one transaction.

The row that reaches the limit of bytes is still part of the block, so a block is never empty.
"""


ERASED = b""
"""The record of an erased row; no stored record is empty."""


class Row(NamedTuple):
    """A row of the log without its ``dataset_id``, which is another in each database.

    ``record`` is None for a retraction and `ERASED` for an erased row.
    """

    position: int
    bucket: int
    chain: bytes
    record: bytes | None
    source: str | None
    supersedes: int | None
    key: str
    created_at: datetime


_COLUMNS = ", ".join(Row._fields)
_SQLITE = f"""
    SELECT {_COLUMNS} FROM samples
    WHERE dataset_id = ? AND position >= ? AND position < ? ORDER BY position
"""  # noqa: S608  # the names are our own
# The window adds up lengths, so the server stops at a block's size. It knows the length of a value
# without reading the value.
_POSTGRESQL = f"""
    SELECT {_COLUMNS} FROM (
        SELECT *, coalesce(sum(octet_length(record)) OVER (
            ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS before
        FROM samples WHERE dataset_id = %s AND position >= %s AND position < %s
    ) AS ranked WHERE before < %s ORDER BY position
"""  # noqa: S608  # the names are our own


def fetch(connection: Connection, dataset_id: int, after: int, until: int) -> list[Row]:
    """Read the first block of the rows at ``[after, until)``, in the order of their positions.

    Raises the error that `missing_rows` returns if a row is missing.
    """
    place = (dataset_id, after, min(until, after + BLOCK_ROWS))
    if connection.dialect.name == "postgresql":
        with driver(connection).cursor(binary=True) as cursor:
            cursor.execute(_POSTGRESQL, (*place, BLOCK_BYTES))
            rows = [Row._make(row) for row in cursor.fetchall()]
    else:
        rows = _until_full(connection.exec_driver_sql(_SQLITE, place).cursor)
    stop = rows[-1].position + 1 if rows else until
    if len(rows) != stop - after:
        raise missing_rows(connection, dataset_id, after, stop, len(rows))
    return rows


def _until_full(cursor: Any) -> list[Row]:
    """Fetch rows of SQLite one by one, until a block is full."""
    rows, size = [], 0
    while size < BLOCK_BYTES and (found := cursor.fetchone()):
        row = Row._make((*found[:-1], _moment(found[-1])))
        rows.append(row)
        size += len(row.record or b"")
    return rows


# Cached, since rows that were inserted together have the same time.
@lru_cache
def _moment(text: str) -> datetime:
    return utc(datetime.fromisoformat(text))


@lru_cache
def _text(moment: datetime) -> str:
    """Return a time in the format of SQLite's CURRENT_TIMESTAMP, in UTC, with microseconds."""
    return utc(moment).replace(tzinfo=None).isoformat(" ")


def prove(place: str, chain: bytes, rows: Sequence[Row]) -> None:
    """Raise `DatabaseError` unless the rows' chain values and buckets are correct.

    ``chain`` is the value before the first row; ``place`` is the URL of the rows' database, for the
    message.
    """
    hashes = buckets([row.key for row in rows])
    links = np.array([NONE if row.supersedes is None else row.supersedes for row in rows], np.int64)
    # The value after an erased row cannot be computed: the stored one is used.
    erased = {n: row.chain for n, row in enumerate(rows) if row.record == ERASED}
    values = extend_past(erased, chain, links, hashes, [row.record for row in rows])
    for row, value, bucket in zip(rows, values, hashes.tolist(), strict=True):
        if (row.chain, row.bucket) != (value, bucket):
            raise DatabaseError(
                f"{place}: the chain differs from position {row.position} on, so that "
                "what comes there is not copied; restore this database from a backup"
            )


def store(engine: Engine, dataset_id: int, head: Head, rows: Sequence[Row]) -> Head:
    """Append rows after a head, all or none; return the new head.

    Tries again after a transient error. Raises `DivergenceError` if the log ends at another head.
    """
    stop, chain = rows[-1].position + 1, rows[-1].chain
    for attempt in retrying(engine=engine):
        with attempt, writing(engine) as connection:
            found = heads.lock(connection, dataset_id)
            if (found.position, found.chain) == (stop, chain):
                # An earlier attempt has committed, although the connection was lost before the
                # answer came. Appending again would raise `DivergenceError` for our own rows.
                return found
            if found != head:
                raise overtaken(head.position)
            insert = _copy if connection.dialect.name == "postgresql" else _insert
            insert(connection, dataset_id, rows)
            live = head.live + _gain(connection, dataset_id, rows)
            after = replace(head, position=stop, live=live, chain=chain)
            heads.advance(connection, dataset_id, after)
            return after
    raise AssertionError


def overtaken(position: int) -> DivergenceError:
    """Return the error for a copy whose head another writer has moved."""
    return DivergenceError(
        f"somebody else wrote to the copy at position {position} meanwhile; let nobody write to it "
        "before it is complete"
    )


def _copy(connection: Connection, dataset_id: int, rows: Sequence[Row]) -> None:
    statement = f"COPY samples (dataset_id, {_COLUMNS}) FROM STDIN (FORMAT BINARY)"
    # Binary COPY does not convert: each type must be exactly that of its column.
    types = ("int4", "int8", "int4", "bytea", "bytea", "text", "int8", "text", "timestamptz")
    with driver(connection).cursor() as cursor, cursor.copy(statement) as copy:
        copy.set_types(types)
        for row in rows:
            copy.write_row((dataset_id, *row))


def _insert(connection: Connection, dataset_id: int, rows: Sequence[Row]) -> None:
    marks = ", ".join("?" * (len(Row._fields) + 1))
    connection.exec_driver_sql(
        f"INSERT INTO samples (dataset_id, {_COLUMNS}) VALUES ({marks})",  # noqa: S608  # as above
        [(dataset_id, *row[:-1], _text(row.created_at)) for row in rows],
    )


def _gain(connection: Connection, dataset_id: int, rows: Sequence[Row]) -> int:
    """Return the change of the number of live samples by the rows, which are stored already."""
    gain = sum(row.record is not None for row in rows)
    if all(row.supersedes is None for row in rows):
        return gain
    old, new = aliased(SampleRow, name="old"), aliased(SampleRow, name="new")
    # A subquery per row always looks up the primary key. A join could be planned as a scan of the
    # whole table while the statistics are out of date.
    was_alive = (
        select(old.record.is_not(None))
        .where(old.dataset_id == dataset_id, old.position == new.supersedes)
        .scalar_subquery()
    )
    replaced = (
        select(func.count())
        .select_from(new)
        .where(
            new.dataset_id == dataset_id,
            new.position >= rows[0].position,
            new.position <= rows[-1].position,
            new.supersedes.is_not(None),
            was_alive,
        )
    )
    return gain - connection.execute(replaced).scalar_one()
