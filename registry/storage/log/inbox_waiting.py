"""Rows that wait in an inbox: their ids, their sizes, and their texts.

A tool can insert rows of any size, so a batch is read in three steps. `lock_waiting` locks rows
and counts their bytes as stored, which may be compressed. `measure` computes their sizes as text.
`read_texts` reads those that the caller considers small enough.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    Row,
    Select,
    SQLColumnExpression,
    bindparam,
    case,
    func,
    select,
)
from sqlalchemy.exc import DBAPIError

from registry.samples.keys import LONGEST
from registry.storage.database.models import InboxRow
from registry.storage.log.raw_text import RawText, raw, readable

_ROWS = 1024
"""Rows that one transaction locks, at most."""
_STORED = 4 << 20
"""Bytes as stored, perhaps compressed, of the rows that one transaction measures."""
_TOO_LONG = "54000"
"""PostgreSQL's SQLSTATE (program_limit_exceeded) for a text above its limit of 1 GiB."""
_TEXTS = (InboxRow.key, InboxRow.fields, InboxRow.action, InboxRow.source, InboxRow.group_key)
_WANTED = InboxRow.id.in_(bindparam("ids", expanding=True))


Texts = Row[RawText | None, RawText | None, RawText, RawText | None, RawText | None]
"""The columns of a row that `_TEXTS` names."""


@dataclass(frozen=True)
class RowSize:
    """A row's size as text in bytes, its key, and whether it amends that key's record.

    The key is None where the row has none, or one that is longer than any key may be.
    """

    size: int
    key: str | None
    amends: bool


def lock_waiting(connection: Connection, dataset_id: int) -> tuple[list[int], bool]:
    """Lock the first waiting rows and return their ids, and whether there may be more.

    Rows that another transaction has locked are skipped.
    """
    rows = connection.execute(_stored(connection.dialect.name), {"dataset": dataset_id})
    ids: list[int] = []
    total = 0
    for number, stored in rows:
        total += stored
        if ids and total > _STORED:
            # Rows were not fetched to the end: their result must not stay open.
            rows.close()
            return ids, True
        ids.append(number)
    return ids, len(ids) == _ROWS


def measure(connection: Connection, ids: Sequence[int]) -> dict[int, RowSize]:
    """Return the rows' sizes by id, in the order of their ids.

    A row that PostgreSQL cannot measure, since its text exceeds 1 GiB, has a size of 1 GiB.
    """
    if not ids:
        return {}
    try:
        # A savepoint: an error would otherwise abort the transaction that holds the head's lock.
        with connection.begin_nested():
            rows = connection.execute(_measures(connection.dialect.name), {"ids": ids})
            return {n: RowSize(size, readable(key), amends) for n, size, key, amends in rows}
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _TOO_LONG:
            raise
    # One row is too long, but the error does not say which: each is measured alone.
    if len(ids) == 1:
        return {ids[0]: RowSize(1 << 30, None, amends=False)}
    return {number: row for each in ids for number, row in measure(connection, [each]).items()}


def read_texts(connection: Connection, ids: Sequence[int]) -> list[Texts]:
    """Return the rows' texts unparsed, in descending order of their ids."""
    return list(connection.execute(_texts(connection.dialect.name), {"ids": ids}))


# Cached: SQLAlchemy needs as long to construct such a statement as SQLite to execute it.
@functools.cache
def _stored(dialect: str) -> Select[int, Any]:
    """Select the first waiting rows and their bytes as stored, which needs no decompression."""
    sizes = (func.coalesce(func.pg_column_size(column), 0) for column in _TEXTS)
    size = functools.reduce(operator.add, sizes) if dialect == "postgresql" else _size(dialect)
    return (
        select(InboxRow.id, size)
        .where(InboxRow.dataset_id == bindparam("dataset"), InboxRow.error.is_(None))
        .order_by(InboxRow.id)
        .limit(_ROWS)
        .with_for_update(skip_locked=True)
    )


@functools.cache
def _measures(dialect: str) -> Select[Any]:
    """Select the attributes of `RowSize` for the rows with the given ids."""
    # A key that is too long is not read: only its size is needed to reject the row.
    known = case((_length(InboxRow.key, dialect) <= LONGEST, raw(InboxRow.key, dialect)))
    amends = InboxRow.action == "update"
    return select(InboxRow.id, _size(dialect), known, amends).where(_WANTED).order_by(InboxRow.id)


@functools.cache
def _texts(dialect: str) -> Any:
    texts = (raw(column, dialect).label(column.name) for column in _TEXTS)
    return select(*texts).where(_WANTED).order_by(InboxRow.id.desc())


def _size(dialect: str) -> ColumnElement[int]:
    """Return the sum of the bytes of a row's texts."""
    return functools.reduce(
        operator.add, (func.coalesce(_length(column, dialect), 0) for column in _TEXTS)
    )


def _length(column: SQLColumnExpression[Any], dialect: str) -> ColumnElement[int]:
    # SQLite's length() counts the characters of a text and the bytes of a blob: hence the cast.
    count = func.octet_length if dialect == "postgresql" else func.length
    return count(raw(column, dialect), type_=Integer)
