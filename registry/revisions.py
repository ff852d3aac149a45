"""Rows of the log by key: what a sample was in the course of time, and what was erased of it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, select

from registry.engine import driver
from registry.errors import SampleNotFoundError
from registry.models import datasets, erasures, samples
from registry.standby import missing_rows


@dataclass(frozen=True)
class Entry:
    """One row of the log, without its record.

    ``action`` is "insert", "revise" or "retract"; ``created_at`` is in UTC. An ``erased`` row has
    lost its record for good.
    """

    position: int
    key: str
    action: str
    supersedes: int | None
    source: str | None
    created_at: datetime
    erased: bool = False


@dataclass(frozen=True)
class Revision:
    """One revision of a sample: its row in the log, and its values.

    They are None for a retraction, and for what was erased.
    """

    entry: Entry
    sample: dict[str, Any] | None


class Erased(NamedTuple):
    """A row that has lost its record for good: its place, its key and the chain after it."""

    position: int
    key: str
    chain: bytes


def missing(key: str, found: Sequence[Entry]) -> SampleNotFoundError:
    """Return the error that says why a key with these revisions has no sample."""
    if not found:
        return SampleNotFoundError(key)
    held = next(entry for entry in reversed(found) if entry.action != "retract")
    if held.erased:
        return SampleNotFoundError(key, "it was erased; insert it again if it may be kept")
    return SampleNotFoundError(key, f"it was retracted at position {found[-1].position}")


_COLUMNS = (
    samples.c.position,
    samples.c.key,
    samples.c.record.is_(None).label("retracted"),
    (func.length(samples.c.record) == 0).label("erased"),
    samples.c.supersedes,
    samples.c.source,
    samples.c.created_at,
)


def history(
    connection: Connection, dataset_id: int, key: str, until: int
) -> list[tuple[Entry, bytes | None]]:
    """Return every revision of a key before ``until``, oldest first, with its record if any."""
    wanted = _of_key(select(*_COLUMNS, samples.c.record), dataset_id, key)
    rows = connection.execute(wanted.where(samples.c.position < until))
    return [(_entry(row), row.record or None) for row in rows]


def places(connection: Connection, dataset_id: int, key: str) -> list[tuple[int, int | None]]:
    """Return where a key's revisions are, oldest first, and the bytes of their records.

    A retraction has None of them, and a row that was erased has 0.
    """
    rows = connection.execute(
        _of_key(select(samples.c.position, func.length(samples.c.record)), dataset_id, key)
    )
    return [(position, size) for position, size in rows]


def entries(connection: Connection, dataset_id: int, after: int, until: int) -> list[Entry]:
    """Return the log's rows at positions ``[after, until)``, in order.

    Raises as `missing_rows` where one is missing.
    """
    rows = connection.execute(
        select(*_COLUMNS)
        .where(
            samples.c.dataset_id == dataset_id,
            samples.c.position >= after,
            samples.c.position < until,
        )
        .order_by(samples.c.position)
    ).all()
    if len(rows) != until - after:
        raise missing_rows(connection, dataset_id, after, until, len(rows))
    return [_entry(row) for row in rows]


def _of_key(wanted: Select[Any], dataset_id: int, key: str) -> Select[Any]:
    return (
        # SQLite would otherwise go through the whole log, since that is in order.
        wanted.with_hint(samples, "INDEXED BY ix_samples_key", "sqlite")
        .where(
            samples.c.key == key,
            samples.c.dataset_id + 0 == dataset_id,  # keeps it off the primary key
        )
        .order_by(samples.c.position)
    )


LONG = 1 << 16
"""Bytes up to which a record is its own fingerprint: to send it is faster than to hash it twice."""

_AT_POSTGRESQL = """
    SELECT {} FROM unnest(%s::bigint[]) WITH ORDINALITY AS asked (position, rank)
    JOIN samples ON samples.dataset_id = %s AND samples.position = asked.position ORDER BY rank
"""
_AT_SQLITE = """
    SELECT {} FROM json_each(?) AS asked
    CROSS JOIN samples ON samples.dataset_id = ? AND samples.position = asked.value
    ORDER BY asked.key
"""


def records_at(connection: Connection, dataset_id: int, positions: Sequence[int]) -> list[bytes]:
    """Return the records at these positions, in the order asked for; an erased row's is empty.

    Raises as `missing_rows` where one is missing.
    """
    return _values_at(connection, dataset_id, positions, "record")


def fingerprints_at(
    connection: Connection, dataset_id: int, positions: Sequence[int]
) -> list[bytes]:
    """Return the `fingerprint` of records as `records_at` returns them.

    The database computes those of long records, which it need not send then.
    """
    hashed = f"CASE WHEN length(record) <= {LONG} THEN record ELSE sha256(record) END"
    return _values_at(connection, dataset_id, positions, hashed)


def fingerprint(record: bytes) -> bytes:
    """Return bytes that are equal, of records of one length, only where the records are."""
    return record if len(record) <= LONG else sha256(record).digest()


def _values_at(
    connection: Connection, dataset_id: int, positions: Sequence[int], column: str
) -> list[bytes]:
    if connection.dialect.name == "postgresql":
        with driver(connection).cursor(binary=True) as cursor:
            rows: Sequence[Any] = cursor.execute(
                _AT_POSTGRESQL.format(column).encode(), (list(positions), dataset_id)
            ).fetchall()
    else:
        place = (json.dumps(list(positions)), dataset_id)
        rows = connection.exec_driver_sql(_AT_SQLITE.format(column), place).fetchall()
    values = [value for (value,) in rows if value is not None]
    if len(values) != len(positions):
        after, until = min(positions), max(positions) + 1
        raise missing_rows(connection, dataset_id, after, until, len(values))
    return values


def sample_at(connection: Connection, dataset_id: int, position: int) -> tuple[str, str, bytes]:
    """Return the name of a position's dataset, its key, and its record, which must be there."""
    wanted = (
        select(datasets.c.name, samples.c.key, samples.c.record)
        .join(datasets, datasets.c.id == samples.c.dataset_id)
        .where(samples.c.dataset_id == dataset_id, samples.c.position == position)
    )
    row = connection.execute(wanted).one()
    return row.name, row.key, row.record


def _entry(row: Row[Any]) -> Entry:
    revised = "insert" if row.supersedes is None else "revise"
    return Entry(
        position=row.position,
        key=row.key,
        action="retract" if row.retracted else revised,
        supersedes=row.supersedes,
        source=row.source,
        created_at=utc(row.created_at),
        erased=bool(row.erased),
    )


def erased_from(connection: Connection, dataset_id: int, number: int) -> list[Erased]:
    """Return the rows that were erased, in the order of that, from the one of this number on."""
    return _erased(connection, dataset_id, erasures.c.number >= number)


def erased_between(connection: Connection, dataset_id: int, after: int, until: int) -> list[Erased]:
    """Return the rows at positions ``[after, until)`` that were erased."""
    place = and_(erasures.c.position >= after, erasures.c.position < until)
    return _erased(connection, dataset_id, place)


def _erased(connection: Connection, dataset_id: int, which: ColumnElement[bool]) -> list[Erased]:
    # A subquery for each: a join could be made the other way round, through the whole log.
    found = [
        select(column)
        .where(
            samples.c.dataset_id == erasures.c.dataset_id,
            samples.c.position == erasures.c.position,
        )
        .scalar_subquery()
        for column in (samples.c.key, samples.c.chain)
    ]
    rows = connection.execute(
        select(erasures.c.position, *found)
        .where(erasures.c.dataset_id == dataset_id, which)
        .order_by(erasures.c.number)
    )
    return [Erased(*row) for row in rows]


def utc(moment: datetime) -> datetime:
    """Return a moment from the database in UTC, which SQLite keeps without saying so."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
