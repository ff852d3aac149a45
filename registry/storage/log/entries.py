"""Rows of the log by key: what a sample was in the course of time, and what was erased of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVarTuple

from sqlalchemy import Connection, Row, Select, func, select

from registry.errors import SampleNotFoundError
from registry.storage.database.models import SampleRow
from registry.storage.log.standby import missing_rows

Columns = TypeVarTuple("Columns")


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


def missing(key: str, found: Sequence[Entry]) -> SampleNotFoundError:
    """Return the error that says why a key with these revisions has no sample."""
    if not found:
        return SampleNotFoundError(key)
    held = next(entry for entry in reversed(found) if entry.action != "retract")
    if held.erased:
        return SampleNotFoundError(key, "it was erased; insert it again if it may be kept")
    return SampleNotFoundError(key, f"it was retracted at position {found[-1].position}")


_COLUMNS = (
    SampleRow.position,
    SampleRow.key,
    SampleRow.record.is_(None).label("retracted"),
    (func.length(SampleRow.record) == 0).label("erased"),
    SampleRow.supersedes,
    SampleRow.source,
    SampleRow.created_at,
)


def history(
    connection: Connection, dataset_id: int, key: str, until: int
) -> list[tuple[Entry, bytes | None]]:
    """Return every revision of a key before ``until``, oldest first, with its record if any."""
    wanted = _of_key(select(*_COLUMNS, SampleRow.record), dataset_id, key)
    rows = connection.execute(wanted.where(SampleRow.position < until))
    return [(_entry(row), row.record or None) for row in rows]


def places(connection: Connection, dataset_id: int, key: str) -> list[tuple[int, int | None]]:
    """Return where a key's revisions are, oldest first, and the bytes of their records.

    A retraction has None of them, and a row that was erased has 0.
    """
    rows = connection.execute(
        _of_key(select(SampleRow.position, func.length(SampleRow.record)), dataset_id, key)
    )
    return [(position, size) for position, size in rows]


def entries(connection: Connection, dataset_id: int, after: int, until: int) -> list[Entry]:
    """Return the log's rows at positions ``[after, until)``, in order.

    Raises as `missing_rows` where one is missing.
    """
    rows = connection.execute(
        select(*_COLUMNS)
        .where(
            SampleRow.dataset_id == dataset_id,
            SampleRow.position >= after,
            SampleRow.position < until,
        )
        .order_by(SampleRow.position)
    ).all()
    if len(rows) != until - after:
        raise missing_rows(connection, dataset_id, after, until, len(rows))
    return [_entry(row) for row in rows]


def _of_key(wanted: Select[*Columns], dataset_id: int, key: str) -> Select[*Columns]:
    return (
        # SQLite would otherwise go through the whole log, since that is in order.
        wanted.with_hint(SampleRow, "INDEXED BY ix_samples_key", "sqlite")
        .where(
            SampleRow.key == key,
            SampleRow.dataset_id + 0 == dataset_id,  # keeps it off the primary key
        )
        .order_by(SampleRow.position)
    )


def _entry(row: Row[*tuple[Any, ...]]) -> Entry:
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


def utc(moment: datetime) -> datetime:
    """Return a moment from the database in UTC, which SQLite keeps without saying so."""
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
