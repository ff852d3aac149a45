"""Rows that wait in an inbox: which there are, how large they are, and what they say.

They are measured before they are read: a tool can insert rows of any size.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    Integer,
    LargeBinary,
    Row,
    Select,
    SQLColumnExpression,
    Text,
    bindparam,
    case,
    cast,
    func,
    select,
)
from sqlalchemy.exc import DBAPIError

from registry.samples.keys import LONGEST
from registry.storage.database.models import InboxRow
from registry.storage.log.rejected import shown

_ROWS = 1024
"""Rows that are looked at in one transaction."""
_STORED = 4 << 20
"""Bytes as stored, perhaps compressed, of rows that are measured in one transaction."""
_TOO_LONG = "54000"
"""PostgreSQL's state for text that passes its limit of 1 GiB."""
_TEXTS = (InboxRow.key, InboxRow.fields, InboxRow.action, InboxRow.source)
_KINDS: Mapping[str, Text | LargeBinary] = {"postgresql": Text(), "sqlite": LargeBinary()}
"""As what rows are read as they are: no JSON is parsed, and on SQLite no text taken for UTF-8."""
_WANTED = InboxRow.id.in_(bindparam("ids", expanding=True))


@dataclass(frozen=True)
class Sized:
    """A row's length as text, its key, and whether it amends that key's record."""

    size: int
    key: str | None
    amends: bool


def waiting(connection: Connection, dataset_id: int) -> tuple[list[int], bool]:
    """Lock the first rows that wait and return their ids; tell whether there may be more, too."""
    rows = connection.execute(_stored(connection.dialect.name), {"dataset": dataset_id})
    ids: list[int] = []
    total = 0
    for number, stored in rows:
        total += stored
        if ids and total > _STORED:
            rows.close()
            return ids, True
        ids.append(number)
    return ids, len(ids) == _ROWS


def measured(connection: Connection, ids: Sequence[int]) -> dict[int, Sized]:
    """Return the rows' sizes, in the order of their ids."""
    if not ids:
        return {}
    try:
        with connection.begin_nested():
            rows = connection.execute(_measures(connection.dialect.name), {"ids": ids})
            return {n: Sized(size, shown(key), amends) for n, size, key, amends in rows}
    except DBAPIError as error:
        if getattr(error.orig, "sqlstate", None) != _TOO_LONG:
            raise
    if len(ids) == 1:
        return {ids[0]: Sized(1 << 30, None, amends=False)}
    return {number: row for each in ids for number, row in measured(connection, [each]).items()}


def texts(connection: Connection, ids: Sequence[int]) -> list[Row[Any]]:
    """Return the rows as they are, the last one first."""
    return list(connection.execute(_texts(connection.dialect.name), {"ids": ids}))


# Written once: SQLAlchemy takes as long to put a statement together as SQLite to answer it.
@functools.cache
def _stored(dialect: str) -> Select[int, Any]:
    """Select the first rows that wait, and their bytes as stored: no value is unpacked for that."""
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
    """Select what `Sized` holds of rows, by their ids."""
    key = cast(InboxRow.key, _KINDS[dialect])
    known = case((_length(InboxRow.key, dialect) <= LONGEST, key))
    amends = InboxRow.action == "update"
    return select(InboxRow.id, _size(dialect), known, amends).where(_WANTED).order_by(InboxRow.id)


@functools.cache
def _texts(dialect: str) -> Any:
    texts = (cast(column, _KINDS[dialect]).label(column.name) for column in _TEXTS)
    return select(*texts).where(_WANTED).order_by(InboxRow.id.desc())


def _size(dialect: str) -> ColumnElement[int]:
    """Sum up the bytes of a row's texts."""
    return functools.reduce(
        operator.add, (func.coalesce(_length(column, dialect), 0) for column in _TEXTS)
    )


def _length(column: SQLColumnExpression[Any], dialect: str) -> ColumnElement[int]:
    # SQLite counts the characters of text, and the bytes of a blob.
    count = func.octet_length if dialect == "postgresql" else func.length
    return count(cast(column, _KINDS[dialect]), type_=Integer)
