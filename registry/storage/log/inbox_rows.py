"""The rows of an inbox, waiting and rejected, as their tool may see them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Cast, ColumnElement, Connection, Integer, case, func, select, union_all

from registry.storage.database.models import InboxRow
from registry.storage.log.inbox_rejected import of_source
from registry.storage.log.raw_text import RawText, raw, readable

LARGEST_READ = 1 << 20
"""Bytes of the largest fields that are read."""
_TOGETHER = 16 << 20
"""Bytes of the fields of all rows that are listed together, after which no row is added."""


@dataclass(frozen=True)
class InboxEntry:
    """A row of the inbox. ``error`` is the reason why it was rejected, None while it waits.

    ``fields`` is JSON as the tool wrote it, which need not be valid. It is None where the row has
    none, or has more of it than was asked for, as ``size`` says: the bytes of the fields as text.
    A size is None where the database would have to unpack too much to tell. ``created_at`` is in
    UTC.
    """

    id: int
    key: str | None
    action: str
    source: str | None
    created_at: datetime
    error: str | None
    size: int | None
    fields: str | None
    group: str | None = None


@dataclass(frozen=True)
class Wanted:
    """Which rows to list: past the id ``after``, at most ``limit``, and of one source if given.

    Fields of more than ``largest`` bytes are not read. With ``waiting`` false, only rejected rows
    are listed.
    """

    after: int = 0
    limit: int = 100
    source: str | None = None
    largest: int = LARGEST_READ
    waiting: bool = True


def listed(connection: Connection, dataset_id: int, wanted: Wanted) -> list[InboxEntry]:
    """Return rows in the order of their ids: at least one if there is any.

    There are fewer than were asked for if the rows are large, so that only an empty list is the
    end.
    """
    sizes = _sizes(connection, dataset_id, wanted)
    total = 0
    ids: list[int] = []
    for number, fields_size in sizes:
        total += fields_size or 0
        if ids and total > _TOGETHER:
            break
        ids.append(number)
    dialect = connection.dialect.name
    texts = (InboxRow.key, InboxRow.action, InboxRow.source, InboxRow.group_key)
    columns = [raw(column, dialect).label(column.name) for column in texts]
    size = _size(dialect)
    fields = case((size <= wanted.largest, raw(InboxRow.fields, dialect))).label("fields")
    rows = connection.execute(
        select(
            InboxRow.id, *columns, InboxRow.created_at, InboxRow.error, size.label("size"), fields
        )
        .where(InboxRow.id.in_(ids))
        .order_by(InboxRow.id)
    )
    return [_entry(row) for row in rows]


def _sizes(
    connection: Connection, dataset_id: int, wanted: Wanted
) -> Sequence[tuple[int, int | None]]:
    """Return ids and, of each, the bytes of its fields that would be read."""
    size = _size(connection.dialect.name)
    # Two queries of one partial index each: no index has both kinds of rows in the order of ids.
    conditions = [InboxRow.error.is_not(None)]
    if wanted.waiting:
        conditions.append(InboxRow.error.is_(None))
    kinds = [
        select(InboxRow.id, case((size <= wanted.largest, size)).label("size"))
        .where(
            InboxRow.dataset_id == dataset_id,
            kind,
            InboxRow.id > wanted.after,
            *of_source(wanted.source),
        )
        .order_by(InboxRow.id)
        .limit(wanted.limit)
        .subquery()
        for kind in conditions
    ]
    both = union_all(*(select(kind.c.id, kind.c.size) for kind in kinds)).subquery()
    rows = connection.execute(
        select(both.c.id, both.c.size).order_by(both.c.id).limit(wanted.limit)
    )
    return [(number, size) for number, size in rows]


def _size(dialect: str) -> ColumnElement[int | None]:
    """Return the bytes of a row's fields as text; NULL if there are none, or it is unknown."""
    text: Cast[Any] = raw(InboxRow.fields, dialect)
    if dialect != "postgresql":
        return func.length(text, type_=Integer)
    # Compressed JSON may unpack to a hundred times as much, and text over 1 GiB is an error.
    return case(
        (
            func.pg_column_size(InboxRow.fields) <= LARGEST_READ,
            func.octet_length(text, type_=Integer),
        )
    )


def _entry(row: Any) -> InboxEntry:
    fields: RawText | None = row.fields
    return InboxEntry(
        row.id,
        readable(row.key),
        readable(row.action) or "",
        readable(row.source),
        row.created_at,
        row.error,
        row.size,
        readable(fields),
        readable(row.group_key),
    )
