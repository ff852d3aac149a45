"""Rows of the log by key or position: the revisions of a sample, with what was erased."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, TypeVarTuple

from sqlalchemy import Connection, Row, Select, bindparam, func, select, text, tuple_

from registry.errors import SampleNotFoundError
from registry.storage.database.models import SampleRow
from registry.storage.database.sql import is_any_of
from registry.storage.log.standby import missing_rows

if TYPE_CHECKING:
    from registry.samples.arrays import Positions

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


def missing(connection: Connection, dataset_id: int, key: str, until: int) -> SampleNotFoundError:
    """Return the error that says why a key has no sample before position ``until``."""
    last = latest(connection, dataset_id, key, until)
    if last is None:
        return SampleNotFoundError(key)
    # An erasure appends a retraction, so that only the row before shows whether there was one.
    held = latest(connection, dataset_id, key, until, retracted=False)
    if held is not None and held[0].erased:
        return SampleNotFoundError(key, "it was erased; insert it again if it may be kept")
    return SampleNotFoundError(key, f"it was retracted at position {last[0].position}")


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


LAST = (1 << 63) - 1
"""A position past the end of every log."""


def history(
    connection: Connection, dataset_id: int, key: str, until: int
) -> list[tuple[Entry, bytes | None]]:
    """Return every revision of a key before position ``until``, oldest first.

    The record is None for a retraction and for an erased row.
    """
    revisions = _of_key(select(*_COLUMNS, SampleRow.record), dataset_id, key)
    rows = connection.execute(revisions.where(SampleRow.position < until))
    return [(_entry(row), row.record or None) for row in rows]


def latest(
    connection: Connection, dataset_id: int, key: str, until: int, *, retracted: bool = True
) -> tuple[Entry, bytes | None] | None:
    """Return the newest revision of a key before position ``until``; None if there is none.

    The record is None for a retraction and for an erased row. With ``retracted=False``,
    retractions are passed over.
    """
    columns = (*_COLUMNS, SampleRow.record)
    statement = _newest(connection.dialect.name, columns, retracted=retracted)
    parameters = {"key": key, "dataset": dataset_id, "until": until}
    row = connection.execute(statement, parameters).one_or_none()
    return None if row is None else (_entry(row), row.record or None)


def bucket_of(connection: Connection, dataset_id: int, key: str) -> int | None:
    """Return a key's bucket, or None if the dataset never had the key."""
    # All rows of a key have the same bucket.
    statement = _newest(connection.dialect.name, (SampleRow.bucket,))
    parameters = {"key": key, "dataset": dataset_id, "until": LAST}
    return connection.execute(statement, parameters).scalar_one_or_none()


def entries(connection: Connection, dataset_id: int, after: int, until: int) -> list[Entry]:
    """Return the log's rows at positions ``[after, until)``, in order.

    Raises the error that `missing_rows` returns where one is missing.
    """
    return [_entry(row) for row in rows_at(connection, select(*_COLUMNS), dataset_id, after, until)]


def entries_among(connection: Connection, dataset_id: int, positions: Positions) -> list[Entry]:
    """Return the log's rows at these positions, in any order."""
    wanted = is_any_of(connection, SampleRow.position, positions.tolist())
    rows = connection.execute(
        select(*_COLUMNS).where(SampleRow.dataset_id == dataset_id, wanted)
    ).all()
    if len(rows) != len(positions):
        end = int(positions.max()) + 1
        raise missing_rows(connection, dataset_id, int(positions.min()), end, len(rows))
    return [_entry(row) for row in rows]


def sources_among(
    connection: Connection, dataset_id: int, positions: Positions
) -> list[tuple[str | None, int]]:
    """Return how many of the log's rows at these positions came from each source."""
    wanted = is_any_of(connection, SampleRow.position, positions.tolist())
    query = select(SampleRow.source, func.count()).where(SampleRow.dataset_id == dataset_id, wanted)
    return [(row[0], row[1]) for row in connection.execute(query.group_by(SampleRow.source))]


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


# Cached, since SQLAlchemy needs longer to construct the statement than a database to execute it.
@cache
def _newest(dialect: str, columns: tuple[Any, ...], *, retracted: bool = True) -> Select[Any]:
    """Select the newest row of a key before a position, which is read without the older ones.

    The parameters are ``key``, ``dataset`` and ``until``. With ``retracted=False``, retractions are
    passed over.
    """
    condition = SampleRow.record.is_not(None)
    if dialect == "sqlite":
        # INDEXED BY: SQLite may otherwise search the primary key, which has the order of positions.
        sql = """
            SELECT max(position) AS position FROM samples INDEXED BY ix_samples_key
            WHERE dataset_id = :dataset AND key = :key AND position < :until
        """
        newest = text(sql if retracted else f"{sql} AND {condition}").columns(SampleRow.position)
        return select(*columns).where(
            SampleRow.dataset_id == bindparam("dataset"),
            SampleRow.position == newest.scalar_subquery(),
        )
    # Pairs, and all three columns of the order: only ix_samples_key fits both, so that the planner
    # has no other choice, such as to scan the log in the order of the primary key.
    pair, same = (
        tuple_(SampleRow.key, SampleRow.dataset_id),
        tuple_(bindparam("key"), bindparam("dataset")),
    )
    return (
        select(*columns)
        .where(pair >= same, pair <= same, SampleRow.position < bindparam("until"))
        .where(*(() if retracted else (condition,)))
        .order_by(SampleRow.key, SampleRow.dataset_id, SampleRow.position.desc())
        .limit(1)
    )


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
