"""Rows of the log by key or position: the revisions of a sample, with what was erased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
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
    lost its record permanently. ``group`` is the key's group, or None if it has none.
    """

    position: int
    key: str
    action: str
    supersedes: int | None
    source: str | None
    created_at: datetime
    erased: bool = False
    group: str | None = None


@dataclass(frozen=True)
class Revision:
    """One revision of a sample: its row in the log, and its values by feature.

    ``sample`` is None for a retraction and for an erased row.
    """

    entry: Entry
    sample: dict[str, Any] | None


def missing(key: str, revisions: Sequence[Entry]) -> SampleNotFoundError:
    """Return the error that says why a key with these revisions has no sample."""
    if not revisions:
        return SampleNotFoundError(key)
    # An erasure appends a retraction, so the row before the last one shows whether there was one.
    last_sample = next(entry for entry in reversed(revisions) if entry.action != "retract")
    if last_sample.erased:
        return SampleNotFoundError(key, "it was erased; insert it again if it may be kept")
    return SampleNotFoundError(key, f"it was retracted at position {revisions[-1].position}")


# A retraction has NULL as its record, an erased row an empty one; no stored record is empty.
_COLUMNS = (
    SampleRow.position,
    SampleRow.key,
    SampleRow.record.is_(None).label("retracted"),
    (func.length(SampleRow.record) == 0).label("erased"),
    SampleRow.supersedes,
    SampleRow.source,
    SampleRow.created_at,
    SampleRow.group_key,
)


def history(
    connection: Connection, dataset_id: int, key: str, until: int
) -> list[tuple[Entry, bytes | None]]:
    """Return every revision of a key before position ``until``, oldest first.

    The record is None for a retraction and for an erased row.
    """
    revisions = _of_key(select(*_COLUMNS, SampleRow.record), dataset_id, key)
    rows = connection.execute(revisions.where(SampleRow.position < until))
    return [(_entry(row), row.record or None) for row in rows]


def bucket_of(connection: Connection, dataset_id: int, key: str) -> int | None:
    """Return a key's bucket, or None if the dataset never had the key."""
    rows = _of_key(select(SampleRow.bucket), dataset_id, key)
    return connection.execute(rows.limit(1)).scalar_one_or_none()


def entries(connection: Connection, dataset_id: int, after: int, until: int) -> list[Entry]:
    """Return the log's rows at positions ``[after, until)``, in order.

    Raises the error that `missing_rows` returns where one is missing.
    """
    return [_entry(row) for row in rows_at(connection, select(*_COLUMNS), dataset_id, after, until)]


def rows_at(
    connection: Connection, query: Select[*Columns], dataset_id: int, after: int, until: int
) -> Sequence[Row[*Columns]]:
    """Return the columns that ``query`` selects of the rows at ``[after, until)``, in order.

    Raises the error that `missing_rows` returns where one is missing.
    """
    rows = connection.execute(
        query.where(
            SampleRow.dataset_id == dataset_id,
            SampleRow.position >= after,
            SampleRow.position < until,
        ).order_by(SampleRow.position)
    ).all()
    # Positions have no gaps, so fewer rows than positions are an error.
    if len(rows) != until - after:
        raise missing_rows(connection, dataset_id, after, until, len(rows))
    return rows


def _of_key(query: Select[*Columns], dataset_id: int, key: str) -> Select[*Columns]:
    # ``+ 0`` rules out the primary key, which has the order that is asked for: SQLite would scan
    # the whole log in it to avoid a sort.
    of_key = query.where(SampleRow.key == key, SampleRow.dataset_id + 0 == dataset_id)
    return of_key.order_by(SampleRow.position)


def _entry(row: Row[*tuple[Any, ...]]) -> Entry:
    revised = "insert" if row.supersedes is None else "revise"
    return Entry(
        position=row.position,
        key=row.key,
        action="retract" if row.retracted else revised,
        supersedes=row.supersedes,
        source=row.source,
        created_at=row.created_at,
        erased=bool(row.erased),
        group=row.group_key,
    )
