"""Rows of the log by key: what a key's latest revision is, and what came before it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, NamedTuple

from sqlalchemy import ColumnElement, Connection, Row, Select, and_, func, select, tuple_

from registry.engine import driver
from registry.errors import SampleNotFoundError
from registry.models import datasets, erasures, samples
from registry.standby import missing_rows


class Latest(NamedTuple):
    """The newest revision of a key: its position and record (None for a retraction)."""

    position: int
    record: bytes | None


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


# Keys travel as JSON: turning a list into an array costs the driver more than finding the keys.
# Each is sought as the first entry at or after it of the one index that has this order.
_POSTGRESQL = """
    SELECT asked.key, found.position, found.record
    FROM json_array_elements_text(%(keys)s::json) AS asked (key)
    CROSS JOIN LATERAL (
        SELECT dataset_id, key, position, record FROM samples
        WHERE (key, dataset_id) >= (asked.key COLLATE "C", %(dataset_id)s)
        ORDER BY key, dataset_id, position DESC LIMIT 1
    ) AS found
    WHERE found.dataset_id = %(dataset_id)s AND found.key = asked.key
"""
# Left to itself, SQLite goes through the whole log for every batch: CROSS JOIN keeps the order of
# the tables, INDEXED BY the way to the maximum.
_SQLITE = """
    SELECT samples.key, samples.position, samples.record FROM json_each(?) AS asked
    CROSS JOIN samples ON samples.dataset_id = ? AND samples.position = (
        SELECT max(position) FROM samples INDEXED BY ix_samples_key
        WHERE dataset_id = ? AND key = asked.value
    )
"""


def missing(key: str, found: Sequence[Entry]) -> SampleNotFoundError:
    """Return the error that says why a key with these revisions has no sample."""
    if not found:
        return SampleNotFoundError(key)
    held = next(entry for entry in reversed(found) if entry.action != "retract")
    if held.erased:
        return SampleNotFoundError(key, "it was erased; insert it again if it may be kept")
    return SampleNotFoundError(key, f"it was retracted at position {found[-1].position}")


def latest(connection: Connection, dataset_id: int, keys: Sequence[str]) -> dict[str, Latest]:
    """Return the latest revision of each key that the dataset has ever had."""
    ordered = sorted(keys)  # neighbours lie on the same page of the index
    if not _any_between(connection, dataset_id, ordered[0], ordered[-1]):
        return {}
    asked = json.dumps(ordered, ensure_ascii=False)
    if connection.dialect.name == "postgresql":
        with driver(connection).cursor(binary=True) as cursor:
            rows: Sequence[Any] = cursor.execute(
                _POSTGRESQL, {"keys": asked, "dataset_id": dataset_id}
            ).fetchall()
    else:
        rows = connection.exec_driver_sql(_SQLITE, (asked, dataset_id, dataset_id)).fetchall()
    return {key: Latest(position, record) for key, position, record in rows}


def _any_between(connection: Connection, dataset_id: int, low: str, high: str) -> bool:
    """Tell whether there may be any key from ``low`` to ``high``.

    A bulk load often comes in the order of its keys: then this one look spares thousands. Keys
    compare by their bytes in both databases and, being UTF-8, alike in Python.
    """
    found = connection.execute(
        select(samples.c.key)
        .with_hint(samples, "INDEXED BY ix_samples_key", "sqlite")
        .where(tuple_(samples.c.key, samples.c.dataset_id) >= (low, dataset_id))
        .order_by(samples.c.key, samples.c.dataset_id, samples.c.position.desc())
        .limit(1)
    ).scalar_one_or_none()
    return found is not None and found <= high


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


_AT_POSTGRESQL = """
    SELECT record FROM unnest(%s::bigint[]) WITH ORDINALITY AS asked (position, rank)
    JOIN samples ON samples.dataset_id = %s AND samples.position = asked.position ORDER BY rank
"""
_AT_SQLITE = """
    SELECT record FROM json_each(?) AS asked
    CROSS JOIN samples ON samples.dataset_id = ? AND samples.position = asked.value
    ORDER BY asked.key
"""


def records_at(connection: Connection, dataset_id: int, positions: Sequence[int]) -> list[bytes]:
    """Return the records at these positions, in the order asked for; absent ones are left out.

    That of an erased row is empty.
    """
    if connection.dialect.name == "postgresql":
        with driver(connection).cursor(binary=True) as cursor:
            rows: Sequence[Any] = cursor.execute(
                _AT_POSTGRESQL, (list(positions), dataset_id)
            ).fetchall()
    else:
        place = (json.dumps(list(positions)), dataset_id)
        rows = connection.exec_driver_sql(_AT_SQLITE, place).fetchall()
    return [record for (record,) in rows if record is not None]


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
