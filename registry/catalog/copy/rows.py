"""Unchanged rows of a log: read from one database, verified, and stored in another.

Rows are read and written by the drivers, past SQLAlchemy's types, because all columns are copied as
they are stored. Only times differ: PostgreSQL's are datetimes, SQLite's are texts in UTC.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from sqlalchemy import Connection, Engine, func, select

from registry.errors import DatabaseError, DivergenceError
from registry.samples.buckets import buckets
from registry.storage.database.models import SampleRow
from registry.storage.database.retry import retrying
from registry.storage.database.transactions import writing
from registry.storage.log import bulk_insert
from registry.storage.log.bulk_insert import BLOCK, NewRows
from registry.storage.log.hash_chain import NONE, extend_past
from registry.storage.log.head import Head, advance_head, lock_head, was_committed
from registry.storage.log.page_queries import rows_within
from registry.storage.log.standby import missing_rows

BLOCK_ROWS = 1 << 16
BLOCK_BYTES = 32 << 20
"""The limits of a block, which is read at once and stored in one transaction.

The row that reaches the limit of bytes is still part of the block, so a block is never empty.
"""
ERASED = b""
"""The record of an erased row; no stored record is empty."""
Scope = tuple[Connection, int]
"""A connection, and the primary key of the dataset, or of a run, in that database."""


class LogRow(NamedTuple):
    """A row of the log without its ``dataset_id``, which is another in each database.

    ``record`` is None for a retraction and `ERASED` for an erased row.
    """

    position: int
    bucket: int
    chain: bytes
    record: bytes | None
    source: str | None
    supersedes: int | None
    live: int | None
    key: str
    group_key: str | None
    created_at: datetime


def fetch(connection: Connection, dataset_id: int, after: int, until: int) -> list[LogRow]:
    """Read the first block of the rows at ``[after, until)``, in the order of their positions.

    Raises the error that `missing_rows` returns if a row is missing.
    """
    end = min(until, after + BLOCK_ROWS)
    stored = rows_within(connection, dataset_id, LogRow._fields, after, end, BLOCK_BYTES)
    if connection.dialect.name == "sqlite":
        # The driver returns times as texts.
        stored = [(*row[:-1], _parse_time(row[-1])) for row in stored]
    rows = [LogRow._make(row) for row in stored]
    # A block may end early, at the row that fills it. With fewer rows up to there, or none at all,
    # the log has a gap.
    stop = rows[-1].position + 1 if rows else until
    if len(rows) != stop - after:
        raise missing_rows(connection, dataset_id, after, stop, len(rows))
    return rows


# Cached, since rows that were inserted together have the same time.
@lru_cache
def _parse_time(text: str) -> datetime:
    # Without an offset, as SQLite and this package write it, a time is in UTC.
    time = datetime.fromisoformat(text)
    return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)


def verify_rows(database: str, chain: bytes, rows: Sequence[LogRow]) -> None:
    """Raise `DatabaseError` unless the rows' chain values and buckets are correct.

    ``chain`` is the value before the first row; ``database`` is the URL of the rows' database,
    for the message.
    """
    hashes = buckets([row.key for row in rows], [row.group_key for row in rows])
    links = np.array([NONE if row.supersedes is None else row.supersedes for row in rows], np.int64)
    # The value after an erased row cannot be computed: the stored one is used.
    erased = {n: row.chain for n, row in enumerate(rows) if row.record == ERASED}
    values = extend_past(erased, chain, links, hashes, [row.record for row in rows])
    for row, value, bucket in zip(rows, values, hashes.tolist(), strict=True):
        if (row.chain, row.bucket) != (value, bucket):
            raise DatabaseError(
                f"{database}: the chain differs from position {row.position} on, so that "
                "the rows from there on are not copied; restore this database from a backup"
            )


def store(engine: Engine, dataset_id: int, head: Head, rows: Sequence[LogRow]) -> Head:
    """Append rows after a head, all or none; return the new head.

    Tries again after a transient error. Raises `DivergenceError` if the log ends at another head.
    """
    last = rows[-1]
    stop = last.position + 1
    for attempt in retrying(engine=engine):
        with attempt, writing(engine) as connection:
            existing = lock_head(connection, dataset_id)
            if existing != head:
                # An earlier attempt may have committed, although its answer was lost: `overtaken`
                # would then report our own rows.
                stored = was_committed(connection, dataset_id, stop, last.chain, last.key)
                if existing.position == stop and stored:
                    return existing
                raise overtaken(head.position)
            # Inserted before `_gain` counts: a row may supersede another row of this block.
            bulk_insert.insert(connection, dataset_id, _blocks(rows))
            live = head.live + _gain(connection, dataset_id, rows)
            after = replace(head, position=stop, live=live, chain=last.chain)
            advance_head(connection, dataset_id, after)
            return after
    raise AssertionError


def overtaken(position: int) -> DivergenceError:
    """Return the error for a copy whose head another writer has moved."""
    return DivergenceError(
        f"another writer appended to the copy at position {position} meanwhile; let nobody write "
        "to it before it is complete"
    )


def _blocks(rows: Sequence[LogRow]) -> Iterator[NewRows]:
    grouped = any(row.group_key is not None for row in rows)
    for start in range(0, len(rows), BLOCK):
        part = rows[start : start + BLOCK]
        yield NewRows(
            part[0].position,
            np.array([row.bucket for row in part], np.uint16),
            [row.chain for row in part],
            [row.record for row in part],
            [row.key for row in part],
            [row.supersedes for row in part],
            [row.source for row in part],
            [row.created_at for row in part],
            [row.group_key for row in part] if grouped else None,
            {offset: row.live for offset, row in enumerate(part) if row.live is not None},
        )


def _gain(connection: Connection, dataset_id: int, rows: Sequence[LogRow]) -> int:
    """Return the change of the number of live samples by the rows, which are stored already."""
    gain = sum(row.record is not None for row in rows)
    if all(row.supersedes is None for row in rows):
        return gain
    revisions = SampleRow.__table__.alias("new")
    old, new = SampleRow.__table__.alias("old").c, revisions.c
    # A subquery per row always looks up the primary key. A join could be planned as a scan of the
    # whole table while the statistics are out of date.
    was_alive = (
        select(old.record.is_not(None))
        .where(old.dataset_id == dataset_id, old.position == new.supersedes)
        .scalar_subquery()
    )
    replaced = (
        select(func.count())
        .select_from(revisions)
        .where(
            new.dataset_id == dataset_id,
            new.position >= rows[0].position,
            new.position <= rows[-1].position,
            new.supersedes.is_not(None),
            was_alive,
        )
    )
    return gain - connection.execute(replaced).scalar_one()
